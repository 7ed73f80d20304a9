"""Which samples a run trains on, and whether it can."""

from __future__ import annotations

import numpy as np

from distgan.data.order import Ids
from distgan.spec import RunSpec
from shards.errors import InputError
from shards.index import Index


def select_samples(spec: RunSpec) -> tuple[Index, Ids]:
    """Open a run's shards, without reading them, and choose its samples.

    Where the set has a split "train" and ``data.where`` says nothing of splits, the other splits are kept out;
    :func:`split_note` says so.

    Args:
        spec: The run.

    Returns:
        The index, and the ids of the samples that ``data.where`` and ``data.limit`` keep: int64, ascending.

    Raises:
        InputError: The shards are missing, damaged or of another image size, or the batch does not fit them.
    """
    index = Index.load(spec.data.shards)
    kept = _matching(index, spec)
    matching = " that data.where keeps" if spec.data.where else ""
    if _keeps_splits_out(index, spec):
        kept = kept[_to_train_on(index)[kept]]
        matching += " in the split train"
        if not len(kept):
            raise InputError(
                f"data.where: no sample of {index.root} that meets all of {spec.data.where} is in the split train; "
                "ask for less, or choose with data.where.split"
            )
    limit = spec.data.limit
    if limit is not None:
        if limit > len(kept):
            raise InputError(
                f"data.limit is {limit}, but there are only {len(kept)} samples{matching} in {index.root}; "
                f"set it to at most {len(kept)}, or to null for all"
            )
        kept = kept[:limit]
    index.check_files()
    if index.transform.size != spec.data.image_size:
        raise InputError(
            f"data.image_size is {spec.data.image_size}, but the shards in {index.root} hold images of "
            f"{index.transform.size} pixels; set data.image_size={index.transform.size} or pack with "
            f"--size {spec.data.image_size}"
        )
    if spec.data.pyramid and not index.pyramid:
        raise InputError(
            f"data.pyramid is true, but the shards in {index.root} hold no pyramid: pack with distgan shards pack "
            "--pyramid, or leave data.pyramid out, which averages the large images"
        )
    for name, batch_size in spec.batch_sizes.items():
        if batch_size > len(kept):
            raise InputError(
                f"{name} is {batch_size}, but there are only {len(kept)} samples to train on; "
                f"set it to at most {len(kept)}"
            )
        if batch_size % spec.data.lanes:
            raise InputError(f"{name} is {batch_size}, which data.lanes = {spec.data.lanes} does not divide")
    return index, kept


def split_note(index: Index, spec: RunSpec) -> str | None:
    """What :func:`select_samples` has decided about splits by itself, in a sentence; None where that is nothing."""
    if not _keeps_splits_out(index, spec):
        return None
    matching = _matching(index, spec)
    kept = _to_train_on(index)[matching]
    splits = index.split[matching]
    others = [
        f"{name} {count:,}"
        for position, name in enumerate(index.split_names)
        if name != "train" and (count := int((splits == position).sum()))
    ]
    without = int((splits < 0).sum())
    said = f"training on the split train: {int(kept.sum()):,} of {len(matching):,} samples"
    if spec.data.where:
        said += " that data.where keeps"
    if without:
        said += f", {without:,} of them in no split"
    return f"{said}; {' and '.join(others)} are kept out (data.where.split chooses)" if others else None


def _matching(index: Index, spec: RunSpec) -> Ids:
    try:
        return index.select(spec.data.where)
    except InputError as error:
        raise InputError(f"data.where: {error}") from None


def _keeps_splits_out(index: Index, spec: RunSpec) -> bool:
    """Whether only some of the splits are trained on although the specification says nothing of them."""
    return "train" in index.split_names and "split" not in spec.data.where


def _to_train_on(index: Index) -> np.ndarray:
    """Bool (len(index),): the samples of the split train, and those of none."""
    chosen: np.ndarray = np.isin(index.split, [index.split_names.index("train"), -1])
    return chosen
