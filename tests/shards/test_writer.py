from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import math
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from shards import faces, images, writer
from shards.digests import file_crc32
from shards.errors import InputError
from shards.images import Transform, readable
from shards.index import Index
from shards.reader import Reader
from shards.writer import pack
from tests.shards.conftest import SIZE, TRANSFORM, DyingSource, FakeSource, SlowSource, files_of


class StopError(Exception):
    """What ends a pack in the middle."""


def stop_after(count: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= count:
            raise StopError

    return progress


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes are started however little there is to do."""
    monkeypatch.setattr(writer, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(writer, "WORTH_STARTING_S", 0.0)
    monkeypatch.setattr(writer, "HEAVY_S", math.inf)


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads are started however little there is to do."""
    monkeypatch.setattr(writer, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(writer, "WORTH_STARTING_S", math.inf)
    monkeypatch.setattr(writer, "HEAVY_S", 0.0)


def read_all(root: Path | Index) -> np.ndarray:
    index = root if isinstance(root, Index) else Index.load(root)
    with Reader(index) as reader:
        return reader.read(np.arange(len(index)))


def test_same_bytes_for_any_number_of_processes_and_twice(tmp_path: Path, pristine: Path, at_once: None) -> None:
    report = pack(FakeSource(), tmp_path / "set", TRANSFORM, shard_samples=10, workers=2)
    assert report.skipped == []
    assert files_of(tmp_path / "set") == files_of(pristine)


@pytest.mark.parametrize("workers", [2, 4])
def test_same_bytes_in_threads(tmp_path: Path, pristine: Path, in_threads: None, workers: int) -> None:
    seen: list[tuple[int, int]] = []
    report = pack(
        FakeSource(),
        tmp_path / "set",
        TRANSFORM,
        shard_samples=10,
        workers=workers,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert report.skipped == []
    assert files_of(tmp_path / "set") == files_of(pristine)
    assert seen[-1] == (40, 40)
    assert seen == sorted(seen)


def test_what_fails_in_a_thread_ends_all(tmp_path: Path, pristine: Path, in_threads: None) -> None:
    out = tmp_path / "set"
    with pytest.raises(StopError):
        pack(FakeSource(), out, TRANSFORM, shard_samples=10, workers=3, progress=stop_after(5))
    assert not any("partial" in name for name in files_of(out))
    pack(FakeSource(), out, TRANSFORM, shard_samples=10, workers=3)
    assert files_of(out) == files_of(pristine)


def test_members_in_order_and_owned_by_nobody(pristine: Path) -> None:
    source = FakeSource()
    with tarfile.open(pristine / "shard-000001.tar") as tar:
        members = tar.getmembers()
        contents = [tar.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    names = [f"images/{i:04d}.{extension}" for i in range(10, 20) for extension in ("raw", "cls", "json")]
    assert [member.name for member in members] == names
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime, m.mode) for m in members} == {(0, 0, "", "", 0, 0o644)}
    for i, (raw, label, attributes) in enumerate(zip(*[iter(contents)] * 3, strict=True), start=10):
        assert raw == source.pixels(i).tobytes()
        assert int(label) == i % 3
        assert json.loads(attributes) == dict(zip(source.attribute_names, source.attributes(i).tolist(), strict=True))


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_the_index_says_what_readers_of_tars_find(tmp_path: Path, encoding: str) -> None:
    index = pack(FakeSource(), tmp_path / "set", TRANSFORM, encoding=encoding, shard_samples=10, workers=1).index
    found = []
    for entry in index.shards:
        data = (tmp_path / "set" / entry.url).read_bytes()
        digests = [hashlib.new(name, data).hexdigest() for name in ("md5", "sha256")]
        assert [len(data), *digests] == [entry.filesize, entry.md5sum, entry.sha256]
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                if member.name.endswith(encoding):
                    image = data[member.offset_data : member.offset_data + member.size]
                    found.append((member.name, member.offset_data, member.size, zlib.crc32(image)))
    names = [f"{key.decode()}.{encoding}" for key in index.key]
    assert found == list(zip(names, index.offset.tolist(), index.size.tolist(), index.crc32.tolist(), strict=True))


def test_a_shard_of_many_pieces_has_the_same_bytes(
    tmp_path: Path, pristine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "HAND_ON", 100)
    pack(FakeSource(), tmp_path / "set", TRANSFORM, shard_samples=10, workers=1)
    assert files_of(tmp_path / "set") == files_of(pristine)


@pytest.mark.parametrize("spoilt", [b"", b"{}", None])
def test_a_note_that_a_power_cut_has_spoilt_is_none(
    tmp_path: Path, pristine: Path, spoilt: bytes | None, at_once: None
) -> None:
    out = tmp_path / "set"
    with pytest.raises(StopError):
        pack(FakeSource(), out, TRANSFORM, shard_samples=10, workers=1, progress=stop_after(25))
    note = out / ".pack/shard-000001.json"
    note.write_bytes(note.read_bytes()[:-100] if spoilt is None else spoilt)
    seen: list[int] = []
    pack(FakeSource(), out, TRANSFORM, shard_samples=10, workers=1, progress=lambda done, total: seen.append(done))
    assert seen[0] == 10
    assert files_of(out) == files_of(pristine)


def test_webdataset_s_own_writer_makes_the_same_bytes(tmp_path: Path, pristine: Path) -> None:
    with tarfile.open(pristine / "shard-000001.tar") as tar:
        contents = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]
    with webdataset.TarWriter(
        str(tmp_path / "theirs.tar"), encoder=False, mtime=0, user="", group="", mode=0o644
    ) as theirs:
        for name, data in contents.items():
            key, _, extension = name.partition(".")
            theirs.write({"__key__": key, extension: data})
    assert (tmp_path / "theirs.tar").read_bytes() == (pristine / "shard-000001.tar").read_bytes()


def test_no_labels_and_attributes_where_the_source_has_none(tmp_path: Path) -> None:
    report = pack(FakeSource(3, attribute_names=(), class_names=()), tmp_path / "set", TRANSFORM, workers=1)
    with tarfile.open(tmp_path / "set/shard-000000.tar") as tar:
        assert tar.getnames() == [f"images/{i:04d}.raw" for i in range(3)]
    assert report.index.attributes.shape == (3, 0)
    assert report.index.label.tolist() == [-1, -1, -1]


def test_plain_webdataset_and_a_wids_reader_see_what_the_reader_sees(pristine: Path) -> None:
    index = Index.load(pristine)
    expected = read_all(index)
    urls = [str(pristine / entry.url) for entry in index.shards]
    streamed = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"].encode() for sample in streamed] == index.key.tolist()
    assert [int(sample["cls"]) for sample in streamed] == index.label.tolist()
    assert all(sample["raw"] == expected[i].tobytes() for i, sample in enumerate(streamed))

    document = json.loads((pristine / "index.json").read_text())
    assert (document["__kind__"], document["wids_version"]) == ("wids-shard-index-v1", 1)
    position = 0
    for entry in document["shardlist"]:  # as wids does it: nsamples say in which shard, names group members to samples
        path = pristine / entry["url"]
        assert path.stat().st_size == entry["filesize"]
        with tarfile.open(path) as tar:
            groups = itertools.groupby(tar, key=lambda member: member.name.partition(".")[0])
            shard = [{m.name.partition(".")[2]: tar.extractfile(m).read() for m in group} for _, group in groups]  # type: ignore[union-attr]
        assert len(shard) == entry["nsamples"]
        assert [sample["raw"] for sample in shard] == [expected[position + i].tobytes() for i in range(len(shard))]
        position += len(shard)
    assert position == document["nsamples"] == len(expected)


@pytest.mark.parametrize("encoding", ["raw", "png", "original"])
@pytest.mark.parametrize("kind", ["array", "png"])
@pytest.mark.parametrize("channels", [1, 3])
def test_encodings_that_lose_nothing_read_as_the_transform_gives(
    tmp_path: Path, encoding: str, kind: str, channels: int
) -> None:
    source = FakeSource(5, kind=kind, sizes=(13, 17))
    transform = Transform(SIZE, channels, crop=11, crop_top=1)
    report = pack(source, tmp_path / "set", transform, encoding=encoding, workers=1)
    expected = np.stack([images.apply(source.pixels(i), transform) for i in range(5)])
    assert np.array_equal(read_all(report.index), expected)


def test_jpeg_is_near(tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :64].astype(np.uint8)
    smooth = np.stack([2 * x, 2 * y, x + y], axis=2)

    class Smooth(FakeSource):
        def pixels(self, i: int) -> np.ndarray:
            return smooth

    report = pack(Smooth(2), tmp_path / "set", Transform(64, 3), encoding="jpeg", workers=1)
    assert report.index.extension.tolist() == [b"jpg", b"jpg"]
    assert np.abs(read_all(report.index).astype(int) - smooth).max() <= 8
    with tarfile.open(tmp_path / "set/shard-000000.tar") as tar:
        image = Image.open(io.BytesIO(tar.extractfile("images/0000.jpg").read()))  # type: ignore[union-attr]
    assert [component[1:3] for component in image.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]  # 4:4:4


@pytest.mark.parametrize(
    ("kind", "extension"),
    [
        ("jpeg", "jpg"),
        ("png", "png"),
        ("bmp", "bmp"),
        ("gif", "gif"),
        ("webp", "webp"),
        ("tiff", "tif"),
        ("ppm", "ppm"),
    ],
)
def test_original_keeps_the_bytes(tmp_path: Path, kind: str, extension: str) -> None:
    source = FakeSource(2, kind=kind)
    pack(source, tmp_path / "set", TRANSFORM, encoding="original", workers=1)
    with tarfile.open(tmp_path / "set/shard-000000.tar") as tar:
        found = tar.extractfile(f"images/0001.{extension}").read()  # type: ignore[union-attr]
    assert found == source.sample(1).image


def test_failures_are_named_in_order_and_move_no_other_sample(tmp_path: Path) -> None:
    source = FakeSource(kind="png", broken=frozenset({3, *range(20, 30)}), unreadable=frozenset({12}))
    report = pack(source, tmp_path / "set", TRANSFORM, shard_samples=10, workers=1)
    names, reasons = zip(*report.skipped, strict=True)
    assert names == tuple(source.name(i) for i in (3, 12, *range(20, 30)))
    assert reasons[1] == "Permission denied"
    assert all("image" in reason for reason in (reasons[0], *reasons[2:]))
    assert [entry.nsamples for entry in report.index.shards] == [9, 9, 0, 10]
    good = [i for i in range(40) if source.name(i) not in names]
    assert np.array_equal(read_all(report.index), np.stack([source.pixels(i) for i in good]))
    urls = [str(tmp_path / "set" / entry.url) for entry in report.index.shards]
    assert len(list(webdataset.WebDataset(urls, shardshuffle=False))) == len(good)


def test_nothing_usable_leaves_an_empty_folder(tmp_path: Path) -> None:
    source = FakeSource(5, broken=frozenset(range(5)))
    with pytest.raises(InputError, match=r"none of the 5 images.*images/0\.x"):
        pack(source, tmp_path / "set", TRANSFORM, shard_samples=2, workers=1)
    assert files_of(tmp_path / "set") == {}
    with pytest.raises(InputError, match="no images"):
        pack(FakeSource(0), tmp_path / "other", TRANSFORM)


@pytest.mark.parametrize("key", ["a.b", "", "/a", "__x__/a", "__x__", "ä", "k" * 81])
def test_keys_that_readers_would_miss_are_named(tmp_path: Path, key: str) -> None:
    class OneOdd(FakeSource):
        def sample(self, i: int) -> Any:
            return replace(super().sample(i), key=key) if i == 1 else super().sample(i)

    report = pack(OneOdd(3), tmp_path / "set", TRANSFORM, workers=1)
    assert [name for name, _ in report.skipped] == ["images/1.x"]


@pytest.mark.parametrize(
    ("kind", "extension"),
    [
        ("JPEG", "jpg"),
        ("PNG", "png"),
        ("TIFF", "tif"),
        ("WEBP", "webp"),
        ("PPM", "ppm"),
        ("JPEG2000", "jp2"),
        ("AVIF", "avif"),
        ("HEIF", "heic"),
    ],
)
def test_originals_are_called_by_what_they_are(tmp_path: Path, kind: str, extension: str) -> None:
    if remedy := readable(kind):
        pytest.skip(f"{kind} images: {remedy}")
    report = pack(FakeSource(2, kind=kind), tmp_path / "set", TRANSFORM, encoding="original", workers=1)
    assert report.index.extension.tolist() == [extension.encode()] * 2
    assert read_all(report.index).shape == (2, SIZE, SIZE, 3)


@dataclass
class Deep(FakeSource):
    """Grey of 16 bits, of which 12 are used."""

    def pixels(self, i: int) -> np.ndarray:
        return (np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE) * 4095) // (SIZE * SIZE - 1)


@pytest.mark.parametrize("encoding", ["raw", "png", "original"])
def test_white_is_used_in_packing_and_in_reading(tmp_path: Path, encoding: str) -> None:
    source = Deep(2, kind="PNG")
    report = pack(source, tmp_path / "set", Transform(SIZE, 1, white=4095), encoding=encoding, workers=1)
    expected = np.round(source.pixels(0) / 4095 * 255)
    np.testing.assert_array_equal(read_all(report.index)[1, :, :, 0], expected)


@pytest.mark.parametrize(
    ("begun", "now", "words"),
    [
        (replace(TRANSFORM, white=4095), TRANSFORM, "white 4095, not as always"),
        (TRANSFORM, replace(TRANSFORM, white=4095), "white as always, not 4095"),
        (replace(TRANSFORM, white=9), replace(TRANSFORM, white=4095), "white 9, not 4095"),
    ],
)
def test_what_was_begun_with_another_white_is_left_alone(
    tmp_path: Path, begun: Transform, now: Transform, words: str, at_once: None
) -> None:
    with pytest.raises(StopError):
        pack(FakeSource(), tmp_path / "set", begun, shard_samples=10, workers=1, progress=stop_after(25))
    with pytest.raises(InputError, match=words):
        pack(FakeSource(), tmp_path / "set", now, shard_samples=10, workers=1)


def test_faces_are_not_searched_for_on_each_reading(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="encoding raw, png, jpeg"):
        pack(FakeSource(2), tmp_path / "set", replace(TRANSFORM, centre="face"), encoding="original")
    assert not (tmp_path / "set").exists()


def test_a_missing_opencv_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    faces._cascade.cache_clear()
    with pytest.raises(InputError, match="pip install"):
        pack(FakeSource(2), tmp_path / "set", replace(TRANSFORM, centre="face"))
    faces._cascade.cache_clear()
    assert not (tmp_path / "set").exists()


def test_pictures_without_a_face_are_skipped(tmp_path: Path) -> None:
    try:
        faces.require()
    except InputError as error:
        pytest.skip(str(error))
    with pytest.raises(InputError, match=r"none of the 2 images could be used.*no face was found"):
        pack(FakeSource(2), tmp_path / "set", replace(TRANSFORM, centre="face"), workers=1)


def test_resumes_after_an_exception_to_the_same_bytes(tmp_path: Path, pristine: Path, at_once: None) -> None:
    out = tmp_path / "set"
    with pytest.raises(StopError):
        pack(FakeSource(), out, TRANSFORM, shard_samples=10, workers=1, progress=stop_after(25))
    assert {"shard-000000.tar", "shard-000001.tar"} <= set(files_of(out))
    assert not any("partial" in name for name in files_of(out))
    with pytest.raises(InputError, match=r"not packed to the end.*same distgan shards pack command"):
        Index.load(out)
    (out / "shard-000001.tar").write_bytes(b"rubbish")  # found out, and packed anew
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))

    pack(FakeSource(), out, TRANSFORM, shard_samples=10, workers=2, progress=progress)
    assert seen[0] == (10, 40)
    assert seen[-1] == (40, 40)
    assert seen == sorted(seen)
    assert files_of(out) == files_of(pristine)


@pytest.mark.parametrize(
    "when", ["plan.json", "shard-000002.tar", "shard-000002.json", "index.npz", "index.json", "rmtree"]
)
def test_resumes_after_a_death_at_any_step(
    tmp_path: Path, pristine: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    real_replace = Path.replace

    def replace_or_die(self: Path, target: Path) -> Path:
        if target.name == when:
            raise StopError
        return real_replace(self, target)

    def die(path: Path) -> None:
        raise StopError

    out = tmp_path / "set"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_or_die)
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)  # who is killed tidies nothing up
        if when == "rmtree":
            patch.setattr(shutil, "rmtree", die)
        with pytest.raises(StopError):
            pack(FakeSource(), out, TRANSFORM, shard_samples=10, workers=1)
    pack(FakeSource(), out, TRANSFORM, shard_samples=10, workers=1)
    assert files_of(out) == files_of(pristine)


def test_resumes_after_sigkill_and_leaves_no_process(tmp_path: Path, pristine: Path) -> None:
    out = tmp_path / "set"
    script = tmp_path / "run.py"
    script.write_text(
        "from pathlib import Path\n"
        "from shards.writer import pack\n"
        "from tests.shards.conftest import TRANSFORM, SlowSource\n"
        "if __name__ == '__main__':\n"
        f"    pack(SlowSource(400), Path({str(out)!r}), TRANSFORM, shard_samples=10, workers=2)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, script], env=environment, stdout=subprocess.PIPE) as process:
        while not len(list((out / ".pack").glob("shard-*.json"))) >= 3:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)  # returns when the last process that has this standard output is gone
    finished = set((out / ".pack").glob("shard-*.json"))
    assert len(finished) < 40
    stamps = {note: (out / f"{note.stem}.tar").stat().st_mtime_ns for note in finished}
    pack(FakeSource(400), out, TRANSFORM, shard_samples=10, workers=1)
    assert all((out / f"{note.stem}.tar").stat().st_mtime_ns == stamp for note, stamp in stamps.items())
    pack(FakeSource(400), tmp_path / "fresh", TRANSFORM, shard_samples=10, workers=1)
    assert files_of(out) == files_of(tmp_path / "fresh")


def test_an_error_in_a_process_ends_all_and_keeps_what_is_finished(tmp_path: Path) -> None:
    with pytest.raises(StopError):
        pack(SlowSource(400), tmp_path / "set", TRANSFORM, shard_samples=10, workers=2, progress=stop_after(50))
    assert multiprocessing.active_children() == []
    assert 0 < len(list((tmp_path / "set").glob("shard-*.tar"))) < 40


def test_a_process_that_dies_is_said_in_words(tmp_path: Path, pristine: Path, at_once: None) -> None:
    with pytest.raises(InputError, match="worker process was killed"):
        pack(DyingSource(), tmp_path / "set", TRANSFORM, shard_samples=10, workers=2)
    alone = DyingSource()
    alone.others = False
    pack(alone, tmp_path / "set", TRANSFORM, shard_samples=10, workers=1)
    assert files_of(tmp_path / "set") == files_of(pristine)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"source": FakeSource(seed=1)}, "source has changed"),
        ({"source": FakeSource(layout="mnist")}, "layout folder"),
        ({"transform": Transform(16, 3)}, "size 8, not 16"),
        ({"transform": Transform(SIZE, 1)}, "channels 3, not 1"),
        ({"encoding": "png"}, "encoding raw, not png"),
        ({"shard_samples": 20}, "samples a shard 10, not 20"),
    ],
)
def test_begun_work_is_not_gone_on_with_otherwise(
    tmp_path: Path, change: dict[str, Any], named: str, at_once: None
) -> None:
    arguments: dict[str, Any] = {"source": FakeSource(), "transform": TRANSFORM, "encoding": "raw", "shard_samples": 10}
    with pytest.raises(StopError):
        pack(**arguments, out=tmp_path / "set", workers=1, progress=stop_after(15))
    before = files_of(tmp_path / "set")
    with pytest.raises(InputError, match=named):
        pack(**{**arguments, **change}, out=tmp_path / "set", workers=1)
    assert files_of(tmp_path / "set") == before


def test_a_folder_in_use_is_left_alone(tmp_path: Path, packed: Callable[[], Path]) -> None:
    whole = packed()
    with pytest.raises(InputError, match="already holds a packed set"):
        pack(FakeSource(), whole, TRANSFORM)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/holiday.jpg").write_bytes(b"precious")
    with pytest.raises(InputError, match=r"not empty.*holiday\.jpg"):
        pack(FakeSource(), tmp_path / "photos", TRANSFORM)
    assert files_of(tmp_path / "photos") == {"holiday.jpg": b"precious"}


def test_two_at_once_into_one_folder(tmp_path: Path) -> None:
    def second(done: int, total: int) -> None:
        with pytest.raises(InputError, match="another process is packing"):
            pack(FakeSource(), tmp_path / "set", TRANSFORM, shard_samples=10, workers=1)

    pack(FakeSource(), tmp_path / "set", TRANSFORM, shard_samples=10, workers=1, progress=second)


def test_a_full_disk_is_named_and_packing_goes_on_later(tmp_path: Path, pristine: Path) -> None:
    out = tmp_path / "set"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, hard))  # a write beyond it fails as on a full disk
    try:
        with pytest.raises(InputError, match=r"shard-\d{6}\.tar cannot be written: .*the same command goes on"):
            pack(FakeSource(), out, TRANSFORM, shard_samples=10, workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not any("partial" in name or name.endswith(".tar") for name in files_of(out))
    pack(FakeSource(), out, TRANSFORM, shard_samples=10, workers=1)
    assert files_of(out) == files_of(pristine)


def test_a_disk_that_fails_is_not_found_out_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_replace = Path.replace
    asked: list[int] = []

    class Asked(FakeSource):
        def sample(self, i: int) -> Any:
            asked.append(i)
            return super().sample(i)

    def replace_or_fail(self: Path, target: Path) -> Path:
        if target.name == "shard-000000.tar":
            raise OSError(errno.EIO, "Input/output error", str(target))
        return real_replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_or_fail)
    monkeypatch.setattr(writer, "MOST_BEHIND", 0)
    with pytest.raises(InputError, match=r"shard-000000\.tar cannot be written: Input/output error"):
        pack(Asked(), tmp_path / "set", TRANSFORM, shard_samples=10, workers=1)
    assert asked == list(range(20))
    assert list((tmp_path / "set").glob("*.partial")) == []


def test_what_does_not_read_back_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(path: Path) -> int:
        data = bytearray(path.read_bytes())
        data[600] ^= 1
        path.write_bytes(data)
        return file_crc32(path)

    monkeypatch.setattr(writer, "file_crc32", other)
    with pytest.raises(InputError, match="reads back as something else"):
        pack(FakeSource(), tmp_path / "set", TRANSFORM, shard_samples=10, workers=1)
    assert list((tmp_path / "set").glob("*.tar")) == []


def test_a_read_only_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)  # tests may run as root, whom no folder refuses
    with pytest.raises(InputError, match="set cannot be written: Permission denied"):
        pack(FakeSource(), tmp_path / "set", TRANSFORM)


@pytest.mark.parametrize("wrong", [{"encoding": "jpg"}, {"shard_samples": 0}, {"workers": 0}])
def test_settings_that_make_no_sense(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        pack(FakeSource(), tmp_path / "set", TRANSFORM, **wrong)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("count", [1, 300, 10_000, 100_000, 10_000_000])
@pytest.mark.parametrize("size", [8, 64, 512])
def test_shards_are_neither_many_nor_few_nor_large(count: int, size: int) -> None:
    source = FakeSource(count, sizes=(size, size))
    samples = writer._choose_shard_samples(source, Transform(size, 3), "raw")
    size_of_a_shard = samples * size * size * 3
    assert size_of_a_shard <= writer.SHARD_BYTES
    if count > 64 * 32:
        assert count >= 32 * samples  # enough for many processes
        assert size_of_a_shard > writer.SHARD_BYTES // 2 or samples * 2 > max(64, count // 32)


@pytest.mark.parametrize(("out", "said"), [("file", "is a file"), ("file/x", "Not a directory")])
def test_a_place_that_is_no_folder_is_named(tmp_path: Path, out: str, said: str) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(InputError, match=said):
        pack(FakeSource(), tmp_path / out, TRANSFORM, workers=1)
    assert files_of(tmp_path) == {"file": b"mine"}


def test_a_url_is_no_place_to_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="not on this machine"):
        pack(FakeSource(), "s3://bucket/set", TRANSFORM, workers=1)
    assert not files_of(tmp_path)


@pytest.mark.slow
def test_others_are_started_where_there_is_enough_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    threads: set[int] = set()

    def progress(done: int, total: int) -> None:
        seen.update(child.pid or 0 for child in multiprocessing.active_children())
        threads.add(threading.active_count())

    pack(FakeSource(400), tmp_path / "small", TRANSFORM, shard_samples=10, workers=2, progress=progress)
    assert not seen
    few = max(threads)
    # Much work is shared among processes; less among threads, where it is decoding.
    with monkeypatch.context() as patched:
        patched.setattr(writer, "WORTH_STARTING_S", math.inf)
        pack(SlowSource(400), tmp_path / "heavy", TRANSFORM, shard_samples=10, workers=3, progress=progress)
    assert not seen
    assert max(threads) >= few + 2
    pack(SlowSource(400), tmp_path / "large", TRANSFORM, shard_samples=10, workers=3, progress=progress)
    assert len(seen) == 2
    assert files_of(tmp_path / "small") == files_of(tmp_path / "large") == files_of(tmp_path / "heavy")
