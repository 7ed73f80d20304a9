"""What a specification asks for, before anything is trained: layers, parameters, FLOPs, memory, steps, options.

The networks and some steps are run on torch's fake tensors, which have shapes and types but no numbers, so that any
size is described in seconds and without its memory.

FLOPs are those of convolutions and matrix products, a multiplication and an addition being two; what else a network
does is little beside them. Memory is what tensors take at the fullest moment of a step, each followed from its making
to its end. On a GPU the driver's context and the libraries' workspaces come on top of it; on a CPU, what is said apart.
Processes on a CPU were found to take 1 to 15 % more than is said of them. While a checkpoint is written the host holds
a copy of the weights, the optimizers' state and the averages.
"""

from __future__ import annotations

import json
import math
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from itertools import zip_longest
from textwrap import wrap
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from distgan.data.conditions import label_names
from distgan.data.noise import Noise
from distgan.data.selection import select_samples, split_note
from distgan.memory import Heap
from distgan.networks import CRITICS, ENCODERS, GENERATORS, ImageShape, build_networks
from distgan.networks.convolutions import take_torchs_own
from distgan.networks.growing import grow, train_what_is_in_use
from distgan.networks.layers import Residual
from distgan.objectives import OBJECTIVES, Batch, Game, Loss, Side, build_game
from distgan.spec import Options, PrecisionName, RunSpec, SideOptimizerSpec, item_of, section_of
from distgan.stages import Stage, Timetable
from distgan.training.complete import complete
from distgan.training.micro_batches import check_micro_batches, micro_batch_note
from distgan.training.optimizers import OPTIMIZERS, build_optimizer, clip_gradients
from distgan.training.precision import Precision
from shards.errors import InputError
from shards.index import Index

CPU = torch.device("cpu")
PROCESS = 584 * 2**20
"""Bytes that a process on a CPU takes beside its tensors: the most that training a network of next to nothing took,
with torch 2.15 for CUDA, which is 33 MiB more than before its first step."""
STEPS = 3
"""After so many the C library's heap hardly grows any more: with ``dcgan64``, by 2 % in five."""

_NAMED: dict[str, tuple[str, Mapping[str, Any]]] = {
    "model.generator": ("name", GENERATORS),
    "model.critic": ("name", {**CRITICS, **ENCODERS}),
    "objective": ("kind", OBJECTIVES),
    "optimizer.generator": ("name", OPTIMIZERS),
    "optimizer.critic": ("name", OPTIMIZERS),
}
"""Sections whose other fields depend on a name: the field of that name, and the registry."""


@dataclass(frozen=True)
class Layer:
    """A layer of a network; its shape is that of its output for one image, (C, H, W) or (C,)."""

    name: str
    type: str
    output_shape: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class Parameters:
    """Numbers in a network: ``total`` counts BatchNorm's statistics, as Keras does."""

    total: int
    trainable: int


@dataclass(frozen=True)
class Network:
    """A network; its FLOPs are those of one image's forward pass."""

    name: str
    layers: list[Layer]
    parameters: Parameters
    flops_per_image: int


@dataclass(frozen=True)
class Step:
    """A step over all workers: critic updates, then a generator update; forward, backward and penalties.

    Of a run that grows, one at the final size. A penalty that is not of every update counts by its share.
    """

    critic_updates: int
    generator_updates: int
    micro_batches: int
    """Of each update's batch."""
    images: int
    critic_update_flops: int
    generator_update_flops: int
    flops: int
    flops_per_image: float


@dataclass(frozen=True)
class Growth:
    """A stage of a run that grows. What its fade costs beside it, which is little, is not counted."""

    size: int
    batch_size: int
    images: int | None
    """None in the last stage of a run whose length depends on a data set that could not be opened."""
    fade_images: int
    first_step: int
    steps: int | None
    flops_per_image: float
    share: float | None
    """Of the whole run's FLOPs."""


@dataclass(frozen=True)
class Memory:
    """Bytes on each worker's device; of a run that grows, in the stage that takes the most."""

    precision: str
    images: int
    """Of each batch: this worker's."""
    images_at_once: int
    """Of each micro-batch: all of them without ``training.accumulate``."""
    weights: int
    gradients: int
    optimizer_state: int
    ema: int
    """Averages of the generator: the EMA and, where they are kept, two traces."""
    batch: int
    activations: dict[str, int]
    """What an update of each side takes at its fullest moment beside all these: what it keeps for the backward pass of
    a micro-batch, what it needs in passing, and the generated images of the updates before."""
    total: int
    """All of these, with the greater of the two sides' activations: what tensors take."""
    unused: int
    """On a CPU: what the C library holds between tensors."""
    prefetched: int
    """Batches that were read ahead, on the host."""
    process: int
    """On a CPU: Python, torch and the libraries, once they have trained a step."""
    on_cpu: int
    """What a worker's process on a CPU takes: ``total`` and the three."""
    checkpoint: int
    """The copy on the host that a checkpoint is written from, for as long as that takes."""


@dataclass(frozen=True)
class Run:
    """The whole run; what depends on the data set is None where that could not be opened."""

    images: int | None
    images_per_step: int
    steps: int | None
    flops: int | None
    samples: int | None
    steps_per_epoch: float | None
    """As ``images_per_step``, of the last stage where the run grows."""
    epochs: float | None


@dataclass(frozen=True)
class Description:
    """What a specification asks for."""

    name: str
    image: dict[str, int]
    labels: int
    """Length of the label vector."""
    generator: Network
    critic: Network
    step: Step
    stages: list[Growth]
    """Empty where the run has one image size."""
    memory: Memory
    run: Run
    notes: list[str]
    """What had to be assumed."""


@dataclass(frozen=True)
class Option:
    """A field of a specification."""

    path: str
    value: Any
    description: str


@dataclass(frozen=True)
class _Data:
    channels: int
    labels: int
    samples: int | None
    notes: list[str]


def describe(spec: RunSpec) -> Description:
    """Describe a run without its data and without computing anything.

    Args:
        spec: The run. Its shards may be missing: then 3 channels are assumed.

    Raises:
        InputError: What training would say of the specification.
    """
    spec = complete(spec)
    return _describe(spec, _data(spec), spec.cluster.most_workers)


def flops_of_step(spec: RunSpec, channels: int, labels: int) -> int:
    """FLOPs of a step of one process; of a run that grows, at the final size.

    Args:
        spec: The run.
        channels: Colour channels of the images.
        labels: Length of the label vector.

    Raises:
        InputError: What training would say of the specification.
    """
    return _describe(complete(spec), _Data(channels, labels, None, []), workers=1).step.flops


def _describe(spec: RunSpec, data: _Data, workers: int) -> Description:
    micro_batches = spec.training.accumulate
    image = ImageShape.of(spec, data.channels)
    # `auto` depends on the device, and a description should not depend on where it is made.
    named: PrecisionName = "float32" if spec.training.precision == "auto" else spec.training.precision
    precision = Precision("float32" if named == "tfloat32" else named, CPU)  # tensors lie in memory alike
    if spec.training.precision == "auto":
        data.notes.append("training.precision is auto: float32 is assumed; try --set training.precision=bfloat16")
    with FakeTensorMode(), _default_dtype(precision.dtype):
        networks = build_networks(spec.model, image, spec.seed, data.labels)
        for network in networks:  # FLOPs and memory as on any device
            take_torchs_own(network)
        game = build_game(spec.objective, *networks, spec.model.latent_dim, spec.model.latent, spec.augmentation)
        check_micro_batches(spec, *networks)
        data.notes.extend([note] if (note := micro_batch_note(spec, *networks)) else [])
        timetable = spec.timetable

        latents, labels = torch.empty(1, spec.model.latent_dim), torch.empty(1, data.labels)
        generator = _network(spec.model.generator.name, networks[0], timetable, lambda size: (latents, labels))
        critic = _network(
            spec.model.critic.name,
            networks[1],
            timetable,
            lambda size: (torch.empty(1, image.channels, size, size), labels),
        )
        kept = {
            "weights": sum(map(_bytes_of, networks)),
            "gradients": sum(parameter.nbytes for network in networks for parameter in network.parameters()),
            "optimizer_state": sum(
                _optimizer_bytes(side, network)
                for side, network in zip((spec.optimizer.generator, spec.optimizer.critic), networks, strict=True)
            ),
            "ema": _bytes_of(networks[0]) * (3 if spec.training.keep_traces_every_images else 1),
        }
        steps, memory = [], []
        for stage in timetable.stages:
            for network in networks:
                grow(network, timetable, stage.faded_in)
                train_what_is_in_use(network)
            images, at_once = (-(-stage.batch_size // parts) for parts in (workers, workers * micro_batches))
            shapes = ((images, image.channels, stage.size, stage.size), (images, data.labels))
            updates = _Updates(spec, game, networks, shapes, at_once, precision, kept["ema"])
            steps.append(_step(stage, workers, micro_batches, *updates.flops))
            batch = sum(torch.empty(shape).nbytes for shape in shapes)
            total = sum(kept.values()) + batch + max(updates.activations.values())
            # Bytes of pixels and labels; one more than wait is in the thread's hands.
            prefetched = (spec.data.prefetch_batches + 1) * sum(map(math.prod, shapes))
            memory.append(
                Memory(
                    named,
                    images,
                    at_once,
                    **kept,
                    batch=batch,
                    activations=updates.activations,
                    total=total,
                    unused=updates.unused,
                    prefetched=prefetched,
                    process=PROCESS,
                    on_cpu=total + updates.unused + prefetched + PROCESS,
                    checkpoint=kept["weights"] + kept["optimizer_state"] + kept["ema"],
                )
            )
    known = spec.in_images(data.samples) if data.samples else spec
    run, stages = _run(known, steps, data.samples)
    data.notes.extend([known.cut_short] if known.cut_short else [])
    return Description(
        spec.name,
        {"channels": image.channels, "size": image.size},
        data.labels,
        generator,
        critic,
        steps[-1],
        stages if image.smaller else [],
        max(memory, key=lambda each: each.total),
        run,
        data.notes,
    )


def _step(stage: Stage, workers: int, micro_batches: int, critic_update: int, generator_update: int | None) -> Step:
    """A step of a stage, of FLOPs that updates take on each worker's part of a micro-batch.

    They are None where no generator is updated on its own.
    """
    parts = workers * micro_batches
    flops = parts * (stage.n_critic * critic_update + (generator_update or 0))
    return Step(
        critic_updates=stage.n_critic,
        generator_updates=int(generator_update is not None),
        micro_batches=micro_batches,
        images=stage.images_per_step,
        critic_update_flops=parts * critic_update,
        generator_update_flops=parts * (generator_update or 0),
        flops=flops,
        flops_per_image=flops / stage.images_per_step,
    )


def _run(spec: RunSpec, each: list[Step], samples: int | None) -> tuple[Run, list[Growth]]:
    """The whole run and its stages, of a step of each."""
    timetable, images = spec.timetable, spec.training.images
    ends = [stage.first_step for stage in timetable.stages[1:]]
    steps = spec.steps if images else None
    if steps is not None:
        ends = [min(end, steps) for end in (*ends, steps)]
    counts = [max(end - stage.first_step, 0) for stage, end in zip(timetable.stages, ends, strict=False)]
    flops = sum(count * step.flops for count, step in zip(counts, each, strict=True)) if images else None
    stages = [
        Growth(
            size=stage.size,
            batch_size=stage.batch_size,
            images=None if count is None else count * stage.images_per_step,
            fade_images=stage.fade_images,
            first_step=stage.first_step,
            steps=count,
            flops_per_image=step.flops_per_image,
            share=count * step.flops / flops if count is not None and flops else None,
        )
        for stage, step, count in zip_longest(timetable.stages, each, counts)
    ]
    per_step = timetable.stages[-1].images_per_step
    run = Run(
        images=images,
        images_per_step=per_step,
        steps=steps,
        flops=flops,
        samples=samples,
        steps_per_epoch=samples and samples / per_step,
        epochs=images / samples if images and samples else spec.training.epochs,
    )
    return run, stages


def options(spec: RunSpec) -> list[Option]:
    """Every field of a specification, with its value, its default included, and what it means.

    Of a section that is unset, the fields are there too, without a value.

    Raises:
        InputError: An unknown network, objective or optimizer, or a wrong option of one.
    """
    return list(_options(RunSpec, complete(spec), ""))


def schema() -> dict[str, Any]:
    """The JSON schema of a specification, with the options of every network, objective and optimizer, for editors."""
    tree = RunSpec.model_json_schema()
    definitions = tree["$defs"]
    for path, (key, registry) in _NAMED.items():
        section, _, field = path.partition(".")
        holder = definitions[_reference(tree["properties"][section])]["properties"] if field else tree["properties"]
        declared = holder[field or section]
        common = definitions[_reference(declared)]
        default = common["properties"][key]["default"]
        del declared["$ref"]
        declared["anyOf"] = [
            _variant(common, key, name, default, entry.options.model_json_schema(), definitions)
            for name, entry in registry.items()
        ]
    for name in ("NetworkSpec", "ObjectiveSpec", "SideOptimizerSpec"):  # each has become its variants
        del definitions[name]
    return tree


def to_json(answer: Description | list[Option]) -> str:
    """A description, or options, as one JSON document."""
    return json.dumps([asdict(option) for option in answer] if isinstance(answer, list) else asdict(answer))


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


def options_text(found: list[Option]) -> str:
    """Options for people."""
    lines: list[str] = []
    for option in found:
        value = "unset" if option.value is None else json.dumps(option.value, ensure_ascii=False)
        lines.append(f"{option.path}: {value}")
        lines += wrap(" ".join(option.description.split()), 100, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def _data(spec: RunSpec) -> _Data:
    """What the networks must know of the data set."""
    try:
        Index.load(spec.data.shards)
    except InputError as error:
        condition = spec.model.condition
        notes = [f"3 channels are assumed: {error}"]
        if condition and condition.classes:
            notes.append("model.condition.classes: how many there are is not known; they are left out")
        return _Data(3, len(condition.attributes) if condition else 0, None, notes)
    index, kept = select_samples(spec)
    note = split_note(index, spec)
    names = label_names(spec.model.condition, index)
    return _Data(index.transform.channels, len(names), len(kept), [note] if note else [])


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make new networks and tensors of a type: fake networks cannot be converted."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class _FLOPs(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts, of backward passes too; torch's own FlopCounterMode cannot within a gradient of a gradient."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            return out
        if func._overloadpacket is torch.ops.aten.convolution_backward:
            # torch takes the weights' gradient for that of one group, where each of them has its own channels alone.
            *shape, groups, (of_input, of_weights, of_bias) = args
            self.total += formula(*shape, groups, [of_input, False, of_bias], out_val=out)
            self.total += formula(*shape, groups, [False, of_weights, of_bias], out_val=out) // groups
        else:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def _network(
    name: str, network: nn.Module, timetable: Timetable, inputs: Callable[[int], tuple[Tensor, Tensor]]
) -> Network:
    """Describe a network by what it does to one image (or latent) and its labels, given for an image size."""
    shapes: dict[str, tuple[int, ...]] = {}
    layers = dict(_layers(network))

    def note_shape(layer: str) -> Any:
        return lambda module, arguments, output: shapes.update({layer: tuple(output.shape[1:])})

    hooks = [layer.register_forward_hook(note_shape(name)) for name, layer in layers.items()]
    network.eval()  # one image has no variance, and dropout nothing to draw from
    flops = 0
    for stage in timetable.stages:  # the final size comes last
        grow(network, timetable, stage.faded_in)
        with torch.no_grad(), _FLOPs() as counted:  # type: ignore[no-untyped-call]
            network(*inputs(stage.size))
        flops = counted.total
    network.train()
    for hook in hooks:
        hook.remove()
    rows = [
        Layer(each, type(layer).__name__, shapes[each], _count(layer).total)
        for each, layer in layers.items()
        if each in shapes
    ]
    return Network(name, rows, _count(network), flops)


def _layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers by name: what is in a sequence or a residual block, and what is of a class of its own."""
    for name, child in network.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleDict | Residual):
            yield from ((f"{name}.{inner}", layer) for inner, layer in _layers(child))
        else:
            yield name, child


def _count(module: nn.Module) -> Parameters:
    trainable = sum(parameter.numel() for parameter in module.parameters())
    # Keras has no counter of batches, torch's only statistic that is no floating point number.
    statistics = sum(buffer.numel() for buffer in module.buffers() if buffer.is_floating_point())
    return Parameters(trainable + statistics, trainable)


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages of tensors from their making until nobody holds them any more.

    Args:
        known: What is there already.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        """Bytes of what was made since and is alive, and the most that it was."""
        self.heap = Heap()
        self._storages: dict[int, Any] = {}
        for tensor in known:
            self._meet(tensor)
        self.known, self.now, self.peak = self.now, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.prim.device.default:  # which fake tensors are asked more often than anything else
            return out
        for each in tree_iter(out):
            if isinstance(each, Tensor):
                self._meet(each)
        copies: list[Tensor] = []  # of weights, and of their gradient, in the layout that the convolution wants
        if func._overloadpacket is torch.ops.aten.convolution:
            copies = [args[1]]
        elif func._overloadpacket is torch.ops.aten.convolution_backward:
            copies = [args[2]] + ([out[1]] if out[1] is not None else [])
        for block in [self.heap.take(copy.nbytes) for copy in copies]:
            self.heap.give_back(block)
        return out

    def _meet(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages or not size:
            return
        block = self.heap.take(size)

        def gone(_: object) -> None:
            del self._storages[key]
            self.heap.give_back(block)
            self.now -= size

        self._storages[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


class _Updates:
    """Some steps of a stage on fake tensors, in the order and with what is held meanwhile as in training: their cost.

    Args:
        spec: The run.
        game: Its sides.
        networks: The generator and the critic.
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
        self._spec, self._precision, self._at_once = spec, precision, at_once
        self._parameters = {
            name: list(network.parameters()) for name, network in zip(("generator", "critic"), networks, strict=True)
        }
        self._optimizers = {
            name: build_optimizer(getattr(spec.optimizer, name), parameters)
            for name, parameters in self._parameters.items()
        }
        for optimizer in self._optimizers.values():
            optimizer.zero_grad(set_to_none=True)  # those of an earlier stage
        every = spec.objective.rest.get("penalty_every", 1)
        critic_updates = 1 if spec.objective.n_critic == every == 1 else 2  # more are as the second is
        sides = [("critic", game.critic, update) for update in range(critic_updates)]
        sides += [("generator", game.generator, 0)] if game.generator else []
        peaks = {"critic": 0, "generator": 0}
        flops: list[int] = []
        here = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
        here.append(torch.empty(averages, dtype=torch.uint8))
        held: dict[str, Loss] = {}  # as the loop does, with the images that were generated
        with _Alive(here) as alive:
            for step in range(STEPS):
                for name, side, update in sides:
                    if name == "critic":
                        real = Batch(*(torch.empty(shape) for shape in shapes))
                    alive.peak = alive.now
                    # The first has the penalties; at 0 images a weight may still be 0.
                    side.at(update, 1)
                    with _FLOPs() if step == 0 else nullcontext() as counted:  # type: ignore[no-untyped-call]
                        held[name] = self._descend(side, real)
                    peaks[name] = max(peaks[name], alive.peak)
                    flops += [counted.total // self._passes(real)] if counted else []
            stated = sum(tensor.nbytes for tensor in (*real, *self._tensors()))
        of_critic = flops[0] if every == 1 else round((flops[0] + (every - 1) * flops[1]) / every)
        self.flops = of_critic, flops[-1] if game.generator else None
        """Of the critic's mean update and of the generator's, for a micro-batch."""
        self.activations = {side: max(peak - stated, 0) for side, peak in peaks.items()}
        """Bytes: as in :class:`Memory`."""
        self.unused = max(alive.heap.peak - alive.known - max(peaks.values()), 0)
        """Bytes: as in :class:`Memory`."""

    def _tensors(self) -> Iterator[Tensor]:
        """All gradients and all that optimizers remember. After a step gradients are there."""
        for name, optimizer in self._optimizers.items():
            yield from (each.grad for each in self._parameters[name] if each.grad is not None)
            for state in optimizer.state.values():
                yield from (each for each in state.values() if isinstance(each, Tensor))

    def _passes(self, real: Batch) -> int:
        """How many micro-batches are dealt with: more are as the second is."""
        return min(-(-len(real.images) // self._at_once), 2)

    def _descend(self, side: Side, real: Batch) -> Loss:
        """One update, as :class:`~distgan.training.learner.Learner` does it."""
        for name in side.trains:
            self._optimizers[name].zero_grad(set_to_none=True)
        parts = -(-len(real.images) // self._at_once)
        losses = [self._add_gradients(side, real) for _ in range(self._passes(real))]
        losses += [losses[0]._replace(fake=torch.empty_like(losses[0].fake)) for _ in range(parts - len(losses))]
        for name in side.trains:
            clip_gradients(getattr(self._spec.optimizer, name), self._parameters[name])
            self._optimizers[name].step()
        side.constrain()
        return Loss.of_parts(losses, [self._at_once] * parts)

    def _add_gradients(self, side: Side, real: Batch) -> Loss:
        """Those of a micro-batch."""
        draw = Noise(0, torch.arange(self._at_once), "description", self._precision.dtype)
        with self._precision.autocast():
            loss: Loss = side(Batch(*(tensor[: self._at_once] for tensor in real)), draw)
        loss.value.backward()  # type: ignore[no-untyped-call]
        return loss._replace(value=loss.value.detach())


def _bytes_of(network: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))


def _optimizer_bytes(spec: SideOptimizerSpec, network: nn.Module) -> int:
    """What an optimizer remembers, found out with a weight of two elements: some of it is as large as the weight."""
    probe = nn.Parameter(torch.zeros(2))
    probe.grad = torch.zeros(2)
    optimizer = build_optimizer(spec, [probe])
    optimizer.step()
    state = [tensor for tensor in optimizer.state[probe].values() if isinstance(tensor, Tensor)]
    copies = sum(tensor.shape == probe.shape for tensor in state)
    beside = sum(tensor.nbytes for tensor in state if tensor.shape != probe.shape)
    return sum(copies * parameter.nbytes + beside for parameter in network.parameters())


def _options(model: type[Options], value: Options | None, path: str) -> Iterator[Option]:
    """The fields of a section and, below them, of its sections; of a list of sections, those of one, without values."""
    fields = dict(model.model_fields)
    key, registry = _NAMED.get(path, ("", {}))
    if registry:
        fields |= registry[getattr(value, key)].options.model_fields
    tree = {} if value is None else value.model_dump(mode="json")
    for name, field in fields.items():
        here = f"{path}.{name}" if path else name
        inner = section_of(field.annotation)
        if inner is not None and issubclass(inner, Options):
            yield from _options(inner, getattr(value, name, None), here)
        else:
            names = f" One of {', '.join(registry)}." if name == key else ""
            # Docstrings are written for Sphinx.
            plain = re.sub(r":\w+:`([^`]*)`", r"\1", field.description or "").replace("``", "`")
            yield Option(here, tree.get(name), plain + names)
            item = item_of(field.annotation)
            if item is not None and issubclass(item, Options):
                yield from _options(item, None, f"{here}.N")


def _reference(node: Mapping[str, Any]) -> str:
    """The definition that a node of a schema refers to."""
    return str(node["$ref"]).rpartition("/")[2]


def _variant(
    common: Mapping[str, Any],
    key: str,
    name: str,
    default: str,
    own: dict[str, Any],
    definitions: dict[str, Any],
) -> dict[str, Any]:
    """The schema of a section under one of the names that it can have; the default name may be left out."""
    definitions.update(own.pop("$defs", {}))
    named = {"const": name, "description": common["properties"][key]["description"]}
    return {
        "title": name,
        "description": own.get("description", ""),
        "type": "object",
        "properties": {**common["properties"], **own["properties"], key: named},
        "required": [] if name == default else [key],
        "additionalProperties": False,
    }


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
