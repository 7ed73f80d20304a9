"""Normalisation layers, and statistics over the whole of a batch that several processes share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import batch_norm
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
        "batch": [BatchNorm2d(channels, eps, momentum)],
        "layer": [nn.GroupNorm(1, channels, eps)],
        "instance": [nn.GroupNorm(channels, channels, eps)],
        "none": [],
    }
    return layers[name]


class OfBatch(nn.Module):
    """A layer whose output for an image depends on the other images of its batch."""

    parts = 1
    """How many batches of equal size lie one behind the other in what comes in: see :func:`in_parts`."""

    def each(self, of_batch: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """What a function of one batch makes of each, (N, …) to (N, …)."""
        return of_batch(x) if self.parts == 1 else torch.cat([of_batch(batch) for batch in x.chunk(self.parts)])


@contextmanager
def in_parts(network: nn.Module, parts: int) -> Iterator[None]:
    """Have a network take what it is given within the block for so many batches of equal size, one behind the other.

    Each has the statistics of its own, and running ones take them in one after the other: the numbers are those of so
    many passes, at the price of one.
    """
    layers = [module for module in network.modules() if isinstance(module, OfBatch)]
    for layer in layers:
        layer.parts = parts
    try:
        yield
    finally:
        for layer in layers:
            layer.parts = 1


class BatchNorm2d(OfBatch, nn.BatchNorm2d):
    """torch's, which may have several batches to normalise."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's own name of it)
        """Maps (N, channels, H, W), normalised, scaled and shifted."""
        return self.each(super().forward, input)


class PixelNorm(nn.Module):
    """Every pixel's vector brought to mean square 1: x / √(mean over channels of x² + 10⁻⁸).

    Karras et al. 2018, https://arxiv.org/abs/1710.10196, section 4.2.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Vectors or maps (N, C, …), each vector of C normalised."""
        values = _exact(x)
        return (values * (values.square().mean(1, keepdim=True) + 1e-8).rsqrt()).to(x.dtype)


class MinibatchStddev(OfBatch):
    """Appends how much the images of a batch differ, as one more channel (Karras et al. 2018, section 3).

    For each channel and place, σ = √(variance over the batch + 10⁻⁸); the mean of all σ is one number, and the same
    for every pixel of every image. The batch is what a critic judges at once, over all processes: real and generated
    images apart, unless an objective judges them in one batch. The paper's code takes groups of four images.

    With this layer an image's output depends on the other images. The slope that a gradient penalty takes is that of
    the sum of all outputs of the batch in each image, as the paper's WGAN-GP has it.
    """

    synchronised = False
    """Whether the batch is that of all processes: see :func:`synchronise`."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C + 1, H, W)."""
        return self.each(self._appended, x)

    def _appended(self, x: Tensor) -> Tensor:
        values = _exact(x)
        variance = _Moments(values, [0]).variance if self.synchronised else values.var(0, correction=0)
        deviation = (variance + 1e-8).sqrt().mean().to(x.dtype)
        count, _, height, width = x.shape
        last = x.is_contiguous(memory_format=torch.channels_last)  # torch.cat does not keep it
        layout = torch.channels_last if last else torch.contiguous_format
        return torch.cat([x, deviation.expand(count, 1, height, width)], dim=1).contiguous(memory_format=layout)


class SyncBatchNorm(OfBatch, _BatchNorm):
    """BatchNorm whose mean and variance are those of all processes' images, on any device and twice differentiable.

    ``torch.nn.SyncBatchNorm`` refuses the CPU, and its backward cannot be differentiated. In evaluation mode both are
    BatchNorm. Processes may hold different numbers of images. They exchange one tensor forward and one backward, also
    for several batches.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, …), normalised, scaled and shifted."""
        if not self.training and self.track_running_stats:
            return super().forward(x)
        normalised, count, means, variances = _Normalise.apply(x, self.weight, self.bias, self.eps, self.parts)
        if self.track_running_stats:
            for mean, variance in zip(means, variances, strict=True):
                self._track(mean, variance * (count / (count - 1)))
        result: Tensor = normalised
        return result

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


class _TorchSyncBatchNorm(OfBatch, nn.SyncBatchNorm):
    """torch's, for a GPU."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Maps (N, channels, H, W), normalised, scaled and shifted."""
        return self.each(super().forward, input)


class _Normalise(torch.autograd.Function):
    """What :class:`SyncBatchNorm` does in training, in few passes over the maps, by kernels that BatchNorm has.

    Where somebody wants the gradient of its gradient, backward takes the way of :func:`_normalised`, which autograd
    follows.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, parts: int) -> tuple[Tensor, ...]:
        """The normalised maps; the count of values in a batch, scalar; means and biased variances (parts, channels)."""
        batches = x.chunk(parts)
        found = [torch.batch_norm_update_stats(x, torch.zeros_like(bias), torch.ones_like(bias), 0.0) for x in batches]
        # In float64: squares of means would lose digits below.
        own_means, own_variances = (torch.stack(each).double() for each in zip(*found, strict=True))
        own_count = own_means.new_full((1,), batches[0].numel() // x.shape[1])
        squares = own_variances + own_means.square()
        sums = sum_over_processes(torch.cat([torch.stack([own_means, squares]).flatten() * own_count, own_count]))
        means, squares = (sums[:-1] / sums[-1]).view(2, parts, -1)
        variances = (squares - means.square()).clamp(min=0)
        count, means, variances = (each.to(weight.dtype) for each in (sums[-1], means, variances))
        ctx.save_for_backward(x, weight, bias, count, means, variances)
        ctx.eps = eps
        ctx.mark_non_differentiable(count, means, variances)
        normalised = [
            batch_norm(x, mean, variance, weight, bias, eps=eps)
            for x, mean, variance in zip(batches, means, variances, strict=True)
        ]
        return _joined(normalised), count, means, variances

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """With x̂ the normalised and N values in all: weight/σ · (g − Σg/N − x̂ · Σ(g·x̂)/N), sums over all processes."""
        x, weight, bias, count, means, variances = ctx.saved_tensors
        parts = len(means)
        if torch.is_grad_enabled():
            wanted = [tensor for tensor, needed in zip((x, weight, bias), ctx.needs_input_grad, strict=False) if needed]
            normalised = torch.cat([_normalised(batch, weight, bias, ctx.eps) for batch in x.chunk(parts)])
            grads = iter(torch.autograd.grad(normalised, wanted, gradient, create_graph=True))
            return *(next(grads) if needed else None for needed in ctx.needs_input_grad[:3]), None, None
        inverses = (variances + ctx.eps).rsqrt()
        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        gradient = gradient.contiguous(memory_format=layout)
        batches = list(zip(x.chunk(parts), gradient.chunk(parts), means, inverses, strict=True))
        sums = torch.stack(
            [
                torch.stack(
                    torch.ops.aten.native_batch_norm_backward(
                        slope, batch, weight, mean, mean, mean, inverse, True, ctx.eps, [False, True, True]
                    )[1:]
                )
                for batch, slope, mean, inverse in batches
            ]
        )
        of_weight, of_bias = sums.sum(0)
        of_x = None
        if ctx.needs_input_grad[0]:
            shares = sum_over_processes(sums) / count
            of_x = _joined(
                [
                    _of_input(batch, slope, mean, weight * inverse, inverse, *share)
                    for (batch, slope, mean, inverse), share in zip(batches, shares, strict=True)
                ]
            )
        return of_x, of_weight, of_bias, None, None


def _of_input(
    x: Tensor, gradient: Tensor, mean: Tensor, scale: Tensor, inverse: Tensor, along: Tensor, level: Tensor
) -> Tensor:
    """The slope scale · (g − level − x̂ · along): two linear maps of each channel, which evaluation's BatchNorm does."""
    zero, one = torch.zeros_like(mean), torch.ones_like(mean)
    of_x = batch_norm(gradient, zero, one, scale, -scale * level, eps=0.0)
    of_x += batch_norm(x, mean, one, -scale * inverse * along, zero, eps=0.0)
    return of_x


def _joined(batches: list[Tensor]) -> Tensor:
    """One behind the other; one alone is not copied."""
    return batches[0] if len(batches) == 1 else torch.cat(batches)


def _normalised(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """What :class:`_Normalise` gives, by operations that can be differentiated any number of times."""
    shape = [1, -1, *[1] * (x.dim() - 2)]
    found = _Moments(x.to(weight.dtype), [0, *range(2, x.dim())])  # in the weights' own type, also under autocast
    scale = weight * (found.variance + eps).rsqrt()
    centred = found.centred - found.mean.view(shape)
    return (centred * scale.view(shape) + bias.view(shape)).to(x.dtype)


class _Moments:
    """Mean and variance of values over all processes, differentiable any number of times.

    The sums are of x − shift, where the shift is the mean over all processes, rounded as it may be: no derivative
    depends on it, and the variance loses no digits where the mean is large (shifted data; Chan, Golub and LeVeque 1983,
    https://doi.org/10.1080/00031305.1983.10483115).

    Args:
        values: (N, …); processes may hold different numbers of images.
        each: The dimensions that are summed over, 0 among them.

    Attributes:
        count: Values that a mean is of, a scalar.
        centred: values − shift, as values.
        mean: Of those, without these dimensions; 0 but for rounding.
        variance: Likewise, the biased one.
    """

    def __init__(self, values: Tensor, each: list[int]) -> None:
        with torch.no_grad():
            own = values.sum(each, keepdim=True)
            count = values.new_full((1,), values.numel() // own.numel())
            sums = sum_over_processes(torch.cat([own.flatten(), count]))
            self.count = sums[-1]
            shift = (sums[:-1] / self.count).view(own.shape)
        self.centred = values - shift
        sums = sum_over_processes(torch.stack([self.centred.sum(each), self.centred.square().sum(each)]))
        mean, squares = sums / self.count
        self.mean: Tensor = mean
        self.variance: Tensor = squares - mean.square()


def _exact(x: Tensor) -> Tensor:
    """In a type that squares can be summed in, also under autocast."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def has_batchnorm(network: nn.Module) -> bool:
    """Whether what it makes of an image depends on the other images of the batch by BatchNorm."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


M = TypeVar("M", bound=nn.Module)


def synchronise(network: M) -> M:
    """Have a network's layers, in place, take statistics of batches over all processes of the default group.

    These are BatchNorm, which on a GPU becomes torch's own, and the minibatch standard deviation. Parameters and
    running statistics stay the same tensors.

    Args:
        network: Itself not a BatchNorm layer, on the device that it will be used on.
    """
    for module in list(network.modules()):
        if isinstance(module, MinibatchStddev):
            module.synchronised = True
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                on_gpu = child.weight.device.type == "cuda"
                setattr(module, name, _like(child, _TorchSyncBatchNorm if on_gpu else SyncBatchNorm))
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
