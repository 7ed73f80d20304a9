"""A folder of invented faces, laid out as the official CelebA files are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from shards.errors import InputError
from shards.files import write_atomically
from shards.processes import follow_parent, usable_cpus, worker_context
from shards.progress import Progress
from shards.synth.faces import draw_face, landmarks, person
from shards.synth.traits import ATTRIBUTES

IMAGES = "img_align_celeba"
UNFINISHED = "unfinished.json"
"""Lies in the folder while it is being filled; says what with, so that the same command can go on."""
BATCH = 16
"""Faces a process draws at a time: about a fifth of a second, which is how long Ctrl-C may have to wait."""
JPEG_QUALITY = 90
PARTITIONS = (162_770, 19_867, 19_962)
"""How many images of CelebA train, validate and test."""
LANDMARKS = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")

Box = tuple[int, int, int, int]
FACE_BOX: Box = (38, 46, 101, 137)
"""x, y, width, height of the face in an aligned image, which differs too little to be measured for each."""

Row = tuple[list[int], list[int]]
"""The 40 attributes and the 10 landmark coordinates of one face."""


def synthesize(
    out: Path, count: int, seed: int = 0, workers: int | None = None, progress: Progress | None = None
) -> None:
    """Fill a folder with invented faces in CelebA's layout.

    Writes img_align_celeba/000001.jpg … and then, all at once, list_attr_celeba.txt, list_eval_partition.txt,
    list_landmarks_align_celeba.txt, list_bbox_celeba.txt and identity_CelebA.txt. Each face is another person. Image i
    depends on the seed and i alone. A run that was stopped is finished by the same call; what is drawn is not drawn
    again.

    Args:
        out: The folder to fill; it must not exist, be empty, or be what a stopped run with this seed and count left.
        count: How many faces, 1 or more.
        seed: Which faces, 0 … 2**64 - 1.
        workers: How many processes draw; None for one a core, 1 for none but this one.
        progress: Called with (faces done, faces in all).

    Raises:
        InputError: A number is out of range, the folder holds something else, or it cannot be written.
    """
    if count < 1:
        raise InputError(f"count is {count}: ask for at least 1 face")
    if not 0 <= seed < 2**64:
        raise InputError(f"seed is {seed}: it must be between 0 and 2**64 - 1")
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}: at least 1 process must draw")
    try:
        _claim(out, count, seed)
        rows: dict[int, Row] = {}
        for done in _draw(out, count, seed, workers or usable_cpus()):
            rows.update(done)
            if progress is not None:
                progress(len(rows), count)
        for name, lines in _texts([rows[i] for i in range(count)]).items():
            _write(out / name, "".join(f"{line}\n" for line in lines).encode())
        (out / UNFINISHED).unlink()
    except OSError as error:
        raise InputError(f"cannot write the faces to {out}: {error.strerror or error}") from error
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process was killed, most likely for want of memory. What is drawn is kept: the same command "
            "goes on"
        ) from error


def file_name(i: int) -> str:
    """What CelebA calls image i, counted from 0."""
    return f"{i + 1:06d}.jpg"


def _claim(out: Path, count: int, seed: int) -> None:
    """Make sure that the folder is this run's to fill, and leave a note that it is not finished."""
    note = {"count": count, "seed": seed}
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: name a folder that is new or empty")
    if out.exists() and any(out.iterdir()):
        if not (out / UNFINISHED).is_file():
            raise InputError(f"{out} is not empty: name another folder, or remove this one first")
        try:
            found = json.loads((out / UNFINISHED).read_bytes())
        except ValueError:
            found = None
        if found != note:
            raise InputError(
                f"{out} was left unfinished by a run with other numbers ({found}): repeat those to finish it, name "
                "another folder, or remove this one first"
            )
    (out / IMAGES).mkdir(parents=True, exist_ok=True)
    _write(out / UNFINISHED, json.dumps(note).encode())


def _draw(out: Path, count: int, seed: int, workers: int) -> Iterator[dict[int, Row]]:
    """Draw all faces, a batch after the other, in whatever order they get done."""
    batches = [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]
    draw = partial(_draw_batch, out / IMAGES, seed)
    workers = min(workers, len(batches))
    if workers == 1:
        yield from map(draw, batches)
        return
    with ProcessPoolExecutor(workers, worker_context(), initializer=follow_parent) as pool:
        try:
            for batch in as_completed([pool.submit(draw, batch) for batch in batches]):
                yield batch.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _draw_batch(folder: Path, seed: int, batch: Iterable[int]) -> dict[int, Row]:
    """Draw the faces of a batch that are not there yet, and say what is to be said about each."""
    rows = {}
    for i in batch:
        path = folder / file_name(i)
        if _is_whole(path):
            traits = person(seed, i)
            attributes, points = traits.attributes(), landmarks(traits)
        else:
            image, attributes, points = draw_face(seed, i)
            beside = path.with_suffix(".part")
            image.save(beside, "JPEG", quality=JPEG_QUALITY)
            beside.replace(path)
        rows[i] = (list(attributes.values()), [value for name in LANDMARKS for value in points[name]])
    return rows


def _is_whole(path: Path) -> bool:
    """Whether a JPEG lies there from its first marker to its last: a power cut may leave a name without the bytes."""
    if not path.is_file():
        return False
    data = path.read_bytes()
    return data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")


def _texts(rows: list[Row]) -> dict[str, list[str]]:
    """The lines of each text file, spaced as in the official ones."""
    count = len(rows)
    names = [file_name(i) for i in range(count)]
    attributes = [f"{name} " + " ".join(f"{v:2d}" for v in row[0]) for name, row in zip(names, rows, strict=True)]
    points = [
        f"{name} {row[1][0]}" + "".join(f"{v:5d}" for v in row[1][1:]) for name, row in zip(names, rows, strict=True)
    ]
    x, y, width, height = FACE_BOX
    train = round(count * PARTITIONS[0] / sum(PARTITIONS))
    valid = train + round(count * PARTITIONS[1] / sum(PARTITIONS))
    return {
        "list_attr_celeba.txt": [str(count), " ".join(ATTRIBUTES), *attributes],
        "list_eval_partition.txt": [f"{name} {(i >= train) + (i >= valid)}" for i, name in enumerate(names)],
        "list_landmarks_align_celeba.txt": [str(count), " ".join(f"{p}_x {p}_y" for p in LANDMARKS), *points],
        "list_bbox_celeba.txt": [
            str(count),
            "image_id x_1 y_1 width height",
            *(f"{name} {x:5d} {y:3d} {width:3d} {height:3d}" for name in names),
        ],
        "identity_CelebA.txt": [f"{name} {i + 1}" for i, name in enumerate(names)],
    }


def _write(path: Path, data: bytes) -> None:
    with write_atomically(path) as file:
        file.write(data)
