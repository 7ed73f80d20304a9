import numpy as np
import pytest
from PIL import Image, ImageSequence
from typer.testing import CliRunner

from distgan.cli import app
from distgan.launch.local import train_locally
from distgan.tracking import timeline as module
from distgan.tracking.timeline import timeline
from shards.errors import InputError


def run_with(tmp_path, grids: dict[int, np.ndarray]):
    (tmp_path / "run" / "samples").mkdir(parents=True)
    (tmp_path / "run" / "spec.yaml").write_text("name: x\n")
    for images, grid in grids.items():
        Image.fromarray(grid).save(tmp_path / "run" / "samples" / f"{images:010d}.png")
    return tmp_path / "run"


def shown(path) -> list[np.ndarray]:
    with Image.open(path) as film:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]


def test_each_grid_in_order_and_the_last_one_held(tmp_path):
    grids = {images: np.full((30, 40), images // 100, np.uint8) for images in (2000, 500, 10_000)}
    run = run_with(tmp_path, grids)
    Image.new("L", (30, 40)).save(run / "samples" / "real.png")
    assert timeline(run, tmp_path / "t.gif", frames_per_second=1) == []
    film = shown(tmp_path / "t.gif")
    with Image.open(tmp_path / "t.gif") as file:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(file)]
    assert [int(frame[0, 0, 0]) for frame in film[:3]] == [5, 20, 100]
    assert durations[0] == 1000
    assert sum(durations) == 5000  # three grids and two seconds more
    zoom = film[0].shape[1] // 40
    caption = film[0][30 * zoom :, :, 0]
    assert caption.max() > 200  # white on black: what is written below
    assert (film[0][: 30 * zoom] == 5).all()


def test_a_run_writes_its_own_where_that_is_asked(tiny, tmp_path):
    train_locally(tiny(tracking__timeline=True), tmp_path / "run", console=False)
    assert len(shown(tmp_path / "run" / "timeline.gif")) >= 2
    told = CliRunner().invoke(app, ["timeline", str(tmp_path / "run"), "--out", str(tmp_path / "again.gif")])
    assert told.exit_code == 0, told.output
    assert (tmp_path / "again.gif").read_bytes() == (tmp_path / "run" / "timeline.gif").read_bytes()


def test_of_many_large_grids_some_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_PIXELS", 5 * 30 * 40)
    run = run_with(tmp_path, {i: np.full((30, 40), 10 * i, np.uint8) for i in range(1, 21)})
    timeline(run, tmp_path / "t.gif", frames_per_second=0.5)
    levels = [int(frame[0, 0, 0]) for frame in shown(tmp_path / "t.gif")]
    assert levels[0] == 10
    assert levels[-1] == 200
    assert len(dict.fromkeys(levels)) == 5


def test_grids_that_cannot_be_read_are_named(tmp_path):
    run = run_with(tmp_path, {1: np.zeros((30, 40, 3), np.uint8)})
    (run / "samples" / "0000000002.png").write_bytes(b"no picture")
    told = CliRunner().invoke(app, ["timeline", str(run), "--out", str(tmp_path / "t.gif")])
    assert told.exit_code == 0, told.output
    assert "0000000002.png" in told.output


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="is not a run's folder"):
        timeline(tmp_path, tmp_path / "t.gif")
    run = run_with(tmp_path, {})
    with pytest.raises(InputError, match="has no grids to show: tracking"):
        timeline(run, tmp_path / "t.gif")
    with pytest.raises(InputError, match=r"ends in \.gif or \.mp4"):
        timeline(run, tmp_path / "t.png")
    with pytest.raises(InputError, match="cannot write"):
        timeline(run_with(tmp_path / "b", {1: np.zeros((9, 9), np.uint8)}), run / "spec.yaml" / "t.gif")
