"""Several processes: NCCL, SyncBatchNorm and torchrun."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator

import torch
import torch.distributed as dist

from distgan.bench.sections.base import GOOD, Measurement, Place, Row, little, output_of, shards_of
from distgan.devices import local_device
from distgan.launch.torchrun import GROUP
from distgan.networks import ImageShape, build_networks
from distgan.networks.normalisation import SyncBatchNorm, synchronise
from distgan.spec import load_spec
from distgan.tracking import read_metrics


def measurements(place: Place) -> dict[str, Measurement]:
    """What processes say to each other, and runs of torchrun."""
    on_gpu, steps = local_device().type == "cuda", 3 if place.small else 60

    def train(processes: int) -> Iterator[Row]:
        run, batch = place.folder / f"torchrun-{processes}", 8 if place.small else 128
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
            "-m", "distgan", "train", "dcgan64", "--out", str(run),
            *shards_of(place), *little(place), f"training.batch_size={batch}",
            f"training.images={steps * batch}", "tracking.log_every=1", "tracking.wandb.mode=disabled",
            "training.precision=float32",
        ]  # fmt: skip
        with output_of(command) as lines:
            list(lines)
        found = list(read_metrics(run))
        yield {
            "what": f"{processes} processes of torchrun",
            "found": f"step {found[-1]['step']}, loss/critic {found[-1]['loss/critic']:.6g}",
            GOOD: found[-1]["step"] == steps,
        }

    def sync_batch_norm() -> Iterator[Row]:
        device = local_device()
        address = f"file://{place.folder / 'group'}"
        dist.init_process_group(GROUP if on_gpu else "gloo", init_method=address, rank=0, world_size=1)
        try:
            whole = torch.full((4,), 3.0, device=device)
            dist.all_reduce(whole)
            yield {"what": "all-reduce among one", "found": whole[0].item(), GOOD: whole.tolist() == [3.0] * 4}
            maps, found = torch.randn(16, 8, 4, 4, dtype=torch.float64, device=device), []
            for kind in (torch.nn.BatchNorm2d, SyncBatchNorm):  # torch's own asks nobody where there is one process
                layer = kind(8).to(device, torch.float64)
                given = maps.clone().requires_grad_()
                layer(given).pow(3).sum().backward()
                assert given.grad is not None
                found.append(given.grad)
            apart = ((found[0] - found[1]).abs().max() / found[0].abs().max()).item()
            yield {"what": "distgan's SyncBatchNorm among one: gradients apart", "found": apart, GOOD: apart < 1e-9}
            spec, drawn = load_spec("dcgan64", little(place)), []
            latents = torch.randn(16, spec.model.latent_dim, generator=torch.Generator().manual_seed(0))
            for synchronised in (False, True):
                generator, _ = build_networks(spec.model, ImageShape.of(spec, 3), 0)
                network: torch.nn.Module = generator.to(device, torch.float64)
                if synchronised:
                    network = torch.nn.parallel.DistributedDataParallel(synchronise(network))
                images = network(latents.to(device, torch.float64))
                images.square().mean().backward()
                gradient = next(network.parameters()).grad
                assert gradient is not None
                drawn.append((images.detach().cpu(), gradient.cpu()))
            for what, one, other in zip(("images", "gradients"), *drawn, strict=True):
                apart = ((one - other).abs().max() / one.abs().max()).item()
                yield {
                    "what": f"a generator synchronised, under DDP, among one: {what} apart",
                    "found": apart,
                    GOOD: apart < 1e-9,
                }
        finally:
            dist.destroy_process_group()

    several = [2] if not on_gpu or torch.cuda.device_count() > 1 else []
    return {
        "SyncBatchNorm": sync_batch_norm,
        **{f"torchrun, {processes}": functools.partial(train, processes) for processes in (1, *several)},
    }
