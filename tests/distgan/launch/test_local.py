from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distgan.checkpoint import checkpoints, find_checkpoint
from distgan.spec import dump_spec
from distgan.tracking import read_metrics

LONG = {"training__images": 8 * 400, "training__checkpoint_every_images": 8 * 20, "training__keep_last": 3}


def start(spec, folder: Path, *arguments: str, **options) -> subprocess.Popen[str]:
    file = folder.with_suffix(".yaml")
    file.write_text(dump_spec(spec))
    command = [sys.executable, "-m", "distgan", "train", str(file), "--out", str(folder), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def wait_for_step(process: subprocess.Popen[str], folder: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "metrics.jsonl").exists() and read_metrics(folder) and read_metrics(folder)[-1]["step"] >= step:
            return
        time.sleep(0.02)
    pytest.fail(f"step {step} was not reached: {process.communicate()[0]}")


def weights(folder: Path) -> list[str]:
    files = sorted(find_checkpoint(folder).path.glob("*.safetensors"))
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_the_run_and_resuming_is_never_having_ended(tiny, tmp_path, whole, how):
    spec = tiny(**LONG)
    if not whole.exists():
        assert start(spec, whole).wait() == 0
    folder = tmp_path / "run"
    process = start(spec, folder)
    wait_for_step(process, folder, 50)
    process.send_signal(how)
    output, _ = process.communicate(timeout=60)
    assert "Traceback" not in output
    if how == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 0
        assert "--resume" in output
        stopped = find_checkpoint(folder).state.step
        assert stopped == read_metrics(folder)[-1]["step"] < 400
    again = start(spec, folder, "--resume")
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    assert weights(folder) == weights(whole)
    for line, expected in zip(read_metrics(folder), read_metrics(whole), strict=True):
        assert {k: v for k, v in line.items() if not k.startswith("time/")} == {
            k: v for k, v in expected.items() if not k.startswith("time/")
        }


@pytest.mark.slow
def test_it_needs_neither_ray_nor_wandb(tiny, tmp_path):
    (tmp_path / "spec.yaml").write_text(dump_spec(tiny(tracking__wandb={"mode": "auto"})))
    program = (
        "import sys; sys.modules.update(ray=None, wandb=None);"
        f"sys.argv = ['distgan', 'train', {str(tmp_path / 'spec.yaml')!r}, '--out', {str(tmp_path / 'run')!r}];"
        "from distgan.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert find_checkpoint(tmp_path / "run").state.step == 12


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX resource limits")
def test_a_full_disk_fails_the_run_and_keeps_the_checkpoints(tiny, tmp_path):
    """The operating system refuses to let any file grow beyond a size that some of a checkpoint's files exceed."""
    spec = tiny(model__critic__width=16, training__checkpoint_every_images=32)
    file, folder = tmp_path / "spec.yaml", tmp_path / "run"
    file.write_text(dump_spec(tiny(model__critic__width=16, training__images=32)))
    command = [sys.executable, "-m", "distgan", "train", str(file), "--out", str(folder)]
    assert subprocess.run(command, capture_output=True).returncode == 0
    file.write_text(dump_spec(spec))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "error:" in done.stderr
    assert [path.name for path in checkpoints(folder)] == ["step-00000004"]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000004"]
    assert subprocess.run([*command, "--resume"], capture_output=True).returncode == 0
    assert find_checkpoint(folder).state.step == 12


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
def test_a_read_only_folder_is_named(tiny, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    process = start(tiny(), folder / "run", cwd=tmp_path)
    output, _ = process.communicate()
    assert process.returncode == 2
    assert str(folder) in output
