"""What training changes: the two networks, their optimizers, the average, and how far they are."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distgan.checkpoint import GENERATORS, TRACES, Checkpoint, Snapshot, State, save_checkpoint
from distgan.data.conditions import NO_LABELS, LabelDistribution
from distgan.data.noise import Noise
from distgan.data.order import rank_slots
from distgan.networks import ImageShape, build_networks
from distgan.networks.growing import grow, images_before, train_what_is_in_use
from distgan.networks.normalisation import synchronise
from distgan.networks.spectral import spectral_vectors
from distgan.objectives import Batch, Loss, Side, build_game
from distgan.sampling.calibration import BATCHES, calibrate, calibration_inputs
from distgan.spec import RunSpec
from distgan.stages import Stage
from distgan.training.clock import Clock
from distgan.training.compilation import Compilation
from distgan.training.ema import EMA, Traces
from distgan.training.graphs import Descent, Graphs
from distgan.training.micro_batches import add_gradients, check_micro_batches, micro_batch_sizes
from distgan.training.optimizers import build_optimizer, clip_gradients, moving_options, steer
from distgan.training.precision import Precision, lay_out_like
from distgan.training.workers import Workers


class Learner:
    """Everything that a resumed run must find again.

    Args:
        spec: The run.
        image: What the images of the data set are.
        workers: This process and the others, and where it computes.
        labels: How often each label vector occurs in the data, for ``model.condition``.

    Raises:
        InputError: A network or objective that is unknown, wrongly set or does not fit the images.
    """

    def __init__(
        self,
        spec: RunSpec,
        image: ImageShape,
        workers: Workers,
        labels: LabelDistribution = NO_LABELS,
    ) -> None:
        self.spec = spec
        self.image = image
        self.labels = labels
        self.step = 0
        self.rollbacks = self.steps_undone = 0
        self.rate_scale = 1.0
        self.noise_seed = spec.seed
        self.clock = Clock(workers.device)
        self.precision = Precision(spec.training.precision, workers.device)
        self.workers = workers
        self._timetable = spec.timetable
        self.generator, self.critic = (
            self.precision.place(network) for network in build_networks(spec.model, image, spec.seed, self.labels.width)
        )
        model = spec.model
        self._game = build_game(
            spec.objective, self.generator, self.critic, model.latent_dim, model.latent, spec.augmentation
        )
        check_micro_batches(spec, self.generator, self.critic)
        self._vectors = spectral_vectors(self.generator, self.critic)
        self._parameters = {
            "generator": list(self.generator.parameters()),
            "critic": list(self.critic.parameters()),
        }
        self._optimizers = {
            name: build_optimizer(getattr(spec.optimizer, name), parameters)
            for name, parameters in self._parameters.items()
        }
        self._moving = {name: moving_options(getattr(spec.optimizer, name)) for name in self._optimizers}
        self._norms: dict[str, Tensor] = {}
        # Before BatchNorm is synchronised: any process may measure the average's statistics without the others.
        came_in = images_before(self.generator, self._timetable)
        self._ema = EMA(self.generator, spec.training.ema_half_life_images, spec.training.ema_ramp_up, came_in)
        self._traces = Traces(self.generator) if spec.training.keep_traces_every_images else None
        self._averaged_at: int | None = None  # the step that the average's BatchNorm statistics are of
        self._compilation = Compilation(spec, workers, self.generator, self.critic)  # not the average, copied before
        self._forwards: dict[Side, nn.Module] = {side: side for side in self._game if side}
        if workers.world_size > 1:
            synchronise(self.generator)
            synchronise(self.critic)
        self._graphs = Graphs(spec, workers)
        self._ready_for: tuple[Stage, float] | None = None  # the stage and the fade that the networks have
        self._in_use: tuple[Stage, bool] | None = None  # the stage, and whether it fades in
        self._get_ready(0)

    @property
    def images(self) -> int:
        """Real images shown to the critic so far; also the position in the training stream."""
        return self._timetable.images(self.step)

    @property
    def stage(self) -> Stage:
        """The stage of the coming step."""
        return self._timetable.stage(self.step)

    @property
    def slots(self) -> int:
        """How many images of the coming global batch this process computes."""
        self._get_ready(self.step)
        return len(self._slots)

    @property
    def critic_updates(self) -> int:
        """Critic updates done so far, at the beginning of a step."""
        return self.step * self.spec.objective.n_critic

    def crossed(self, images: int | None) -> bool:
        """Whether the last step reached or passed a multiple of so many images; never one of None."""
        return images is not None and self.images // images > self._timetable.images(self.step - 1) // images

    def update_critic(self, real: Batch, repeat: int) -> Loss:
        """One critic update on this process's real images; the ``repeat``-th, from 0, of this step."""
        self._get_ready(self.step)
        update = self.critic_updates + repeat
        images = self._timetable.images(self.step, repeat)
        loss = self._descend(self._game.critic, update, images, real)
        if self.spec.augmentation.target is not None:
            # Whole numbers, whatever the mean's type: their sum is the same for any number of processes.
            signs = self.workers.sum((loss.figures["critic/sign"].double() * self.slots).round())
            self._game.critic.augmentation.adapt(signs, self.stage.batch_size, update + 1, images)
        return loss

    def update_generator(self, real: Batch) -> Loss | None:
        """One generator update, which ends the step.

        Args:
            real: The last batch that the critic has seen.

        Returns:
            None where the critic's update has trained both networks.
        """
        loss = None
        self._get_ready(self.step)
        if self._game.generator:
            loss = self._descend(self._game.generator, self.step, self.images, real)
        images_per_step = self.stage.images_per_step
        self.step += 1
        self._ema.update(self.images, images_per_step)
        if self._traces:
            self._traces.update(self.step)
        return loss

    def gradient_norms(self) -> dict[str, Tensor]:
        """The Euclidean norm of each network's last gradient, before any clipping, on the device."""
        return dict(self._norms)

    def spell_out(self) -> None:
        """Have no CUDA graphs from here on, for whoever wants to watch what an update does."""
        self._graphs.stop()

    def news(self) -> list[str]:
        """What the person watching should hear of the last steps, in sentences; each once."""
        told, self._graphs.news = self._graphs.news, []
        return told + self._compilation.news()

    def learning_rates(self) -> dict[str, float]:
        """Each network's last learning rate."""
        return {name: float(optimizer.param_groups[0]["lr"]) for name, optimizer in self._optimizers.items()}

    def average(self, figures: Tensor) -> Tensor:
        """Figures (…, n) that are means over this process's images, made means over the global batch."""
        return self.workers.sum(figures * (self._share / self.workers.world_size))

    def assemble(self, rows: Tensor, most: int) -> Tensor:
        """The rows (n, …) of all processes in the order of their slots: of the global batch's first so many slots."""
        count = min(most, self._batch_size)
        mine = self._slots < count
        whole = rows.new_zeros((count, *rows.shape[1:]))
        whole[self._slots[mine]] = rows[mine]
        return self.workers.sum(whole)

    def finite(self) -> bool:
        """Whether every weight and statistic of the networks is a finite number. Waits for the device."""
        networks = (self.generator, self.critic, self.averaged_generator())
        tensors = [tensor for network in networks for tensor in network.state_dict().values()]
        return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())

    def averaged_generator(self) -> nn.Module:
        """The EMA generator in evaluation mode, BatchNorm statistics matching. Valid until the next update."""
        if self._averaged_at == self.step:
            return self._ema.network
        self._averaged_at = self.step
        grow(self._ema.network, self._timetable, self._timetable.last(self.step))
        precision, spec = self.precision, self.spec
        inputs = calibration_inputs(spec.model, spec.seed, self.labels, precision.dtype, precision.device)
        with precision.products():
            # Before the first step there is nothing to be exact about, and a person waits for that step.
            return calibrate(self._ema.network, inputs, BATCHES if self.step else 1)

    def set_back(self, rollbacks: int, steps_undone: int, rate_scale: float) -> None:
        """Go on from here with other noise and other learning rates than before.

        Args:
            rollbacks: How often this has been done, this time included.
            steps_undone: How many steps it has undone, all together.
            rate_scale: What the specification's learning rates are multiplied by from now on.
        """
        self.rollbacks, self.steps_undone, self.rate_scale = rollbacks, steps_undone, rate_scale
        digest = hashlib.blake2b(f"{self.spec.seed}/rollback/{rollbacks}".encode(), digest_size=8).digest()
        self.noise_seed = int.from_bytes(digest, "big") >> 1
        self._graphs.forget()

    def snapshot(self, fingerprint: str, wandb_run_id: str | None, guard: Mapping[str, Any] | None = None) -> Snapshot:
        """A copy of all that a checkpoint holds, on the host, to be written while training goes on.

        Args:
            fingerprint: Of the shards.
            wandb_run_id: The run in Weights & Biases, if any.
            guard: What the guard remembers.
        """
        networks = {"generator": self.generator, "generator_ema": self.averaged_generator(), "critic": self.critic}
        files: dict[str, Mapping[str, Tensor]] = {name: network.state_dict() for name, network in networks.items()}
        if self._traces:
            files |= self._traces.tensors()
        if self.spec.augmentation.target is not None:
            files["augmentation"] = self._game.critic.augmentation.tensors()
        state = self._state(fingerprint, wandb_run_id, guard)
        return Snapshot.of(state, self._with_labels(files), self._optimizers, copied=True)

    def save_generator(self, run: Path, fingerprint: str, wandb_run_id: str | None) -> Checkpoint:
        """Write the averaged generator alone into a run's folder; the other arguments are those of :meth:`snapshot`.

        Raises:
            OSError: It could not be written; nothing is left behind.
        """
        files = self._with_labels({"generator_ema": self.averaged_generator().state_dict()})
        return save_checkpoint(run, self._state(fingerprint, wandb_run_id), files, kind=GENERATORS)

    def save_traces(self, run: Path, fingerprint: str, wandb_run_id: str | None) -> Checkpoint:
        """Write what averages are made from later into a run's folder; as :meth:`save_generator`.

        Raises:
            OSError: It could not be written; nothing is left behind.
        """
        assert self._traces is not None
        return save_checkpoint(run, self._state(fingerprint, wandb_run_id), self._traces.tensors(), kind=TRACES)

    def _with_labels(self, files: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Mapping[str, Tensor]]:
        return {**files, "labels": self.labels.tensors()} if self.labels.width else dict(files)

    def _state(self, fingerprint: str, wandb_run_id: str | None, guard: Mapping[str, Any] | None = None) -> State:
        return State(
            step=self.step,
            images=self.images,
            position=self.images,
            spec=self.spec,
            seeds={"noise": self.noise_seed},
            rate_scale=self.rate_scale,
            rollbacks=self.rollbacks,
            steps_undone=self.steps_undone,
            training_seconds=self.clock.seconds,
            guard=dict(guard or {}),
            label_names=self.labels.names,
            channels=self.image.channels,
            fingerprint=fingerprint,
            wandb_run_id=wandb_run_id,
        )

    def load(self, checkpoint: Checkpoint) -> None:
        """Become what a checkpoint of the same specification holds.

        Raises:
            InputError: The checkpoint is damaged.
        """
        checkpoint.load_into(self.generator, "generator")
        checkpoint.load_into(self.critic, "critic")
        checkpoint.load_into(self._ema.network, "generator_ema")
        if self._traces:
            self._traces.load(checkpoint)
        if self.spec.augmentation.target is not None:
            self._game.critic.augmentation.load(checkpoint.tensors("augmentation"))
        for side, optimizer in self._optimizers.items():
            optimizer.load_state_dict(checkpoint.optimizer_state(side))
            for parameter, moments in optimizer.state.items():
                moments.update({name: lay_out_like(moment, parameter) for name, moment in moments.items()})
        state = checkpoint.state
        self.step, self.rollbacks, self.rate_scale = state.step, state.rollbacks, state.rate_scale
        self.steps_undone = state.steps_undone
        self.noise_seed = state.seeds["noise"]
        self.clock.seconds = state.training_seconds
        self._averaged_at = None
        self._graphs.forget()

    def _get_ready(self, step: int) -> None:
        """Have the networks be as a step's images, its fade and its batch want them."""
        stage, fade = self._timetable.stage(step), self._timetable.fade(step)
        if (stage, fade) == self._ready_for:  # without stages always, but for the first time
            return
        self._ready_for = stage, fade
        for network in (self.generator, self.critic):
            grow(network, self._timetable, step)
        if (stage, fade < 1) == self._in_use:
            return
        self._in_use = stage, fade < 1
        for network in (self.generator, self.critic):
            train_what_is_in_use(network)
        self._batch_size = stage.batch_size
        slots = rank_slots(stage.batch_size, self.workers.rank, self.workers.world_size)
        self._slots = torch.from_numpy(slots).to(self.workers.device)
        self._share = len(slots) * self.workers.world_size / stage.batch_size
        self._micro_batches = micro_batch_sizes(slots, stage.batch_size, self.spec.training.accumulate)
        self._graphs.forget()
        if self.workers.world_size > 1:  # anew, so that nobody need look for parameters that have no gradient
            with self._graphs.beside():
                self._forwards = {side: _distributed(side) for side in self._forwards}

    def _descend(self, side: Side, updates: int, images: int, real: Batch) -> Loss:
        """One step of a side down its own loss, after so many updates and images."""
        side.at(updates, images)
        with self._compilation.watched():
            done = self._graphs(side, partial(self._gradients, side), real)
        self._norms |= done.norms
        for name in side.trains:
            spec, optimizer = getattr(self.spec.optimizer, name), self._optimizers[name]
            rate = self.stage.learning_rates.get(name, spec.lr) * self.rate_scale
            steer(optimizer, spec.schedule, self._moving[name], rate, images, updates)
            optimizer.step()
        side.constrain()
        return done.loss

    def _gradients(self, side: Side, real: Batch) -> Descent:
        """Have a side's networks have its loss's gradients, cut as the optimizers want them.

        A CUDA graph may stand for this: what moves in it is :mod:`distgan.moving`, or decides about the side's kind.
        """
        for name in side.trains:
            self._optimizers[name].zero_grad(set_to_none=True)
        with self.precision.products():
            loss = self._add_gradients(side, real)
        clipped = {
            name: clip_gradients(getattr(self.spec.optimizer, name), self._parameters[name]) for name in side.trains
        }
        return Descent(loss, clipped)

    def _add_gradients(self, side: Side, real: Batch) -> Loss:
        """The loss of a side on this process's images; its gradients are added up, micro-batch by micro-batch."""
        forward, sizes = self._forwards[side], self._micro_batches
        losses: list[Loss] = []
        begun = [vector.clone() for vector in self._vectors] if len(sizes) > 1 else []
        for *batch, slots in zip(*(torch.split(tensor, sizes) for tensor in (*real, self._slots)), strict=True):
            last = len(losses) == len(sizes) - 1
            for vector, before in zip(self._vectors, begun, strict=False):  # as if all were dealt with at once
                vector.copy_(before)
            # Processes exchange gradients with the last one, which has the sums.
            with nullcontext() if last or not isinstance(forward, DistributedDataParallel) else forward.no_sync():
                draw = Noise(self.noise_seed, slots, partial(_update_of, side), self.precision.dtype)
                # DistributedDataParallel takes the plain mean over processes.
                weight = len(slots) * self.workers.world_size / self._batch_size
                losses.append(add_gradients(forward, Batch(*batch), draw, self.precision, weight))
        return Loss.of_parts(losses, sizes)


def _update_of(side: Side) -> str:
    """The update that a side's random numbers are of."""
    return f"{side.trains[0]}/{side.updates}"


def _distributed(side: Side) -> nn.Module:
    """A side whose gradients are averaged over all processes as they come, and whose BatchNorm is in step already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch renames broadcast_buffers; both versions are in use
        return DistributedDataParallel(side, broadcast_buffers=False, gradient_as_bucket_view=True)
