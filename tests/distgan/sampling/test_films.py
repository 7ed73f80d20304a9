import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageSequence

from distgan.sampling import films
from distgan.sampling.films import check_film, save_film
from shards.errors import InputError


def frames(channels: int, count: int = 5, height: int = 20, width: int = 31) -> list[np.ndarray]:
    """Smooth pictures, each another one."""
    y, x = np.mgrid[:height, :width]
    made = [np.stack([(y * 9 + 40 * i) % 256, (x * 7 + 11 * i) % 256, 0 * x + 20 * i], -1) for i in range(count)]
    return [each[..., :channels].astype(np.uint8) for each in made]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_gif_shows_each_frame_enlarged_and_begins_again(channels, tmp_path):
    save_film(frames(channels), tmp_path / "film.gif", frames_per_second=10)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.info["loop"] == 0
        assert film.info["duration"] == 100
        shown = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(film)]
    assert len(shown) == 5
    for seen, drawn in zip(shown, frames(channels), strict=True):
        assert seen.shape == (260, 403, 3)  # 13 times as large: 256 or more
        assert np.abs(seen[::13, ::13] - drawn).mean() < (0.001 if channels == 1 else 4)
        assert (seen[:13, :13] == seen[0, 0]).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_an_mp4_is_what_players_play(channels, tmp_path):
    save_film(frames(channels, count=8), tmp_path / "film.mp4", frames_per_second=4)
    told = subprocess.run([films._ffmpeg(tmp_path), "-i", str(tmp_path / "film.mp4")], capture_output=True, text=True)
    assert "yuv420p" in told.stderr
    assert "404x260" in told.stderr  # even
    assert "4 fps" in told.stderr
    assert "00:00:02.00" in told.stderr


def without_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)


def test_without_ffmpeg_a_gif_is_offered(tmp_path, monkeypatch):
    without_ffmpeg(monkeypatch)
    with pytest.raises(InputError, match=r"film.mp4 needs ffmpeg, which is not installed.*or give a .gif"):
        save_film(frames(3), tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())
    save_film(frames(3), tmp_path / "film.gif")


def test_what_ffmpeg_says_is_passed_on_and_nothing_is_left(tmp_path, monkeypatch):
    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\ncat >/dev/null\necho 'no such encoder' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(InputError, match=r"ffmpeg could not make the film \(no such encoder\)"):
        save_film(frames(1), tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == [broken]


@pytest.mark.parametrize("name", ["film", "film.avi", "film.png"])
def test_a_film_of_another_kind(name, tmp_path):
    with pytest.raises(InputError, match=f"{name}: give a file that ends in .gif or .mp4"):
        save_film(frames(1), tmp_path / name)
    if name.endswith(".png"):
        check_film(tmp_path / name)
    else:
        with pytest.raises(InputError, match=r"\.png for a picture"):
            check_film(tmp_path / name)
