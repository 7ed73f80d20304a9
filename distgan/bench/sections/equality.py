"""The same numbers everywhere: steps computed elsewhere, again and in other precisions."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch

from distgan.bench.sections.base import GOOD, Measurement, Place, Row, little, seeded_batch
from distgan.devices import local_device
from distgan.networks import ImageShape
from distgan.products import has_tf32
from distgan.spec import Switch, load_spec
from distgan.training.learner import Learner
from distgan.training.workers import Workers


class _How(NamedTuple):
    """How steps are computed."""

    device: str
    precision: str
    deterministic: bool = False
    take: int = 0  # so that the same is computed again
    graphs: Switch = "auto"
    compile: Switch = "off"


def measurements(place: Place) -> dict[str, Measurement]:
    """Steps of two recipes on the GPU and on the CPU, twice, in several precisions, with CUDA graphs."""
    here = local_device().type
    steps, batch = (3, 4) if place.small else (20, 16)

    @functools.cache
    def losses(name: str, how: _How) -> torch.Tensor:
        """Losses of the critic's last update and of the generator, float64 (steps, 2)."""
        changes = [*little(place), f"training.precision={how.precision}", f"training.batch_size={batch}"]
        changes += [f"training.graphs={how.graphs}", f"training.compile={how.compile}"]
        spec, device = load_spec(name, changes), torch.device(how.device)
        before = torch.backends.cudnn.deterministic
        torch.backends.cudnn.deterministic = how.deterministic
        try:
            learner, found = Learner(spec, ImageShape.of(spec, 3), Workers.alone(device)), []
            random = torch.Generator().manual_seed(0)
            for _ in range(steps):
                for repeat in range(spec.objective.n_critic):
                    real = seeded_batch(learner, random)
                    critic = learner.update_critic(real, repeat).value
                generator = learner.update_generator(real)
                assert generator is not None
                found.append(torch.stack([critic, generator.value]).detach().double())
            return torch.stack(found).cpu()
        finally:
            torch.backends.cudnn.deterministic = before

    def compare(
        name: str, what: str, one: _How, other: _How, first_within: float | None, all_within: float | None
    ) -> Iterator[Row]:
        """How far losses are apart, as a share of 1 + their size."""
        ours, theirs = losses(name, one), losses(name, other)
        apart = (ours - theirs).abs() / (1 + theirs.abs())
        differing = (ours != theirs).any(1).nonzero().flatten().tolist()
        # Five updates of wgan_gp64's critic come before its generator's first loss.
        first_within, all_within = (
            limit and limit * (5 if name == "wgan_gp64" else 1) for limit in (first_within, all_within)
        )
        first, most = apart[0].max().item(), apart.max().item()
        wanted = [(first, first_within), (most, all_within)]
        yield {
            "recipe": name,
            "what": what,
            "steps": steps,
            "bit for bit": "yes" if not differing else f"until step {differing[0]}",
            "apart at the first step": first,
            "may be": first_within,
            "apart at most": most,
            "may be at most": all_within,
            "last losses": ", ".join(f"{value:.4g}" for value in ours[-1].tolist()),
            **({} if first_within is None else {GOOD: all(a <= limit for a, limit in wanted if limit is not None)}),
        }

    # Rounding grows: in ten steps of dcgan64 a CPU's losses in float32 leave those in float64 by 1e-6, then 1e-3, then
    # 1e-2. So in float32 the first step alone can be wrong, and the CPU's own distance says what is usual later.
    coarse = "tfloat32" if has_tf32(local_device()) else "float32"
    found: dict[str, Measurement] = {}
    for name in ("dcgan64", "wgan_gp64"):
        for what, *arguments in (
            ("float64, GPU and CPU", _How(here, "float64"), _How("cpu", "float64", take=1), 1e-9, 1e-5),
            ("float32 and float64, CPU", _How("cpu", "float32", take=1), _How("cpu", "float64", take=1), 1e-3, None),
            ("float32, GPU and CPU", _How(here, "float32"), _How("cpu", "float32", take=1), 1e-3, None),
            (
                f"{coarse} on GPU, float32 on CPU",
                _How(here, coarse),
                _How("cpu", "float32", take=1),
                1e-2,
                None,
            ),
            ("float32, GPU twice", _How(here, "float32"), _How(here, "float32", take=2), None, None),
            (
                "float32, GPU twice, deterministic cuDNN",
                _How(here, "float32", deterministic=True),
                _How(here, "float32", deterministic=True, take=2),
                None,
                None,
            ),
            ("bfloat16 and float32, GPU", _How(here, "bfloat16"), _How(here, "float32"), 1e-1, None),
            (
                "float32, with CUDA graphs and without, deterministic cuDNN",
                _How(here, "float32", deterministic=True),
                _How(here, "float32", deterministic=True, graphs="off"),
                0.0,
                0.0,
            ),
        ):
            found[f"{name}, {what}"] = functools.partial(compare, name, what, *arguments)
    return found
