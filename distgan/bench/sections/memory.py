"""What too little memory says."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator

import torch

from distgan.bench.sections.base import CUT_AT, FACES, GOOD, Measurement, Place, Row, output_of, shards_of
from distgan.devices import local_device


def measurements(place: Place) -> dict[str, Measurement]:
    """Runs that do not fit."""

    def too_large(what: str, before: str, *changes: str) -> Iterator[Row]:
        arguments = [
            "train", "dcgan64", "--out", str(place.folder / what.replace(" ", "-")), *shards_of(place), *changes,
            "data.where={split: all}", "training.images=100_000", "tracking.wandb.mode=disabled",
        ]  # fmt: skip
        program = f"import sys; {before}; from distgan.cli import main; sys.argv[1:] = {arguments!r}; main()"
        with output_of([sys.executable, "-c", program], needed=None) as lines:
            output = [line for line in lines if line.strip()]
        text = "\n".join(output)
        first = next((number for number, line in enumerate(output) if line.startswith("error:")), len(output) - 1)
        yield {
            "what": what,
            "exit status": lines.status,
            "said": " ".join(output[first:])[:CUT_AT] if output else "nothing",
            "traceback": "yes" if "Traceback" in text else "no",
            GOOD: lines.status == 1 and "Traceback" not in text and "memory" in text,
        }

    if local_device().type == "cuda":
        ways = [
            ("torch may have 1 GiB", f"torch.cuda.set_per_process_memory_fraction({_share_of_a_gib()})"),
            (
                "1 GiB is free",
                "filler = torch.empty(torch.cuda.mem_get_info()[0] - 2**30, dtype=torch.uint8, device=0)",
            ),
        ]
        batch = f"training.batch_size={FACES}"
        return {what: functools.partial(too_large, what, f"import torch; {how}", batch) for what, how in ways}
    what = "20 GiB of addresses"
    before = "import resource; resource.setrlimit(resource.RLIMIT_AS, (20 << 30, 20 << 30))"
    wide = ("data.image_size=32", "model.generator.width=8192", "training.batch_size=4")  # a layer of 32 GiB
    return {what: functools.partial(too_large, what, before, *wide)}


def _share_of_a_gib() -> float:
    return min(1.0, float(2**30 / torch.cuda.get_device_properties(0).total_memory))
