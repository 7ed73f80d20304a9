"""What training changes: the two networks, their optimizers, the average, and how far they are."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from distgan.checkpoint import Checkpoint, State, save_checkpoint
from distgan.data.noise import Noise
from distgan.networks import ImageShape, build_networks
from distgan.objectives import Draw, Loss, Side, build_game
from distgan.sampling import BATCH
from distgan.spec import RunSpec
from distgan.training.ema import EMA
from distgan.training.optimizers import build_optimizer
from distgan.training.precision import Precision


class Learner:
    """Everything that a resumed run must find again.

    Args:
        spec: The run.
        image: What the images of the data set are.
        device: Where to compute.
        slots: int64 (n,): the slots of each global batch that this process computes.

    Raises:
        InputError: A network or objective that is unknown, wrongly set or does not fit the images.
    """

    def __init__(self, spec: RunSpec, image: ImageShape, device: torch.device, slots: Tensor) -> None:
        self.spec = spec
        self.image = image
        self.step = 0
        self.precision = Precision(spec.training.precision, device)
        self._slots = slots.to(device)
        self.generator, self.critic = (
            self.precision.place(network) for network in build_networks(spec.model, image, spec.seed)
        )
        self._game = build_game(spec.objective, self.generator, self.critic, spec.model.latent_dim)
        self._optimizers = {
            "generator": build_optimizer(spec.optimizer.generator, self.generator.parameters()),
            "critic": build_optimizer(spec.optimizer.critic, self.critic.parameters()),
        }
        self._ema = EMA(self.generator, spec.training.ema_half_life_images, spec.training.ema_ramp_up)
        self._averaged_at: int | None = None  # the step that the average's BatchNorm statistics are of

    @property
    def images(self) -> int:
        """Real images shown to the critic so far; also the position in the training stream."""
        return self.step * self.spec.images_per_step

    @property
    def critic_updates(self) -> int:
        """Critic updates done so far, at the beginning of a step."""
        return self.step * self.spec.objective.n_critic

    def crossed(self, images: int) -> bool:
        """Whether the last step reached or passed a multiple of so many images."""
        return self.images // images > (self.images - self.spec.images_per_step) // images

    def update_critic(self, real: Tensor, repeat: int) -> Loss:
        """One critic update on this process's real images (n, C, S, S); the ``repeat``-th, from 0, of this step."""
        return self._descend("critic", self._game.critic, real, self._draw(f"critic/{self.critic_updates + repeat}"))

    def update_generator(self) -> Loss:
        """One generator update, which ends the step."""
        loss = self._descend("generator", self._game.generator, self._draw(f"generator/{self.step}"))
        self.step += 1
        self._ema.update(self.images, self.spec.images_per_step)
        return loss

    def gradient_norms(self) -> dict[str, Tensor]:
        """The Euclidean norm of each side's last gradient, on the device."""
        sides = {"critic": self.critic, "generator": self.generator}
        return {
            name: torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
            for name, network in sides.items()
        }

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
        slots = torch.arange(BATCH, device=self.precision.device)

        def latents(batch: int) -> Tensor:
            noise = Noise(self.spec.seed, slots, f"calibration/{batch}", self.precision.dtype)
            return noise.normal("latent", (self.spec.model.latent_dim,))

        return self._ema.calibrated(latents)

    def save(self, run: Path, fingerprint: str, wandb_run_id: str | None) -> Checkpoint:
        """Write a checkpoint into a run's folder.

        Args:
            run: The run's folder.
            fingerprint: Of the shards.
            wandb_run_id: The run in Weights & Biases, if any.

        Raises:
            OSError: It could not be written; nothing is left behind.
        """
        state = State(
            step=self.step,
            images=self.images,
            position=self.images,
            spec=self.spec,
            channels=self.image.channels,
            fingerprint=fingerprint,
            wandb_run_id=wandb_run_id,
        )
        networks = {"generator": self.generator, "generator_ema": self.averaged_generator(), "critic": self.critic}
        return save_checkpoint(run, state, {k: v.state_dict() for k, v in networks.items()}, self._optimizers)

    def load(self, checkpoint: Checkpoint) -> None:
        """Become what a checkpoint of the same specification holds.

        Raises:
            InputError: The checkpoint is damaged.
        """
        checkpoint.load_into(self.generator, "generator")
        checkpoint.load_into(self.critic, "critic")
        checkpoint.load_into(self._ema.network, "generator_ema")
        for side, optimizer in self._optimizers.items():
            optimizer.load_state_dict(checkpoint.optimizer_state(side))
        self.step = checkpoint.state.step
        self._averaged_at = None

    def _draw(self, update: str) -> Draw:
        return Noise(self.spec.seed, self._slots, update, self.precision.dtype)

    def _descend(self, name: str, side: Side, *inputs: Tensor | Draw) -> Loss:
        """One step of a side down its own loss."""
        optimizer = self._optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        with self.precision.autocast():
            loss: Loss = side(*inputs)
        loss.value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss
