"""The shipped file for machines one has: ``ray up`` over ssh, a job, and ``ray down``."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from distgan.spec import RunSpec, dump_spec
from shards.images import Transform
from shards.writer import pack
from tests.cluster.hosts import HOME, PROJECT, SHARED, USER, Host, Hosts, wait_until
from tests.distgan.conftest import Discs

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("hosts")]  # one at a time

TOKEN = "fedcba9876543210" * 4
BINARIES = Path(sys.executable).parent
START_S = 300.0
"""The most that each of the commands may take, on a machine that has other work too."""
DOWN_S = 400.0
"""The most that machines may take to notice that their head has gone: Ray's 60 s, twice, and patience."""


@pytest.fixture
def hosts(namespaces, tmp_path) -> Iterator[Hosts]:
    """Three machines with ssh, and a laptop whose key they know."""
    pytest.importorskip("ray")
    for program in ("ssh", "ssh-keygen", "sshd", "rsync"):
        if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            pytest.skip(f"ray up needs the program {program}, and ssh's server on its machines")
    (tmp_path / "shared").mkdir()
    with Hosts(tmp_path / "shared", ("head", "one", "two"), {"RAY_AUTH_MODE": "token"}) as hosts:
        laptop = hosts.laptop
        laptop.run("mkdir", "-p", ".ssh", ".ray")
        laptop.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", HOME / ".ssh" / "id_ed25519")
        laptop.run("cp", ".ssh/id_ed25519.pub", SHARED / "laptop.pub")
        laptop.run("bash", "-c", f"umask 077 && echo {TOKEN} > .ray/auth_token")
        for host in hosts:
            if host is not laptop:
                serve_ssh(host, tmp_path / f"{host.name}.txt")
        yield hosts


def serve_ssh(host: Host, log: Path) -> None:
    """Let the laptop's user in; and have there already what pip would bring, for there is no network."""
    host.run("mkdir", "-p", "/run/sshd", "distgan/env/bin")
    host.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", HOME / "host_key")
    for name, target in (("python", BINARIES / "python"), ("ray", BINARIES / "ray"), ("pip", "true")):
        script = f"""printf '#!/bin/sh\\nexec {target} "$@"\\n' > {name} && chmod +x {name}"""
        host.run("bash", "-c", script, folder=HOME / "distgan/env/bin")
    options = {
        "AuthorizedKeysFile": SHARED / "laptop.pub",
        "HostKey": HOME / "host_key",
        "PermitRootLogin": "yes",
        "StrictModes": "no",
        "UsePAM": "no",
    }
    settings = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    host.start("/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *settings, log=log)
    wait_until(lambda: "listening" in log.read_text(), 60, log.read_text)


def test_the_file_for_own_machines_starts_a_cluster_that_trains_and_ends_it(hosts, tmp_path):
    config = yaml.safe_load((PROJECT / "cluster" / "on_premises.yaml").read_text())
    config["provider"] |= {
        "head_ip": hosts["head"].address,
        "worker_ips": [hosts["one"].address, hosts["two"].address],
    }
    config["auth"]["ssh_user"] = USER
    (hosts.shared / "cluster.yaml").write_text(yaml.safe_dump(config))
    file, laptop = SHARED / "cluster.yaml", hosts.laptop
    machines = [host for host in hosts if host is not laptop]

    laptop.run("ray", "up", "-y", "--no-config-cache", file, folder=PROJECT, timeout=START_S)
    wait_until(lambda: all(host.processes("/ray/core/src/ray/raylet") for host in machines), START_S, "nodes")
    laptop.start("ray", "dashboard", file, folder=PROJECT, log=tmp_path / "dashboard.txt")
    address = "http://127.0.0.1:8265"
    wait_until(
        lambda: laptop.run("ray", "job", "list", "--address", address, check=False).returncode == 0,
        START_S,
        (tmp_path / "dashboard.txt").read_text,
    )

    pack(Discs(60, 16), hosts.shared / "shards", Transform(size=16, channels=3), workers=1)
    spec = RunSpec.model_validate(
        {
            "name": "discs",
            "data": {"shards": str(SHARED / "shards"), "image_size": 16},
            "model": {"generator": {"width": 2}, "critic": {"width": 2}, "latent_dim": 4},
            "training": {"batch_size": 8, "images": 96},
            "tracking": {"wandb": {"mode": "disabled"}},
            "cluster": {"workers": 3, "cpus_per_worker": os.cpu_count()},  # a whole machine each
        }
    )
    (hosts.shared / "run.yaml").write_text(dump_spec(spec))
    job = laptop.run(
        "distgan", "submit", SHARED / "run.yaml", "--address", address, "--out", SHARED / "run", timeout=START_S
    )
    assert "training on 3 × cpu" in job.stdout
    assert "finished at step 12" in job.stdout

    laptop.run("ray", "down", "-y", file, folder=PROJECT, timeout=START_S)
    assert not _of_ray([hosts["head"]])["head"]
    left = functools.partial(_of_ray, machines)
    wait_until(lambda: not any(left().values()), DOWN_S, lambda: str(left()))


def _of_ray(machines: list[Host]) -> dict[str, list[str]]:
    """Ray's processes on each machine."""
    return {host.name: list(host.processes("ray").values()) for host in machines}
