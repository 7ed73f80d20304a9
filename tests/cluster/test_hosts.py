"""Ray across hosts that each have an address, temporary folders and shared memory of their own, and that fail."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from distgan.launch.local import train_locally
from distgan.spec import RunSpec, dump_spec
from shards.images import Transform
from shards.writer import pack
from tests import curves
from tests.cluster.hosts import SHARED, Hosts, wait_until
from tests.curves import assert_same, curve
from tests.distgan.conftest import Discs

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("hosts")]  # one at a time

TOKEN = "0123456789abcdef" * 4
PORT = 6379
WORKERS = ("one", "two")
COMPARED = 60
"""Steps: a game of two networks doubles rounding errors in every few."""
ENDLESS = 100_000
"""Steps of runs that are stopped."""
START_S = 300.0
"""The most that nodes, jobs and workers may take to begin or to begin again, on a machine that has other work too."""


class Cluster:
    """A Ray cluster: a head that only leads, two hosts that work."""

    def __init__(self, hosts: Hosts, logs: Path) -> None:
        self.hosts = hosts
        self.logs = logs
        self.address = f"http://{hosts['head'].address}:8265"
        self._ray("head", "--head", f"--port={PORT}", "--dashboard-host=0.0.0.0", "--num-cpus=0")
        for name in WORKERS:
            self.join(name)

    def join(self, name: str) -> None:
        """Have a host become a node, as its boot script would."""
        self._ray(name, f"--address={self.hosts['head'].address}:{PORT}", "--num-cpus=1")

    def take_away(self, name: str, seconds: int) -> None:
        """Tell Ray, as providers of spot machines have it told, that a host will be gone so many seconds from now."""
        (raylet,) = self.hosts[name].processes("--node_id=").values()
        node = raylet.partition("--node_id=")[2].split()[0]
        why = ("--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot")
        address = f"--address={self.hosts['head'].address}:{PORT}"
        until = f"--deadline-remaining-seconds={seconds}"
        self.hosts["head"].run("ray", "drain-node", address, f"--node-id={node}", until, *why)

    def wait(self) -> float:
        """Wait until both workers are there, and return how long that took."""
        return wait_until(lambda: "/2.0 CPU" in self.status(), START_S, self.status)

    def status(self) -> str:
        """What the head knows of the nodes."""
        return self.hosts["head"].run("ray", "status", check=False).stdout

    def submit(self, spec: RunSpec, name: str, *options: object) -> Job:
        """Submit a run from the laptop, and follow it there."""
        return Job(self, spec, name, options)

    def _ray(self, name: str, *options: str) -> None:
        always = ("--block", "--disable-usage-stats", "--object-store-memory=100000000")
        again = 'while true; do "$@"; sleep 1; done'  # as a service manager does
        self.hosts[name].start(
            "bash", "-c", again, "-", "ray", "start", *options, *always, log=self.logs / f"{name}.txt"
        )


class Job:
    """``distgan submit`` on the laptop, its log, and the run's folder as the test sees it."""

    def __init__(self, cluster: Cluster, spec: RunSpec, name: str, options: tuple[object, ...]) -> None:
        self._hosts = cluster.hosts
        shared = cluster.hosts.shared
        self.run = shared / "runs" / name
        self._log = cluster.logs / f"{name}.txt"
        (shared / f"{name}.yaml").write_text(dump_spec(spec))
        command = ["distgan", "submit", SHARED / f"{name}.yaml", "--address", cluster.address, "--name", name]
        command += options if "--out" in options else ["--out", SHARED / "runs" / name, *options]
        self._process = cluster.hosts.laptop.start(*command, log=self._log)
        self._stop = ("distgan", "stop", name, "--address", cluster.address)

    def text(self) -> str:
        """What the user has seen up to now."""
        return self._log.read_text()

    def wait(self, seconds: float = START_S) -> tuple[int, str]:
        """Wait for the end: the exit code, and what the user has seen."""
        self.wait_for(lambda: self._process.poll() is not None, seconds, running=False)
        return self._process.returncode, self.text()

    def stop(self) -> str:
        """Have it save and end; what the user has seen."""
        self._hosts.laptop.run(*self._stop)
        return self.wait()[1]

    def wait_for(self, condition: Callable[[], object], seconds: float = START_S, *, running: bool = True) -> float:
        """Wait for a condition while the job runs, and return how long that took."""

        def met() -> object:
            assert not running or self._process.poll() is None, self.text()
            return condition()

        return wait_until(met, seconds, self.text)

    def steps(self) -> list[float]:
        """The steps in ``metrics.jsonl``."""
        return curves.steps(self.run)

    def reach(self, step: int) -> float:
        """Wait until a step has been taken, and return how long that took."""
        return self.wait_for(lambda: self.steps()[-1:] >= [step])

    def starts(self) -> int:
        """How often workers have begun to train."""
        file = self.run / "log.txt"
        return len(re.findall(r" (started|resumed at step \d+)$", file.read_text(), re.M)) if file.exists() else 0


@pytest.fixture(scope="module")
def cluster(namespaces, tmp_path_factory) -> Iterator[Cluster]:
    pytest.importorskip("ray")
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "shared" / "small").mkdir(parents=True)
    environment = {
        "PYTHONPATH": str(Path(__file__).parents[2]),  # this checkout, wherever the installed one lies
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        # Gloo would choose its address by the host's name, which on many machines is 127.0.1.1.
        "GLOO_SOCKET_IFNAME": "eth0",
        # A silent machine is given up after 24 s instead of 75.
        "RAY_health_check_timeout_ms": "5000",
        "RAY_health_check_failure_threshold": "3",
    }
    with (
        small_disk(folder / "shared" / "small"),
        Hosts(folder / "shared", ("head", *WORKERS), environment) as hosts,
    ):
        cluster = Cluster(hosts, folder)
        cluster.wait()
        yield cluster


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Have a folder be a file system of its own that is soon full."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def spec(cluster) -> Callable[..., RunSpec]:
    """Runs of a few small steps. Without arguments it is one of WGAN-GP."""
    pack(Discs(60, 32), cluster.hosts.shared / "shards", Transform(size=32, channels=3), workers=1, shard_samples=20)

    def make(steps: int, objective: str = "wasserstein_gp", **tracking: Any) -> RunSpec:
        n_critic = 2 if objective == "wasserstein_gp" else 1
        normalisation = "layer" if objective == "wasserstein_gp" else "batch"
        return RunSpec.model_validate(
            {
                "name": objective,
                "seed": 3,
                "data": {"shards": str(SHARED / "shards"), "image_size": 32, "flip": True},
                "model": {
                    "generator": {"width": 8},
                    "critic": {"width": 8, "normalisation": normalisation},
                    "latent_dim": 8,
                },
                "objective": {"kind": objective, "n_critic": n_critic} if n_critic > 1 else {"kind": objective},
                "training": {
                    "batch_size": 8,
                    "images": steps * 8 * n_critic,
                    "precision": "float64",
                    "checkpoint_every_images": 20 * 8 * n_critic,
                },
                "tracking": {
                    "log_every": 1,
                    "sample_every_images": 8 * n_critic * steps,
                    "wandb": {"mode": "disabled"},
                    **tracking,
                },
                "cluster": {"workers": 2, "cpus_per_worker": 1, "gpus_per_worker": 0},
            }
        )

    return make


def alone(spec: RunSpec, cluster: Cluster, out: Path) -> list[dict[str, float]]:
    """The figures of the same run on one process, without Ray."""
    here = spec.model_copy(
        update={"data": spec.data.model_copy(update={"shards": str(cluster.hosts.shared / "shards")})}
    )
    train_locally(here, out, console=False)
    return curve(out)


def at_work(cluster: Cluster) -> list[str]:
    """The hosts on which a worker trains."""
    return [host.name for host in cluster.hosts if host.processes("RayTrainWorker")]


def test_dcgan_on_two_hosts_is_dcgan_in_one_process(cluster, spec, tmp_path):
    run = spec(COMPARED, "bce")
    job = cluster.submit(run, "bce")
    ours = alone(run, cluster, tmp_path / "alone")
    job.wait_for(lambda: at_work(cluster) == list(WORKERS))
    status, text = job.wait()
    assert status == 0, text
    assert_same(ours, curve(job.run))
    assert len(job.steps()) == COMPARED


def test_wgan_gp_outlives_a_machine_s_end_and_a_network_s(cluster, spec, tmp_path):
    """First a worker's machine loses its power and comes back, then its network goes for longer than Ray waits."""
    job = cluster.submit(spec(ENDLESS, wandb={"mode": "offline"}), "faults")
    ours = alone(spec(COMPARED), cluster, tmp_path / "alone")
    job.reach(25)
    cluster.hosts["one"].off()
    cluster.hosts["one"].on()
    cluster.join("one")
    job.wait_for(lambda: job.starts() >= 2)
    job.reach(job.steps()[-1] + 20)
    cluster.hosts["two"].cut()
    job.wait_for(lambda: "/1.0 CPU" in cluster.status())
    cluster.hosts["two"].mend()
    job.wait_for(lambda: job.starts() >= 3)
    job.reach(max(COMPARED, job.steps()[-1] + 20))
    text = job.stop()
    assert "Traceback" not in text
    assert text.count("workers start again, from the newest checkpoint") >= 2  # a busy machine may add to the faults
    assert "interrupted at step" in text
    assert_same(ours, curve(job.run))
    folders = [path.name for path in (job.run / "wandb").glob("offline-run-*")]
    assert len(folders) >= 3  # one each time that rank 0 began
    assert len({name.rpartition("-")[2] for name in folders}) == 1  # of one run


def test_a_run_goes_on_with_the_machines_that_are_there(cluster, spec, tmp_path):
    quick = ("cluster.workers=[1,2]", "cluster.resize_every_s=5", "cluster.start_timeout_s=10")
    cluster.hosts["two"].off()
    wait_until(lambda: "/1.0 CPU" in cluster.status(), START_S, cluster.status)
    job = cluster.submit(spec(ENDLESS), "elastic", *(word for option in quick for word in ("--set", option)))
    ours = alone(spec(COMPARED), cluster, tmp_path / "alone")
    job.reach(5)
    assert at_work(cluster) == ["one"]
    cluster.hosts["two"].on()
    cluster.join("two")
    job.wait_for(lambda: "training on 2 ×" in job.text())
    assert "interrupted" in (job.run / "log.txt").read_text().partition(" resumed at step ")[0]  # saved, so as to grow
    alone_so_far = job.text().count("training on cpu")  # growing may have taken several attempts
    cluster.hosts["one"].off()
    job.wait_for(lambda: job.text().count("training on cpu") > alone_so_far and at_work(cluster) == ["two"])
    job.reach(COMPARED)
    text = job.stop()
    assert "Traceback" not in text
    assert "going on with 2 workers" in text
    assert_same(ours, curve(job.run))
    cluster.hosts["one"].on()
    cluster.join("one")
    cluster.wait()


def test_a_machine_that_is_to_be_taken_away_is_left_with_a_checkpoint(cluster, spec, tmp_path):
    seldom = f"training.checkpoint_every_images={ENDLESS}"
    job = cluster.submit(spec(ENDLESS), "taken", "--set", seldom)
    ours = alone(spec(COMPARED), cluster, tmp_path / "alone")
    job.reach(25)
    cluster.take_away("two", 60)
    job.wait_for(lambda: " on two: its machine is being taken away" in job.text())
    reached = job.steps()[-1]
    cluster.hosts["two"].off()
    cluster.hosts["two"].on()
    cluster.join("two")
    job.reach(max(COMPARED, reached + 20))
    text = job.stop()
    assert "Traceback" not in text
    assert f"resumed at step {reached}\n" in (job.run / "log.txt").read_text()  # nothing is trained again
    assert_same(ours, curve(job.run))


def test_a_full_disk_ends_a_run_in_words_and_room_lets_it_go_on(cluster, spec, tmp_path):
    run, disk = spec(200), cluster.hosts.shared / "small"
    place = ("--out", SHARED / "small" / "run")
    job = cluster.submit(run, "full", *place)
    job.wait_for((disk / "run" / "checkpoints").exists)
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(8 << 20))
    status, text = job.wait()
    assert status == 1, text
    assert "No space left on device" in text
    assert "Traceback" not in text
    filler.unlink()
    status, text = cluster.submit(run, "room", *place).wait()
    assert status == 0, text
    assert "finished at step 200" in text
    assert_same(alone(spec(COMPARED), cluster, tmp_path / "alone"), curve(disk / "run"))


def test_a_folder_that_machines_do_not_share_is_refused_before_training(cluster, spec):
    status, text = cluster.submit(spec(40), "apart", "--out", "/tmp/apart").wait()
    assert status == 2, text
    assert re.search(r"rank 1 on (one|two): /tmp/apart is not the folder that rank 0 writes to", text)
    assert "Traceback" not in text
    assert "training on" not in text
