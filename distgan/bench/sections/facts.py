"""The machine."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator

import torch

from distgan.bench.sections.base import Measurement, Place, Row
from distgan.devices import local_device
from distgan.tracking.commit import commit_of_distgan


def measurements(place: Place) -> dict[str, Measurement]:
    """The machine and its software."""

    def software() -> Iterator[Row]:
        on_gpu = local_device().type == "cuda"
        found = {
            "Python": platform.python_version(),
            "system": platform.platform(),
            "distgan's commit": commit_of_distgan() or "not known",
            "torch": torch.__version__,
            "CUDA": torch.version.cuda or "none",
            "cuDNN": torch.backends.cudnn.version() if on_gpu else "none",  # type: ignore[no-untyped-call]
            "NCCL": ".".join(map(str, torch.cuda.nccl.version())) if on_gpu else "none",  # type: ignore[no-untyped-call]
            "TF32 in convolutions of float32": torch.backends.cudnn.allow_tf32,
            "TF32 in matrix products of float32": torch.backends.cuda.matmul.allow_tf32,
            "cores": os.cpu_count(),
            "cores that this may use": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else "not known",
            "threads of torch": torch.get_num_threads(),
        }
        yield from ({"what": name, "found": value} for name, value in found.items())

    def gpus() -> Iterator[Row]:
        yield {"what": "GPUs", "found": torch.cuda.device_count()}
        for number in range(torch.cuda.device_count()):
            of = torch.cuda.get_device_properties(number)
            text = f"{of.name}, {of.total_memory / 2**30:.1f} GiB, capability {of.major}.{of.minor}"
            yield {"what": f"GPU {number}", "found": f"{text}, {of.multi_processor_count} multiprocessors"}

    def driver() -> Iterator[Row]:
        asked = "driver_version,power.limit,clocks.max.sm,memory.used"
        done = subprocess.run(  # noqa: S603
            ["nvidia-smi", f"--query-gpu={asked}", "--format=csv"],  # noqa: S607
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
        names, *lines = (line.split(", ") for line in done.stdout.splitlines())
        for values in lines:
            yield from ({"what": name, "found": value} for name, value in zip(names, values, strict=True))

    on_gpu = local_device().type == "cuda"
    return {"software": software, "GPUs": gpus, **({"driver": driver} if on_gpu else {})}
