"""Hosts for tests: namespaces of this machine's kernel, each with its own address, processes and temporary folders.

Nothing is made in the namespaces that the machine itself lives in: even the bridge that connects the hosts is inside
one of them, so that the addresses can be in nobody's way. A host's first process lives as long as a pipe to the test
is open, and when it ends, the kernel ends all others of that host and takes back its network and its mounts. So
nothing is left behind, however the test itself has ended.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from tests.processes import command_line, descendants

NETWORK = "10.77.0"
SHARED = Path("/mnt/distgan")
"""Where every host sees the folder that all share."""
HOME = Path("/tmp/home")
"""A host's own home of its user."""
USER = "distgan"
"""Who works on the hosts. It is root under another name, so that it may read what the tests run."""
PROJECT = Path(__file__).parents[2]

_NAMESPACES = ("--net", "--mount", "--pid", "--uts", "--ipc")
_OWN_FOLDERS = ("/tmp", "/mnt", "/run")


def wait_until(condition: Callable[[], object], seconds: float, what: str | Callable[[], str]) -> float:
    """Wait for a condition, and return how many seconds that took.

    Args:
        condition: Asked again and again.
        seconds: The most that it may take.
        what: What is waited for, for the error; or what gives a text about it then.
    """
    begin = time.monotonic()
    while not condition():
        waited = time.monotonic() - begin
        if waited > seconds:
            raise TimeoutError(f"not within {seconds:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.1)
    return time.monotonic() - begin


@functools.cache
def why_not() -> str | None:
    """Why there can be no hosts on this machine; None where there can."""
    if sys.platform != "linux":
        return "hosts are Linux namespaces"
    if os.geteuid() != 0:
        return "hosts are made by root alone"
    for program in ("bash", "ip", "mount", "nsenter", "unshare"):
        if shutil.which(program) is None:
            return f"hosts need the program {program}"
    attempt = (
        "mount -t tmpfs tmpfs /mnt && ip link add name lan type bridge && ip link add name a type veth peer name b"
    )
    command = ["unshare", *_NAMESPACES, "--fork", "bash", "-c", attempt]
    done = subprocess.run(command, capture_output=True, text=True)
    return f"this machine allows no namespaces: {done.stderr.strip()}" if done.returncode else None


class Host:
    """One machine. It is off at first.

    Args:
        name: Its host name.
        number: Its address's last part.
        hosts: The network it belongs to.
    """

    def __init__(self, name: str, number: int, hosts: Hosts) -> None:
        self.name = name
        self.address = f"{NETWORK}.{number}"
        self._hosts = hosts
        self._power: subprocess.Popen[str] | None = None
        self._first = 0
        self._processes = ""
        self._started: list[subprocess.Popen[str]] = []

    def on(self) -> None:
        """Switch it on: an empty home, empty temporary folders, a network, no processes."""
        command = ["unshare", *_NAMESPACES, "--mount-proc", "--fork", "--kill-child", "bash", "-c", self._boot()]
        pipe = subprocess.PIPE
        self._power = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )  # a session of its own: Ctrl-C is for the test
        assert self._power.stdout is not None
        if self._power.stdout.readline() != "on\n":
            raise RuntimeError(f"host {self.name} does not start: {self._power.communicate()[1]}")
        self._first = descendants(self._power.pid)[1]
        self._processes = _pid_namespace(self._first)
        self._plug_in()

    def off(self) -> None:
        """Switch it off, as a power cut does: nobody is told."""
        self.lose_power()
        self.stand_still()

    def lose_power(self) -> None:
        """Begin to switch it off."""
        if self._power is None:
            return
        if self is not self._hosts.laptop:
            with suppress(RuntimeError):  # it was never plugged in
                self._hosts.laptop.ip("link", "delete", self.name)
        self._power.kill()

    def stand_still(self) -> None:
        """Wait until none of its processes is left, once it has lost its power."""
        if self._power is None:
            return
        self._power.communicate()
        for process in self._started:
            process.wait()
        wait_until(lambda: not _members(self._processes), 30, f"the end of all processes of {self.name}")
        self._power, self._processes, self._started = None, "", []  # the kernel gives its namespaces' numbers to others

    def cut(self) -> None:
        """Take the network away: what is sent gets lost, in silence."""
        self._hosts.laptop.ip("link", "set", self.name, "down")

    def mend(self) -> None:
        """Give the network back."""
        self._hosts.laptop.ip("link", "set", self.name, "up")

    def start(
        self, *command: object, log: Path | IO[str], environment: Mapping[str, str] | None = None, folder: Path = HOME
    ) -> subprocess.Popen[str]:
        """Start a process of this host, which ends with it.

        Signals do not reach what is started through what is returned; see :meth:`signal`.

        Args:
            command: The program, found on the host's path, and its arguments.
            log: What gets its output, as seen from the test.
            environment: Variables beside the host's own.
            folder: Its working directory, as seen from the host.
        """
        with log.open("a") if isinstance(log, Path) else os.fdopen(os.dup(log.fileno()), "w") as file:
            process = subprocess.Popen(
                self._inside(command, folder),
                env=self._environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def run(
        self,
        *command: object,
        environment: Mapping[str, str] | None = None,
        folder: Path = HOME,
        timeout: float = 60.0,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a process of this host to its end; its errors are part of its output.

        Raises:
            RuntimeError: It has failed, and ``check`` is set. The message has its output.
        """
        done = subprocess.run(
            self._inside(command, folder),
            env=self._environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {shlex.join(map(str, command))}: {done.returncode}\n{done.stdout}")
        return done

    def processes(self, part: str = "") -> dict[int, str]:
        """The host's processes whose command lines have a part, but its first: their ids here, and the lines."""
        lines = {pid: command_line(pid) for pid in _members(self._processes) if pid != self._first}
        return {pid: line for pid, line in lines.items() if part in line and line}

    def signal(self, number: int, part: str) -> None:
        """Send a signal to the host's processes whose command lines have a part, of which there must be some."""
        pids = self.processes(part)
        assert pids, f"no process {part!r} on {self.name}: {self.processes()}"
        for pid in pids:
            os.kill(pid, number)

    def ip(self, *arguments: str) -> None:
        """Have ``ip`` change this host's network; process ids are those of the test."""
        command = ["nsenter", f"--net=/proc/{self._first}/ns/net", "ip", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{self.name}: ip {shlex.join(arguments)}: {done.stderr}")

    def _inside(self, command: Sequence[object], folder: Path) -> list[str]:
        enter = ["nsenter", f"--target={self._first}", *_NAMESPACES]
        return [*enter, "env", f"--chdir={folder}", *map(str, command)]

    def _environment(self, more: Mapping[str, str] | None) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        own = {"PATH": path, "HOME": str(HOME), "USER": USER, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
        return {**own, **self._hosts.environment, **(more or {})}

    def _boot(self) -> str:
        """The script of the host's first process."""
        visible = {Path(path).resolve(): None for path in (PROJECT, sys.prefix, sys.base_prefix)}
        places = [(path, path) for path in visible] + [(self._hosts.shared, SHARED)]
        lines = ["set -e", f"echo {self.name} > /proc/sys/kernel/hostname", "mount -t tmpfs tmpfs /dev/shm"]
        for number, (source, _) in enumerate(places):  # set aside what the host's own folders would hide
            lines += [f"mkdir /dev/shm/{number}", f"mount --rbind {_quoted(source)} /dev/shm/{number}"]
        lines += [f"mount -t tmpfs -o mode=1777 tmpfs {folder}" for folder in _OWN_FOLDERS]
        for number, (_, target) in enumerate(places):
            lines += [f"mkdir -p {_quoted(target)}", f"mount --move /dev/shm/{number} {_quoted(target)}"]
            lines += [f"rmdir /dev/shm/{number}"]
        # What the tests run is not to be changed by what they run.
        lines += [f"mount -o remount,bind,ro {_quoted(path)}" for path in visible]
        users = Path("/etc/passwd").read_text().splitlines()
        users = [line for line in users if not line.startswith((f"{USER}:", "root:"))]
        users = [f"{name}:*:0:0::{HOME}:/bin/bash" for name in (USER, "root")] + users
        if not any(line.startswith("sshd:") for line in users):  # whom ssh's server needs, on a machine without one
            users.append("sshd:*:65533:65534::/run/sshd:/usr/sbin/nologin")
        names = ["127.0.0.1 localhost", *(f"{host.address} {host.name}" for host in self._hosts)]
        for file, content in (("passwd", users), ("hosts", names), ("resolv.conf", [])):
            lines += [f"printf '%s\\n' {shlex.join(content)} > /run/{file}"]
            lines += [f"[ ! -e /etc/{file} ] || mount --bind /run/{file} /etc/{file}"]
        lines += [f"mkdir {HOME}", "ip link set lo up", "echo on", "read -r"]
        return "\n".join(lines)

    def _plug_in(self) -> None:
        laptop = self._hosts.laptop
        if self is laptop:
            # A bridge without an address of its own takes another whenever a host is plugged in, and its neighbours go
            # on for a minute to send to the old one.
            self.ip("link", "add", "name", "lan", "address", "02:00:00:00:00:01", "type", "bridge")
            self.ip("address", "add", f"{self.address}/24", "dev", "lan")
            self.ip("link", "set", "lan", "up")
            # Who asks for the world is told at once that there is none.
            self.ip("route", "add", "unreachable", "default")
            self.run("bash", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
            return
        peer = ["type", "veth", "peer", "name", "eth0", "netns", str(self._first)]
        laptop.ip("link", "add", "name", self.name, *peer)
        laptop.ip("link", "set", self.name, "master", "lan", "up")
        self.ip("address", "add", f"{self.address}/24", "dev", "eth0")
        self.ip("link", "set", "eth0", "up")
        self.ip("route", "add", "default", "via", laptop.address)


class Hosts:
    """A network of hosts, for the time of a ``with`` block, and the user's own machine, ``laptop``, beside them.

    Args:
        shared: A folder that every host sees as ``SHARED``.
        names: Of the hosts.
        environment: Variables of all processes on the hosts.
    """

    def __init__(self, shared: Path, names: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.shared = shared.resolve()
        self.environment = dict(environment or {})
        self.laptop = Host("laptop", 254, self)
        self._hosts = {name: Host(name, number, self) for number, name in enumerate(names, start=1)}

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def __iter__(self) -> Iterator[Host]:
        return iter((self.laptop, *self._hosts.values()))

    def __enter__(self) -> Hosts:
        try:
            for host in self:
                host.on()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for host in reversed(list(self)):  # the laptop last: it holds the network
            host.lose_power()
        for host in self:
            host.stand_still()


def _members(namespace: str) -> list[int]:
    """The processes of a namespace of process ids."""
    pids = (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
    return [pid for pid in pids if namespace and _pid_namespace(pid) == namespace]


def _pid_namespace(pid: int) -> str:
    """What identifies it; "" when the process has ended."""
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
