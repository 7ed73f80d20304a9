"""A whole run from shards: stopped and resumed, and again."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import distgan
from distgan.bench.sections.base import GOOD, Measurement, Place, Row, draw_faces, little, shards_of
from distgan.checkpoint import Checkpoint, checkpoints
from distgan.devices import local_device
from distgan.evaluation import pictures
from distgan.sampling import save_grid
from distgan.spec import RunSpec, load_spec
from distgan.tracking import read_metrics


def measurements(place: Place) -> dict[str, Measurement]:
    """A run that is trained through, stopped and resumed, and trained again."""
    small, log_every, steps, at = place.small, *((1, 6, 3) if place.small else (50, 600, 300))
    batch = 8 if small else 128
    if small:
        pictures.PATCHES = 512  # which scores take most of their time for

    def spec() -> RunSpec:
        return load_spec(
            "dcgan64",
            [
                *shards_of(place),
                *little(place),
                f"training.batch_size={batch}",
                f"training.images={steps * batch}",
                f"training.checkpoint_every_images={steps * batch // 3}",
                f"evaluation.every_images={steps * batch // 2}",
                f"evaluation.count={16 if small else 256}",
                "evaluation.metrics=[wasserstein]",
                "evaluation.features=none",
                f"tracking.log_every={log_every}",
                f"tracking.sample_every_images={steps * batch}",
                "tracking.sample_count=16",
                "tracking.wandb.mode=disabled",
            ],
        )

    def whole(name: str) -> Iterator[Row]:
        began = time.perf_counter()
        trained = distgan.train(spec(), out=place.folder / name, console=False)
        yield {"what": "seconds from begin to end", "found": time.perf_counter() - began}
        yield {"what": "ended", "found": trained.ended, GOOD: trained.ended == "finished" and trained.step == steps}
        lines = list(read_metrics(trained.run))
        for key in ("time/images_per_second", "time/data_wait"):
            yield {"what": f"{key}, median of {len(lines)} lines", "found": median(line[key] for line in lines)}
        last = lines[-1]
        shown = ("loss/", "score/", "gpu/", "diversity", "grad_norm/")
        yield from ({"what": key, "found": value} for key, value in last.items() if key.startswith(shown))
        scored = sum(any(key.startswith("score/") for key in line) for line in lines)
        yield {"what": "evaluations", "found": scored, GOOD: scored == 2}

    def resumed() -> Iterator[Row]:
        run = place.folder / "resumed"
        first = distgan.train(spec(), out=run, console=False, on_log=lambda step, figures: step < at)
        yield {"what": "stopped at step", "found": first.step, GOOD: at <= first.step < steps}
        last = distgan.train(spec(), out=run, resume=True, console=False)
        yield {"what": "resumed, ended at step", "found": last.step, GOOD: last.step == steps}
        yield from apart(run, "uninterrupted and resumed", must=local_device().type == "cpu")

    def again() -> Iterator[Row]:
        distgan.train(spec(), out=place.folder / "again", console=False)
        yield from apart(place.folder / "again", "uninterrupted, twice", must=local_device().type == "cpu")

    def apart(run: Path, what: str, *, must: bool) -> Iterator[Row]:
        """How far a run's end is from the uninterrupted one's; whether on this device it must be the same."""
        ours, theirs = (_figures(each) for each in (place.folder / "whole", run))
        differing = [line["step"] for line, other in zip(ours, theirs, strict=True) if line != other]
        ends = [Checkpoint(checkpoints(each)[-1]).tensors("generator") for each in (place.folder / "whole", run)]
        most = max((ends[0][name].double() - ends[1][name].double()).abs().max().item() for name in ends[0])
        size = max(tensor.double().abs().max().item() for tensor in ends[0].values())
        same = most == 0 and not differing
        yield {"what": f"{what}: bit for bit", "found": same, **({GOOD: same} if must else {})}
        yield {"what": f"{what}: first line that differs, step", "found": differing[0] if differing else "none"}
        yield {"what": f"{what}: weights apart at most (of {size:.3g})", "found": most}

    def picture() -> Iterator[Row]:
        generator = distgan.load(place.folder / "whole")
        images, again = (generator.sample(64, seed=7) for _ in range(2))
        save_grid(list(images), place.out / "sample.png")
        yield {"what": "the same seed, the same 64 images", "found": bool((images == again).all())}

    return {
        "shards": functools.partial(draw_faces, place),
        "whole run": functools.partial(whole, "whole"),
        "stop and resume": resumed,
        "the same run again": again,
        "picture": picture,
    }


def _figures(run: Path) -> list[dict[str, float]]:
    """A run's figures, but for those of the clock and of memory."""
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "gpu/"))} for line in read_metrics(run)]
