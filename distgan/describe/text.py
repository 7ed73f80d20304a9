"""A description for people to read."""

from __future__ import annotations

from distgan.describe.description import Description, Growth


def description_text(description: Description) -> str:
    """A description for people."""
    step, memory, run = description.step, description.memory, description.run
    lines = [
        f"{description.name}: images {_shape((description.image['channels'], *2 * (description.image['size'],)))}"
        + (f", labels {description.labels}" if description.labels else "")
    ]
    for role, network in (("generator", description.generator), ("critic", description.critic)):
        lines += ["", f"{role}: {network.name}"]
        rows = [
            (layer.name, layer.type, _shape(layer.output_shape), f"{layer.parameters:,}") for layer in network.layers
        ]
        lines += _table([("layer", "type", "output", "parameters"), *rows])
        lines.append(
            f"  {network.parameters.total:,} parameters, {network.parameters.trainable:,} of them trainable; "
            f"{_flops(network.flops_per_image)} an image, forward"
        )
    updates = f"{step.critic_updates} × critic" + (
        f" + {step.generator_updates} × generator" if step.generator_updates else ""
    )
    if step.micro_batches > 1:
        updates += f", in {step.micro_batches:,} micro-batches each"
    lines += [
        "",
        f"step: {updates}, {step.images:,} images, {_flops(step.flops)}: {_flops(step.flops_per_image)} an image",
        *_stages_text(description.stages),
        "",
        f"memory of a worker, {memory.images:,} images"
        + (f", {memory.images_at_once:,} at a time," if memory.images_at_once < memory.images else "")
        + f" in {memory.precision}",
    ]
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer state": memory.optimizer_state,
        "averages": memory.ema,
        "batch": memory.batch,
        **{f"activations, {side}": size for side, size in memory.activations.items() if size},
        "total": memory.total,
    }
    lines += _table([(name, _bytes(size)) for name, size in parts.items()])
    parts = {
        "those tensors": memory.total,
        "what the C library holds between them": memory.unused,
        "batches read ahead": memory.prefetched,
        "Python, torch and the libraries": memory.process,
        "total": memory.on_cpu,
        "a copy, while a checkpoint is written": memory.checkpoint,
    }
    lines += ["", "memory of its process, on a CPU", *_table([(name, _bytes(size)) for name, size in parts.items()])]
    in_which = " in the last stage" if description.stages else ""
    epochs = (
        f"; {run.steps_per_epoch:,.1f} an epoch of {run.samples:,}{in_which}, {run.epochs:,.1f} epochs"
        if run.samples
        else ""
    )
    if run.steps is None or run.images is None or run.flops is None:
        lines += ["", f"run: {run.epochs:,g} epochs; how many steps these are is known once the shards are there"]
    else:
        lines += ["", f"run: {run.steps:,} steps, {run.images:,} images{epochs}; {_flops(run.flops)}"]
    return "\n".join([*lines, *(f"note: {note}" for note in description.notes)])


def _stages_text(stages: list[Growth]) -> list[str]:
    """The stages of a run that grows, for people."""
    rows: list[tuple[str, ...]] = [("size", "batch", "from step", "images", "fade", "an image", "of the run's FLOPs")]
    for stage in stages:
        rows.append(
            (
                f"{stage.size}×{stage.size}",
                str(stage.batch_size),
                f"{stage.first_step:,}",
                "to the end" if stage.images is None else f"{stage.images:,}",
                f"{stage.fade_images:,}",
                _flops(stage.flops_per_image),
                "" if stage.share is None else f"{stage.share:.1%}",
            )
        )
    return ["", "stages, the step above being one of the last", *_table(rows)] if stages else []


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows in columns, indented; the last column to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if place == len(widths) - 1 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _flops(count: float) -> str:
    return _scaled(count, 1000, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP"))


def _bytes(count: float) -> str:
    return _scaled(count, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def _scaled(count: float, base: int, units: tuple[str, ...]) -> str:
    """A count in the unit that leaves one to four digits before the point."""
    power = 0
    while count >= base and power < len(units) - 1:
        count, power = count / base, power + 1
    return f"{count:,.1f} {units[power]}" if power else f"{count:,.0f} {units[0]}"
