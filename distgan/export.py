"""A generator for others: as safetensors that distgan reads, or as ONNX that needs neither distgan nor torch."""

from __future__ import annotations

import io
import shutil
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distgan.checkpoint import Checkpoint, save_checkpoint
from distgan.sampling import as_uint8, image_bytes
from distgan.sampling.generator import Generator
from distgan.spec import ClusterSpec, EvaluationSpec, TrackingSpec
from distgan.tracking.card import CARD, model_card, name_of_set
from shards.errors import InputError
from shards.files import ready_or_say, write_atomically, write_or_say

COMPARED = 16
"""Images that are drawn both ways before an ONNX file is written."""
TRACED = 2
"""Images that its graph is made from: of one, the number would be taken for fixed."""
MOST_LEVELS = 1
"""Of 255, by which the two may differ."""


def export_safetensors(checkpoint: Checkpoint, out: Path, *, ema: bool = True) -> None:
    """Write a generator and its model card into a folder that distgan reads as it reads a checkpoint.

    Nothing of the machine that it was trained on is in it: of the shards' path the last name alone, no W&B run, no
    settings of tracking, evaluation and cluster.

    Args:
        checkpoint: Where from.
        out: A new folder.
        ema: The averaged weights, else those that training goes on with.

    Raises:
        InputError: The folder is there and not empty, or cannot be written; or the checkpoint is damaged.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"{out} is not empty: give a new folder")
    ready_or_say(out / CARD)
    state = checkpoint.state
    data = state.spec.data.model_copy(update={"shards": name_of_set(state.spec.data.shards)})
    of_a_machine = {"tracking": TrackingSpec(), "evaluation": EvaluationSpec(), "cluster": ClusterSpec()}
    training = state.spec.training.model_copy(update={"keep_best": None})  # by a score that evaluation says
    spec = state.spec.model_copy(update={"data": data, "training": training, **of_a_machine})
    begun: dict[str, Any] = {"wandb_run_id": None, "guard": {}, "rollbacks": 0, "steps_undone": 0}
    state = state.model_copy(update={"spec": spec, **begun})
    files = {"generator_ema": checkpoint.tensors("generator_ema" if ema else "generator")}
    if state.label_names:
        files["labels"] = checkpoint.tensors("labels")
    use = (
        "```python\nimport distgan  # pip install distgan\n\n"
        f'generator = distgan.load("{out.name}")\n'
        "images = generator.sample(16, seed=7)  # uint8 (16, H, W, C)\n```\n\n"
        f"Or from a shell: `distgan sample {out.name} --out faces.png`. The weights are plain safetensors."
    )
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
            made = save_checkpoint(Path(scratch), state, files)
            with write_atomically(made.path / CARD) as card:
                card.write(model_card(checkpoint, use).encode())
            with suppress(FileNotFoundError):
                out.rmdir()
            shutil.move(made.path, out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from None


def export_onnx(checkpoint: Checkpoint, out: Path, *, ema: bool = True) -> int | None:
    """Write a generator as ONNX, from ``latents`` (N, latent_dim), and ``labels`` (N, K) if conditioned, to ``images``.

    Images are float32 (N, C, S, S) in [-1, 1]; N is any number. Before it is written, some images are drawn both ways
    and compared. The model card lies in the file's metadata.

    Args:
        checkpoint: Where from.
        out: An ``.onnx`` file.
        ema: The averaged weights, else those that training goes on with.

    Returns:
        By how many levels of 255 the images differ at most; None where onnxruntime, which draws the second time, is
        not installed.

    Raises:
        InputError: The packages are missing, the images differ by more than a level, or it cannot be written.
    """
    if out.suffix.lower() != ".onnx":
        raise InputError(f"{out}: give a file that ends in .onnx")
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch.onnx needs it, and says so in a traceback)
    except ImportError as error:
        raise InputError(f"--onnx needs {error.name}: pip install 'distgan[onnx]'") from None
    ready_or_say(out)
    generator = Generator(checkpoint, ema=ema, device="cpu")
    inputs = generator.latents(COMPARED), generator.labels(COMPARED)
    names = ["latents", "labels"] if inputs[1].shape[1] else ["latents"]
    model = generator.module.float()
    some = tuple(each[:TRACED] for each in inputs[: len(names)])
    number = torch.export.Dim("number", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch.onnx thinks of itself
        program = torch.onnx.export(
            model,
            some,
            dynamo=True,
            input_names=names,
            output_names=["images"],
            dynamic_shapes=tuple({0: number} for _ in names),
            verbose=False,
        )
    assert program is not None
    written = program.model_proto
    entry = written.metadata_props.add()
    entry.key, entry.value = "model_card", model_card(checkpoint, _use_of_onnx(out.name, names, generator))
    file = io.BytesIO()
    onnx.save_model(written, file)
    levels = _levels_apart(file.getvalue(), dict(zip(names, inputs, strict=False)), model)
    if levels is not None and levels > MOST_LEVELS:
        raise InputError(f"{out} was not written: its images would differ by {levels} of 255 levels from distgan's")
    write_or_say(out, file.getvalue())
    return levels


def _levels_apart(model: bytes, inputs: dict[str, Tensor], module: nn.Module) -> int | None:
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (theirs,) = session.run(["images"], {name: values.numpy() for name, values in inputs.items()})
    with torch.inference_mode():
        ours = as_uint8(module(*inputs.values())).permute(0, 2, 3, 1).numpy()
    return int(np.abs(image_bytes(torch.from_numpy(theirs)).astype(int) - ours.astype(int)).max())


def _use_of_onnx(name: str, inputs: list[str], generator: Generator) -> str:
    spec = generator.spec
    latents = (
        f"np.random.randn(16, {spec.model.latent_dim})"
        if spec.model.latent == "normal"
        else f"np.random.uniform(-1, 1, (16, {spec.model.latent_dim}))"
    )
    given = [f'"latents": {latents}.astype("float32")']
    if "labels" in inputs:
        given.append('"labels": labels')
    return (
        "```python\nimport numpy as np\nimport onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{name}")\n'
        f'(images,) = session.run(["images"], {{{", ".join(given)}}})\n'
        'pixels = ((images + 1) * 127.5).round().clip(0, 255).astype("uint8")  # (16, C, H, W)\n```'
        + (
            "\n\n`labels` float32 (16, K): 1 or -1 for each attribute, a 1 among 0s for a class."
            if "labels" in inputs
            else ""
        )
    )
