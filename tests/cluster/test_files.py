"""The shipped cluster files, checked offline: Ray's own schema, and a lint of what that misses."""

from __future__ import annotations

import copy
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
RAY = re.search(r"^ray==(.+)$", (ROOT / ".ci" / "constraints.txt").read_text(), re.M)[1]  # type: ignore[index]
IMAGE = f"rayproject/ray:{RAY}-py311-gpu"
RAY_UP = ["on_premises", "aws", "gcp"]


def load(name: str) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((ROOT / "cluster" / f"{name}.yaml").read_text())
    return tree


# ray up


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_accepts_the_file(name):
    validate_config(prepare_config(load(name)))


def lint(config: dict[str, Any]) -> Iterator[str]:
    """What Ray's schema does not look at."""
    kind = config["provider"]["type"]
    for whose in ("head", "worker"):
        commands = " ; ".join(config.get(f"{whose}_start_ray_commands") or [])
        if "ray start" not in commands:
            yield f"no {whose}_start_ray_commands"
        if "RAY_AUTH_MODE=token ray start" not in re.sub(
            r"RAY_AUTH_MODE=token (\w+=\S+ )+", "RAY_AUTH_MODE=token ", commands
        ):
            yield f"{whose}: no token authentication"
    if "--dashboard-host=127.0.0.1" not in " ".join(config.get("head_start_ray_commands") or []):
        yield "the dashboard is open"
    if "~/.ray/auth_token" not in config.get("file_mounts", {}):
        yield "the token does not reach the machines"
    if "/mnt/distgan" not in yaml.safe_dump(config):
        yield "no shared storage"
    if kind == "local":
        if config["min_workers"] != len(config["provider"]["worker_ips"]):
            yield "not all workers are started"
        return
    if not config["provider"].get("region") or not config["provider"].get("availability_zone"):
        yield "no region"
    if config["docker"]["image"] != IMAGE:
        yield f"the image is not {IMAGE}"
    if config["provider"].get("cache_stopped_nodes", True):
        yield "ray down leaves stopped machines"
    if not any(
        "mount" in command and "/mnt/distgan" in command for command in config.get("initialization_commands", [])
    ):
        yield "the shared storage is not mounted"
    for name, node in config["available_node_types"].items():
        yield from lint_node(kind, name, node, name == config["head_node_type"])


MACHINES = {
    "aws": (
        "InstanceType",
        {"InstanceType", "ImageId", "InstanceMarketOptions", "BlockDeviceMappings"},
        lambda node: node.get("InstanceMarketOptions", {}).get("MarketType") == "spot",
        lambda machine: machine.startswith(("g", "p")),
    ),
    "gcp": (
        "machineType",
        {"machineType", "disks", "scheduling"},
        lambda node: any(each.get("provisioningModel") == "SPOT" for each in node.get("scheduling", [])),
        lambda machine: machine.startswith(("g2", "a2", "a3")),
    ),
}


def lint_node(kind: str, name: str, node: dict[str, Any], is_head: bool) -> Iterator[str]:
    field, known, spot, has_gpu = MACHINES[kind]
    config = node["node_config"]
    unknown = set(config) - known
    if unknown:
        yield f"{name}: unknown {unknown.pop()}"
    if not config.get(field):
        yield f"{name}: no {field}"
    elif has_gpu(config[field]) != (node["resources"].get("GPU", 0) > 0):
        yield f"{name}: resources do not say what GPUs it has"
    if is_head:
        if node["resources"].get("CPU") != 0:
            yield f"{name}: the head trains"
    elif not spot(config):
        yield f"{name}: not spot"
    elif not node.get("max_workers"):
        yield f"{name}: no bound on its number"


@pytest.mark.parametrize("name", RAY_UP)
def test_the_lint_is_content(name):
    assert list(lint(load(name))) == []


def delete(tree: Any, *path: Any) -> None:
    for key in path[:-1]:
        tree = tree[key]
    del tree[path[-1]]


def assign(tree: Any, value: Any, *path: Any) -> None:
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


BREAKS: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("aws", lambda c: delete(c, "provider", "region"), "no region"),
    ("gcp", lambda c: delete(c, "worker_start_ray_commands"), "no worker_start_ray_commands"),
    ("gcp", lambda c: assign(c, ["ray start --head"], "head_start_ray_commands"), "head: no token authentication"),
    (
        "aws",
        lambda c: assign(c, ["RAY_AUTH_MODE=token ray start --head"], "head_start_ray_commands"),
        "dashboard is open",
    ),
    ("aws", lambda c: delete(c, "file_mounts", "~/.ray/auth_token"), "token does not reach"),
    ("aws", lambda c: assign(c, "rayproject/ray:2.9.0", "docker", "image"), "the image is not"),
    ("gcp", lambda c: assign(c, True, "provider", "cache_stopped_nodes"), "leaves stopped machines"),
    ("gcp", lambda c: delete(c, "initialization_commands"), "not mounted"),
    ("aws", lambda c: assign(c, 1, "available_node_types", "gpu", "node_config", "InstanceTyp"), "unknown InstanceTyp"),
    ("aws", lambda c: delete(c, "available_node_types", "gpu", "node_config", "InstanceType"), "no InstanceType"),
    ("gcp", lambda c: delete(c, "available_node_types", "gpu", "resources", "GPU"), "what GPUs"),
    ("gcp", lambda c: delete(c, "available_node_types", "gpu", "node_config", "scheduling"), "not spot"),
    ("aws", lambda c: delete(c, "available_node_types", "gpu", "max_workers"), "no bound"),
    ("aws", lambda c: assign(c, 4, "available_node_types", "head", "resources", "CPU"), "the head trains"),
    ("on_premises", lambda c: assign(c, 1, "min_workers"), "not all workers"),
]


@pytest.mark.parametrize(("name", "spoil", "word"), BREAKS, ids=[word for _, _, word in BREAKS])
def test_the_lint_bites(name, spoil, word):
    config = copy.deepcopy(load(name))
    spoil(config)
    assert any(word in complaint for complaint in lint(config))


def test_aws_is_open_to_one_address_for_ssh_alone():
    (rule,) = load("aws")["provider"]["security_group"]["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"]) == (22, 22)
    assert all(each["CidrIp"].endswith("/32") for each in rule["IpRanges"])


def test_no_file_holds_a_key():
    for path in (ROOT / "cluster").rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert not re.search(r"\b[0-9a-f]{40}\b|AKIA[0-9A-Z]{16}|-----BEGIN", text), path


# Kubernetes: the fields that are used, as KubeRay's API reference and Kubernetes' have them


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    name: str


class SecretKey(Strict):
    name: str
    key: str
    optional: bool = False


class ValueFrom(Strict):
    secret_key_ref: SecretKey = Field(alias="secretKeyRef")


class Variable(Strict):
    name: str
    value: str | None = None
    value_from: ValueFrom | None = Field(None, alias="valueFrom")


class Mount(Strict):
    name: str
    path: str = Field(alias="mountPath")


class SecurityContext(Strict):
    escalation: Literal[False] = Field(alias="allowPrivilegeEscalation")
    non_root: Literal[True] = Field(alias="runAsNonRoot")
    capabilities: dict[Literal["drop"], list[Literal["ALL"]]]


class Resources(Strict):
    requests: dict[Literal["cpu", "memory", "nvidia.com/gpu"], str]
    limits: dict[Literal["cpu", "memory", "nvidia.com/gpu"], str]


class Container(Strict):
    name: str
    image: str
    command: list[str] = []
    env: list[Variable] = []
    security: SecurityContext | None = Field(None, alias="securityContext")
    resources: Resources | None = None
    mounts: list[Mount] = Field([], alias="volumeMounts")


class Claim(Strict):
    name: str = Field(alias="claimName")


class EmptyDir(Strict):
    medium: Literal["Memory"] | None = None
    limit: str | None = Field(None, alias="sizeLimit")


class Volume(Strict):
    name: str
    claim: Claim | None = Field(None, alias="persistentVolumeClaim")
    empty: EmptyDir | None = Field(None, alias="emptyDir")
    config: Metadata | None = Field(None, alias="configMap")


class Toleration(Strict):
    key: str
    operator: Literal["Exists", "Equal"]
    effect: Literal["NoSchedule"]


class PodSpec(Strict):
    restart: Literal["Never", "Always"] = Field(alias="restartPolicy")
    tolerations: list[Toleration] = []
    init: list[Container] = Field([], alias="initContainers")
    containers: list[Container]
    volumes: list[Volume]


class Template(Strict):
    spec: PodSpec


class Group(Strict):
    params: dict[str, str] = Field(alias="rayStartParams")
    template: Template


class HeadGroup(Group):
    service: Literal["ClusterIP"] = Field(alias="serviceType")


class WorkerGroup(Group):
    name: str = Field(alias="groupName")
    replicas: int
    least: int = Field(alias="minReplicas")
    most: int = Field(alias="maxReplicas")


class Auth(Strict):
    mode: Literal["token"]


class Autoscaler(Strict):
    idle: int = Field(alias="idleTimeoutSeconds")
    version: Literal["v2"]


class ClusterSpec(Strict):
    version: str = Field(alias="rayVersion")
    auth: Auth = Field(alias="authOptions")
    autoscaling: Literal[True] = Field(alias="enableInTreeAutoscaling")
    autoscaler: Autoscaler = Field(alias="autoscalerOptions")
    head: HeadGroup = Field(alias="headGroupSpec")
    workers: list[WorkerGroup] = Field(alias="workerGroupSpecs")


class RayCluster(Strict):
    api: Literal["ray.io/v1"] = Field(alias="apiVersion")
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: ClusterSpec


class JobSpec(Strict):
    entrypoint: str
    environment: str = Field(alias="runtimeEnvYAML")
    mode: Literal["K8sJobMode"] = Field(alias="submissionMode")
    backoff: Literal[0] = Field(alias="backoffLimit")
    shutdown: Literal[True] = Field(alias="shutdownAfterJobFinishes")
    ttl: int = Field(alias="ttlSecondsAfterFinished")
    cluster: ClusterSpec = Field(alias="rayClusterSpec")


class RayJob(Strict):
    api: Literal["ray.io/v1"] = Field(alias="apiVersion")
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: JobSpec


def kubernetes_cluster(name: str) -> ClusterSpec:
    tree = load(f"kuberay/{name}")
    return RayJob.model_validate(tree).spec.cluster if name == "rayjob" else RayCluster.model_validate(tree).spec


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_kubernetes_would_accept_the_file(name):
    cluster = kubernetes_cluster(name)
    assert cluster.version == RAY
    for group in (cluster.head, *cluster.workers):
        pod = group.template.spec
        volumes = {volume.name: volume for volume in pod.volumes}
        assert {mount.name for each in (*pod.init, *pod.containers) for mount in each.mounts} == set(volumes)
        (container,) = pod.containers
        mounts = {mount.path: volumes[mount.name] for mount in container.mounts}
        shared, memory = mounts["/mnt/distgan"], mounts["/dev/shm"]
        assert shared.claim
        assert memory.empty
        assert memory.empty.medium == "Memory"
        assert container.image == IMAGE
        assert container.resources
        assert container.resources.requests == container.resources.limits
        (key,) = [variable for variable in container.env if variable.name == "WANDB_API_KEY"]
        assert key.value is None
        assert key.value_from
        assert key.value_from.secret_key_ref.optional
    (workers,) = cluster.workers
    assert workers.least <= workers.replicas <= workers.most
    assert workers.template.spec.containers[0].resources.limits["nvidia.com/gpu"] == "1"
    assert cluster.head.params == {"num-cpus": "0"}


def test_the_job_s_entrypoint_is_a_command_of_ours():
    tree = load("kuberay/rayjob")
    words = tree["spec"]["entrypoint"].split()
    assert words[:4] == ["python", "-m", "distgan", "train"]
    assert (ROOT / words[4].removeprefix("/mnt/distgan/code/")).is_file()
    assert "--resume" in words
    assert yaml.safe_load(tree["spec"]["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "120"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: assign(c, 0, "spec", "headGroupSpec", "rayStartParams", "num-cpus"),
        lambda c: assign(c, "LoadBalancer", "spec", "headGroupSpec", "serviceType"),
        lambda c: delete(c, "spec", "authOptions"),
        lambda c: assign(c, 3, "spec", "workerGroupSpecs", 0, "maxReplica"),
        lambda c: assign(c, "ray.io/v1alpha1", "apiVersion"),
    ],
)
def test_the_kubernetes_schema_bites(spoil):
    tree = load("kuberay/raycluster")
    spoil(tree)
    with pytest.raises(ValidationError):
        RayCluster.model_validate(tree)


# Slurm


FAKES = {
    "scontrol": 'echo "scontrol $*" >> "$LOG"; if [ "$1" = show ]; then printf "node1\\nnode2\\nnode3\\n"; fi',
    "srun": """
while [ "${1#--}" != "$1" ]; do
  case $1 in --nodelist=*) export NODE=${1#--nodelist=} ;; esac
  shift
done
echo "$NODE: $* token=${RAY_AUTH_TOKEN:-}" >> "$LOG"
exec "$@"
""",
    "hostname": "echo 10.0.0.1",
    "ray": """
case $1 in
  start) trap 'echo "$NODE: ended" >> "$LOG"; exit 0' TERM; echo "$NODE: up" >> "$LOG"; while :; do sleep 0.1; done ;;
  health-check) exit 0 ;;
esac
""",
    "python": """
trap 'echo "saved" >> "$LOG"; exit 0' TERM
until [ "$(grep -c ': up$' "$LOG")" -eq 3 ]; do sleep 0.1; done
echo "training" >> "$LOG"
i=0
while [ -n "$LONG" ] && [ $i -lt 300 ]; do i=$((i + 1)); sleep 0.1; done
exit ${STATUS:-0}
""",
}


@pytest.fixture
def slurm(tmp_path):
    """Starts the batch script where Slurm and Ray are scripts that write down how they are called."""
    for name, body in FAKES.items():
        file = tmp_path / name
        file.write_text(f"#!/bin/bash\n{body}\n")
        file.chmod(0o755)
    log = tmp_path / "log"
    log.touch()
    started = []

    def start(*arguments: str, **variables: str) -> tuple[subprocess.Popen[str], Path]:
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log), "SLURM_JOB_ID": "71", "LONG": "",
            "SLURM_JOB_NODELIST": "node[1-3]", "SLURM_CPUS_PER_TASK": "8", **variables,
        }  # fmt: skip
        command = ["bash", str(ROOT / "cluster" / "slurm.sh"), *arguments]
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
        return started[-1], log

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_slurm_starts_ray_on_every_node_trains_and_ends_it(slurm):
    process, log = slurm("jobs/dcgan64.yaml", "--out", "/mnt/run with space")
    assert process.wait(60) == 0
    text = log.read_text()
    starts = re.findall(r"^(node\d): ray start (.*) token=(\w+)$", text, re.M)
    assert sorted(node for node, _, _ in starts) == ["node1", "node2", "node3"]
    assert len({token for _, _, token in starts}) == 1
    assert len(starts[0][2]) == 64
    assert starts[0][2] not in re.sub(r"token=\w+", "", text)  # on no command line
    options = {node: line for node, line, _ in starts}
    assert "--head --node-ip-address=10.0.0.1 --port=20071 --dashboard-host=127.0.0.1" in options["node1"]
    assert "--address=10.0.0.1:20071" in options["node2"]
    (train,) = re.findall(r"^node1: (python .*) token=", text, re.M)
    assert train == (
        "python -m distgan train jobs/dcgan64.yaml --out /mnt/run with space "
        "--address 10.0.0.1:20071 --resume --workers 1-3"
    )
    assert sorted(re.findall(r"^(node\d): ended$", text, re.M)) == ["node1", "node2", "node3"]
    assert "requeue" not in text


def test_slurm_s_warning_reaches_the_training_and_the_job_is_requeued(slurm):
    process, log = slurm("jobs/dcgan64.yaml", LONG="yes")
    while "training" not in log.read_text():
        assert process.poll() is None
    process.terminate()
    assert process.wait(60) == 0
    text = log.read_text()
    assert text.index("saved") < text.index("scontrol requeue 71")
    assert text.count(": ended") == 3


def test_slurm_passes_on_how_the_training_ended(slurm):
    process, log = slurm("jobs/dcgan64.yaml", STATUS="2")
    assert process.wait(60) == 2
    assert "requeue" not in log.read_text()
    process, _ = slurm()
    assert process.wait(60) == 2
    assert "usage" in process.stderr.read()
