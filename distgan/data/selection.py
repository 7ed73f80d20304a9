"""Which samples a run trains on, and whether it can."""

from __future__ import annotations

from distgan.data.order import Ids
from distgan.spec import RunSpec
from shards.errors import InputError
from shards.index import Index


def select_samples(spec: RunSpec) -> tuple[Index, Ids]:
    """Open a run's shards, without reading them, and choose its samples.

    Args:
        spec: The run.

    Returns:
        The index, and the ids of the samples that ``data.where`` and ``data.limit`` keep: int64, ascending.

    Raises:
        InputError: The shards are missing, damaged or of another image size, or the batch does not fit them.
    """
    index = Index.load(spec.data.shards)
    try:
        kept = index.select(spec.data.where)
    except InputError as error:
        raise InputError(f"data.where: {error}") from None
    limit = spec.data.limit
    if limit is not None:
        if limit > len(kept):
            matching = " that data.where keeps" if spec.data.where else ""
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
    batch_size = spec.training.batch_size
    if batch_size > len(kept):
        raise InputError(
            f"training.batch_size is {batch_size}, but there are only {len(kept)} samples to train on; "
            f"set training.batch_size to at most {len(kept)}"
        )
    if batch_size % spec.data.lanes:
        raise InputError(f"training.batch_size is {batch_size}, which data.lanes = {spec.data.lanes} does not divide")
    return index, kept
