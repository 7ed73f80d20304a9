"""Normalisation layers of critics, and BatchNorm over the whole of a batch that several processes share."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Normalisation = Literal["batch", "layer", "instance", "none"]


def normalisation_layer(
    name: Normalisation, channels: int, *, eps: float = 1e-5, momentum: float = 0.1
) -> list[nn.Module]:
    """The layer for maps (N, channels, H, W), each with a scale and a shift for every channel; [] for none.

    ``layer`` normalises each image over channels, height and width (Ba, Kiros and Hinton 2016), ``instance`` over
    height and width (Ulyanov et al. 2016). ``momentum`` is BatchNorm's alone.
    """
    layers: dict[str, list[nn.Module]] = {
        "batch": [nn.BatchNorm2d(channels, eps, momentum)],
        "layer": [nn.GroupNorm(1, channels, eps)],
        "instance": [nn.GroupNorm(channels, channels, eps)],
        "none": [],
    }
    return layers[name]


class SyncBatchNorm(_BatchNorm):
    """BatchNorm whose mean and variance are those of all processes' images, on any device and twice differentiable.

    ``torch.nn.SyncBatchNorm`` refuses the CPU, and its backward cannot be differentiated. In evaluation mode both are
    BatchNorm. Processes may hold different numbers of images.

    The sums are of x − shift, where the shift is the mean over all processes, rounded as it may be: no derivative
    depends on it, and the variance loses no digits where the mean is large (shifted data; Chan, Golub and LeVeque 1983,
    https://doi.org/10.1080/00031305.1983.10483115).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, …), normalised, scaled and shifted."""
        if not self.training and self.track_running_stats:
            return super().forward(x)
        each = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        values = x.to(self.weight.dtype)  # statistics in the weights' own type, also under autocast
        with torch.no_grad():
            count = values.numel() // values.shape[1]
            sums = sum_over_processes(torch.cat([values.sum(each), values.new_tensor([float(count)])]))
            total = sums[-1]
            shift = sums[:-1] / total
        centred = values - shift.view(shape)
        moments = sum_over_processes(torch.stack([centred.sum(each), centred.square().sum(each)])) / total
        mean, variance = moments[0], moments[1] - moments[0].square()
        if self.track_running_stats:
            self._track((shift + mean).detach(), (variance * total / (total - 1)).detach())
        scale = self.weight * (variance + self.eps).rsqrt()
        return ((centred - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, which hold the unbiased variance as BatchNorm's do."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"(N, channels, …) is wanted, not {tuple(x.shape)}")


M = TypeVar("M", bound=nn.Module)


def synchronise(network: M) -> M:
    """Have a network's BatchNorm layers, in place, take their statistics over all processes of the default group.

    On a GPU the layers are torch's own. Parameters and statistics stay the same tensors.

    Args:
        network: Itself not a BatchNorm layer, on the device that it will be used on.
    """
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                on_gpu = child.weight.device.type == "cuda"
                setattr(module, name, _like(child, nn.SyncBatchNorm if on_gpu else SyncBatchNorm))
    return network


def _like(norm: nn.BatchNorm2d, kind: type[_BatchNorm]) -> _BatchNorm:
    """A layer of another kind around the same tensors."""
    layer = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    layer.weight, layer.bias = norm.weight, norm.bias
    layer.running_mean, layer.running_var = norm.running_mean, norm.running_var
    layer.num_batches_tracked = norm.num_batches_tracked
    return layer.train(norm.training)


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of a tensor over all processes, differentiable any number of times.

    If every process goes down the mean of all processes' losses, as DistributedDataParallel has them do, then a
    process's tensor has the sum of all processes' gradients as its own.
    """
    summed: Tensor = _Sum.apply(x)
    return summed


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        summed = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return sum_over_processes(gradient)
