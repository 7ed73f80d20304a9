"""The folder of faces is what CelebA's readers expect, however many processes drew it and however often it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.errors import InputError
from shards.synth import ATTRIBUTES, draw_face, synthesize


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    synthesize(tmp_path / "one", 20, 3, workers=1)
    synthesize(tmp_path / "two", 20, 3, workers=2, progress=lambda done, total: calls.append((done, total)))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert calls[-1] == (20, 20)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_image_i_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    synthesize(tmp_path / "few", 2, 8, workers=1)
    synthesize(tmp_path / "more", 5, 8, workers=1)
    few, more = tree(tmp_path / "few"), tree(tmp_path / "more")
    assert all(more[name] == data for name, data in few.items() if name.endswith(".jpg"))


def test_torchvision_reads_the_folder_as_celeba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CelebA

    synthesize(tmp_path / "celeba", 20, 5, workers=1)
    # Only the check of the official files' MD5 sums is left out.
    monkeypatch.setattr(CelebA, "_check_integrity", lambda self: True)
    data = CelebA(tmp_path, split="all", target_type=["attr", "identity", "bbox", "landmarks"])
    assert len(data) == 20
    assert tuple(data.attr_names) == ATTRIBUTES
    for i in range(20):
        image, (attributes, identity, box, points) = data[i]
        drawn, expected, landmarks = draw_face(5, i)
        assert image.size == (178, 218)
        assert np.abs(np.asarray(image, np.float32) - np.asarray(drawn, np.float32)).mean() < 4
        assert (attributes * 2 - 1).tolist() == list(expected.values())
        assert points.tolist() == [value for point in landmarks.values() for value in point]
        assert int(identity) == i + 1
        x, y, width, height = box.tolist()
        assert all(x < px < x + width and y < py < y + height for px, py in landmarks.values())
    sizes = [len(CelebA(tmp_path, split=split)) for split in ("train", "valid", "test")]
    assert sizes == [16, 2, 2]


def test_the_text_files_are_spaced_as_the_official_ones(tmp_path: Path) -> None:
    synthesize(tmp_path / "out", 3, workers=1)
    lines = (tmp_path / "out/list_attr_celeba.txt").read_text().splitlines()
    assert lines[0] == "3"
    assert lines[1] == " ".join(ATTRIBUTES)
    for i, line in enumerate(lines[2:]):
        # A value and the space before it take three characters, so that the columns of −1 and 1 are flush.
        assert line[:10] == f"{i + 1:06d}.jpg"
        values = [int(line[k : k + 3]) for k in range(10, len(line), 3)]
        assert values == list(draw_face(0, i)[1].values())
    partition = (tmp_path / "out/list_eval_partition.txt").read_text().splitlines()
    assert partition[0] == "000001.jpg 0"
    points = (tmp_path / "out/list_landmarks_align_celeba.txt").read_text().splitlines()
    assert points[0] == "3"
    assert points[1].startswith("lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x")
    assert (tmp_path / "out/identity_CelebA.txt").read_text().startswith("000001.jpg 1\n")
    with Image.open(tmp_path / "out/img_align_celeba/000001.jpg") as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (178, 218))


def test_a_stopped_run_is_finished_by_the_same_command(tmp_path: Path) -> None:
    synthesize(tmp_path / "whole", 20, 6, workers=1)
    out = tmp_path / "stopped"

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(out, 20, 6, workers=1, progress=stop)
    assert not list(out.glob("*.txt"))
    first, second = (out / f"img_align_celeba/00000{k}.jpg" for k in (1, 2))
    second.write_bytes(second.read_bytes()[:500])
    drawn = first.stat().st_mtime_ns
    with pytest.raises(InputError, match="unfinished"):
        synthesize(out, 20, 7, workers=1)
    synthesize(out, 20, 6, workers=1)
    assert first.stat().st_mtime_ns == drawn
    assert tree(out) == tree(tmp_path / "whole")


def test_ctrl_c_ends_the_pool(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "out", 2000, workers=2, progress=stop)
    assert len(list((tmp_path / "out/img_align_celeba").glob("*.jpg"))) < 1000


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        synthesize(tmp_path, 1, workers=1)
    assert tree(tmp_path) == {"mine.txt": b"mine"}
    with pytest.raises(InputError, match="is a file"):
        synthesize(tmp_path / "mine.txt", 1, workers=1)
    with pytest.raises(InputError, match="cannot write"):
        synthesize(tmp_path / "mine.txt" / "below", 1, workers=1)
    synthesize(tmp_path / "new", 1, workers=1)
    with pytest.raises(InputError, match="not empty"):
        synthesize(tmp_path / "new", 1, workers=1)


@pytest.mark.parametrize("note", [b"", b"[1, 2", b'"text"', json.dumps({"count": 1, "seed": 1}).encode()])
def test_a_foreign_note_is_not_followed(tmp_path: Path, note: bytes) -> None:
    (tmp_path / "unfinished.json").write_bytes(note)
    with pytest.raises(InputError, match="unfinished"):
        synthesize(tmp_path, 1, 0, workers=1)


@pytest.mark.parametrize(("count", "seed", "workers"), [(0, 0, 1), (-1, 0, 1), (1, -1, 1), (1, 2**64, 1), (1, 0, 0)])
def test_numbers_out_of_range_are_refused(tmp_path: Path, count: int, seed: int, workers: int) -> None:
    with pytest.raises(InputError):
        synthesize(tmp_path / "out", count, seed, workers)
    assert not (tmp_path / "out").exists()
