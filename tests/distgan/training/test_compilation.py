from __future__ import annotations

import errno
from unittest import mock

import pytest
import torch

from distgan.networks import ImageShape
from distgan.objectives import Batch
from distgan.training.learner import Learner
from distgan.training.workers import Workers
from shards.errors import InputError

CPU = torch.device("cpu")
IMAGE = ImageShape(3, 16)
UNIT = {"kind": "hinge", "r1": 1.0, "penalty_every": 2}


def learner(spec, workers: Workers | None = None) -> Learner:
    return Learner(spec, ImageShape.of(spec, 3), workers or Workers.alone(CPU))


def losses(trainee: Learner, steps: int) -> list[float]:
    found = []
    for number in range(steps):
        random = torch.Generator().manual_seed(number)
        images = (torch.rand(8, 3, 16, 16, generator=random) * 2 - 1).contiguous(memory_format=torch.channels_last)
        real = Batch(images, images.new_zeros(8, 0))
        critic, generator = trainee.update_critic(real, 0), trainee.update_generator(real)
        assert generator is not None
        found += [critic.value.item(), *(figure.item() for figure in critic.figures.values()), generator.value.item()]
    return found


@pytest.mark.slow
def test_compiled_networks_compute_what_is_written(tiny, tmp_path):
    """Penalties and their gradients too, through a critic that is compiled for all else."""
    changes = {"objective": UNIT, "model__critic__normalisation": "layer", "training__precision": "float32"}
    compiled, plain = (learner(tiny(**changes, training__compile=mode)) for mode in ("on", "off"))
    assert losses(compiled, 4) == pytest.approx(losses(plain, 4), rel=1e-4, abs=1e-4)
    (line,) = compiled.news()
    assert line.startswith("torch.compile took ")
    assert float(line.split()[2]) > 0
    assert losses(compiled, 1)
    assert compiled.news() == plain.news() == []
    for one, other in ((compiled.generator, plain.generator), (compiled.critic, plain.critic)):
        assert one.state_dict().keys() == other.state_dict().keys()
    checkpoint = compiled.snapshot("f", None).write(tmp_path)
    plain.load(checkpoint)
    assert compiled.averaged_generator()(torch.zeros(2, 4)).shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training__stages": [{"size": 8, "images": 24}, {"size": 16}]}, r"a run that grows .*training\.stages"),
        (
            {
                "data__image_size": 64,
                "model__critic": {"name": "gan_rmsprop", "width": 2, "dropout": 0.4},
            },
            r"dropout .*model\.critic\.dropout",
        ),
    ],
)
def test_what_cannot_be_compiled_is_said(tiny, changes, said):
    with pytest.raises(InputError, match=rf"^training\.compile is on, but {said}"):
        learner(tiny(training__compile="on", **changes))
    learner(tiny(**changes))


def test_batchnorm_over_several_workers_is_not_compiled(tiny):
    with pytest.raises(InputError, match="several workers"):
        learner(tiny(training__compile="on"), Workers(0, 2, CPU))


def test_without_a_compiler_it_is_said_before_training(tiny, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"no C\+\+ compiler no-such-compiler: install one .*auto or off$"):
        learner(tiny(training__compile="on"))
    assert losses(learner(tiny()), 1)


def test_a_compiler_that_fails_is_said_in_a_line(tiny):
    trainee = learner(tiny(training__compile="on"))
    error = torch._inductor.exc.InductorError(RuntimeError("no room\nand more of it"), None)
    said = r"torch\.compile fails: .*no room: set it to auto or off$"
    with pytest.raises(InputError, match=said), trainee._compilation.watched():
        raise error


def test_what_the_compiler_says_is_said(tiny):
    trainee = learner(tiny(training__compile="on"))
    output = "a.hpp: In function 'f':\n<built-in>: fatal error: when writing a.i: No space left on device\nb: error: c"
    error = torch._inductor.exc.InductorError(torch._inductor.exc.CppCompileError(["g++", "-Werror"], output), None)
    said = r"fails: C\+\+ compile error: <built-in>: fatal error: .*: No space left on device: set it to auto or off$"
    with pytest.raises(InputError, match=said), trainee._compilation.watched():
        raise error


def test_a_cache_that_cannot_be_written_is_said(tiny, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device", "/tmp/cache")
    said = r"^training\.compile is on, but torch\.compile fails: .*/tmp/cache.*: set it to auto or off$"
    trainee = learner(tiny(training__compile="on"))
    with pytest.raises(InputError, match=said), trainee._compilation.watched():
        raise full
    monkeypatch.setattr(torch.nn.Module, "compile", mock.Mock(side_effect=full))
    with pytest.raises(InputError, match=said):
        learner(tiny(training__compile="on"))


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("graphs", ["on", "off"])
def test_a_gpu_s_compiled_networks_compute_what_is_written(tiny, graphs):
    changes = {"objective": UNIT, "model__critic__normalisation": "layer", "training__precision": "float32"}
    gpu = Workers.alone(torch.device("cuda"))
    compiled, plain = (
        learner(tiny(**changes, training__compile=mode, training__graphs=graphs), gpu) for mode in ("on", "off")
    )
    for number in range(8):
        random = torch.Generator().manual_seed(number)
        images = torch.rand(8, 3, 16, 16, generator=random).cuda() * 2 - 1
        real = Batch(images, images.new_zeros(8, 0))
        ours, theirs = (each.update_critic(real, 0).value.item() for each in (compiled, plain))
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-3)
        ours, theirs = (each.update_generator(real).value.item() for each in (compiled, plain))
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-3)
