"""What updates cost: some steps are taken on fake tensors, with all that training holds meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distgan.costs.flops import FLOPs
from distgan.costs.storages import Storages
from distgan.data.noise import Noise
from distgan.objectives import Batch, Game, Loss, Side
from distgan.spec import RunSpec
from distgan.training.micro_batches import add_gradients
from distgan.training.optimizers import build_optimizer, clip_gradients
from distgan.training.precision import Precision

STEPS = 3
"""After so many the C library's heap hardly grows any more: with ``dcgan64``, by 2 % in five."""


class Cost(NamedTuple):
    """What the updates of a step cost a worker."""

    critic_flops: int
    """Of the critic's mean update, for a micro-batch."""
    generator_flops: int | None
    """Likewise of the generator's; None where it is not updated on its own."""
    activations: dict[str, int]
    """Bytes that an update of each side, ``critic`` and ``generator``, takes at its fullest moment, beside the model
    states and the batch; 0 where there is none."""
    unused: int
    """Bytes that the C library holds between tensors on a CPU."""


class Updates:
    """The updates of a worker in one stage of a run, under :func:`~distgan.costs.fake_tensors`.

    Args:
        spec: The run.
        game: Its sides.
        networks: The generator and the critic, grown to the stage.
        shapes: Of this worker's images and of their labels.
        at_once: How many images a micro-batch has.
        precision: Of the run.
        averages: Bytes of the generator's averages.
    """

    def __init__(
        self,
        spec: RunSpec,
        game: Game,
        networks: tuple[nn.Module, nn.Module],
        shapes: tuple[tuple[int, ...], ...],
        at_once: int,
        precision: Precision,
        averages: int,
    ) -> None:
        self._spec, self._game, self._precision = spec, game, precision
        self._networks, self._averages = networks, averages
        self._shapes, self._at_once = shapes, at_once
        self._micro_batches = -(-shapes[0][0] // at_once)
        self._passes = min(self._micro_batches, 2)  # more are as the second is
        self._parameters = {
            name: list(network.parameters()) for name, network in zip(("generator", "critic"), networks, strict=True)
        }
        self._optimizers = {
            name: build_optimizer(getattr(spec.optimizer, name), parameters)
            for name, parameters in self._parameters.items()
        }
        for optimizer in self._optimizers.values():
            optimizer.zero_grad(set_to_none=True)  # those of an earlier stage

    def cost(self) -> Cost:
        """Take some steps, of all updates that differ, and count."""
        every = self._spec.objective.rest.get("penalty_every", 1)
        critic_updates = 1 if self._spec.objective.n_critic == every == 1 else 2  # more are as the second is
        sides = [("critic", self._game.critic, update) for update in range(critic_updates)]
        sides += [("generator", self._game.generator, 0)] if self._game.generator else []
        peaks = {"critic": 0, "generator": 0}
        flops: list[int] = []
        here = [tensor for network in self._networks for tensor in (*network.parameters(), *network.buffers())]
        here.append(torch.empty(self._averages, dtype=torch.uint8))
        held: dict[str, Loss] = {}  # as the loop does, with the images that were generated
        with Storages(here) as storages:
            for step in range(STEPS):
                for name, side, update in sides:
                    if name == "critic":
                        real = Batch(*(torch.empty(shape) for shape in self._shapes))
                    storages.peak = storages.now
                    # The first has the penalties; at 0 images a weight may still be 0.
                    side.at(update, 1)
                    with FLOPs() if step == 0 else nullcontext() as counted:  # type: ignore[no-untyped-call]
                        held[name] = self._descend(side, real)
                    peaks[name] = max(peaks[name], storages.peak)
                    flops += [counted.total // self._passes] if counted else []
            stated = sum(tensor.nbytes for tensor in (*real, *self._tensors()))
        return Cost(
            critic_flops=flops[0] if every == 1 else round((flops[0] + (every - 1) * flops[1]) / every),
            generator_flops=flops[-1] if self._game.generator else None,
            activations={side: max(peak - stated, 0) for side, peak in peaks.items()},
            unused=max(storages.heap.peak - storages.known - max(peaks.values()), 0),
        )

    def _tensors(self) -> Iterator[Tensor]:
        """All gradients and all that optimizers remember. After a step gradients are there."""
        for name, optimizer in self._optimizers.items():
            yield from (each.grad for each in self._parameters[name] if each.grad is not None)
            for state in optimizer.state.values():
                yield from (each for each in state.values() if isinstance(each, Tensor))

    def _descend(self, side: Side, real: Batch) -> Loss:
        """One update, in the order of :class:`~distgan.training.learner.Learner`'s.

        What costs most, forward and backward pass, is one function of both; around it a learner has CUDA graphs, other
        processes and options that move, of which nothing is counted.
        """
        for name in side.trains:
            self._optimizers[name].zero_grad(set_to_none=True)
        losses = [self._add_gradients(side, real) for _ in range(self._passes)]
        left_out = self._micro_batches - self._passes
        losses += [losses[0]._replace(fake=torch.empty_like(losses[0].fake)) for _ in range(left_out)]
        for name in side.trains:
            clip_gradients(getattr(self._spec.optimizer, name), self._parameters[name])
            self._optimizers[name].step()
        side.constrain()
        return Loss.of_parts(losses, [self._at_once] * self._micro_batches)

    def _add_gradients(self, side: Side, real: Batch) -> Loss:
        """Those of a micro-batch."""
        draw = Noise(0, torch.arange(self._at_once), "cost", self._precision.dtype)
        return add_gradients(side, Batch(*(tensor[: self._at_once] for tensor in real)), draw, self._precision)
