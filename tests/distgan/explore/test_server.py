from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from importlib.resources import files
from pathlib import Path

import pytest

from distgan.explore import server
from distgan.explore.pictures import Explorer
from distgan.explore.server import address, knows_host, listen
from distgan.explore.state import State
from distgan.explore.turns import Turns
from shards.errors import InputError
from tests.distgan.explore.conftest import keep, serving

TOKEN = "a-token-of-the-tests"
Answer = tuple[int, dict[str, str], bytes]


def ask(port: int, path: str, *, host: str | None = None, method: str = "GET") -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return found


@pytest.fixture(scope="module")
def served(shards, tmp_path_factory) -> Iterator[tuple[Explorer, int]]:
    run = tmp_path_factory.mktemp("served") / "run"
    for step in (10, 20):
        keep(run, step, shards=shards)
    explorer = Explorer(run, count=100)
    explorer.begin()
    with serving(explorer, TOKEN) as port:
        yield explorer, port


def test_what_it_answers(served):
    explorer, port = served
    for path, kind in (("", "text/html"), ("page.css", "text/css"), ("page.js", "text/javascript")):
        status, headers, body = ask(port, f"/{TOKEN}/{path}")
        assert (status, headers["content-type"]) == (200, f"{kind}; charset=utf-8")
        assert body == (files("distgan.explore") / (path or "page.html")).read_bytes()
    status, headers, body = ask(port, f"/{TOKEN}/run.json")
    assert (status, json.loads(body)) == (200, json.loads(json.dumps(explorer.describe())))
    query = "step=10&seed=3&principal.1=1.5&directions=20"
    status, headers, body = ask(port, f"/{TOKEN}/picture.png?{query}")
    assert (status, headers["content-type"]) == (200, "image/png")
    assert body == explorer.draw(State.from_query(query)) == ask(port, f"/{TOKEN}/picture.png?{query}")[2]
    status, headers, body = ask(port, f"/{TOKEN}/command.txt?{query}")
    assert (status, body.decode()) == (200, explorer.command(State.from_query(query)) + "\n")


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("picture.png?seed=-1", 400, "seed is a whole number from 0"),
        ("picture.png?seed=1e9999", 400, "seed is a whole number"),
        ("picture.png?truncation=1e9", 400, "truncation is a number from 0.1"),
        ("picture.png?show.Smiling=1", 400, "need --classifier FILE"),
        ("picture.png?principal.99=1", 400, "there is no principal direction 99"),
        ("picture.png?step=11", 404, "step 11 is not there"),
        ("picture.png?step=../../etc/passwd", 400, "step is a whole number"),
        ("picture.png?" + "a" * 9000, 400, "at most 8,000 characters"),
        ("command.txt?step=11", 404, "step 11 is not there"),
        ("command.txt?bogus=1", 400, "there is no 'bogus'"),
        ("page.py", 404, "Not Found"),
        ("../../etc/passwd", 404, "Not Found"),
        ("%2e%2e/%2e%2e/etc/passwd", 404, "Not Found"),
        ("spec.yaml", 404, "Not Found"),
    ],
)
def test_what_is_wrong_is_said(served, path, status, said):
    found, headers, body = ask(served[1], f"/{TOKEN}/{path}")
    assert (found, said in body.decode()) == (status, True), body
    assert headers["content-type"].startswith("text/plain")
    assert len(body) < 500


def test_what_fails_is_said_too(served, monkeypatch):
    explorer, port = served

    def fail(state: State) -> bytes:
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(explorer, "draw", fail)
    assert ask(port, f"/{TOKEN}/picture.png")[::2] == (500, b"not enough memory")


def test_nothing_is_changed_from_outside(served):
    for method in ("POST", "PUT", "DELETE"):
        assert ask(served[1], f"/{TOKEN}/run.json", method=method)[0] == 405


@pytest.mark.parametrize(
    "path", ["/", "/run.json", f"/{TOKEN[:-1]}/", f"/{TOKEN}x/run.json", "//", "/%00/", "/%c3%bc/"]
)
def test_without_the_token_nothing_is_answered(served, path):
    status, _, body = ask(served[1], path)
    assert status == 403
    assert b"open the address that distgan explore has printed" in body
    assert TOKEN.encode() not in body


def test_the_token_alone_leads_to_the_page(served):
    status, headers, _ = ask(served[1], f"/{TOKEN}")
    assert (status, headers["location"]) == (307, f"/{TOKEN}/")


def test_the_token_is_compared_in_constant_time(served, monkeypatch):
    compared = []
    compare = server.hmac.compare_digest
    monkeypatch.setattr(server.hmac, "compare_digest", lambda *both: compared.append(both) or compare(*both))
    ask(served[1], "/guess/")
    assert compared == [(b"guess", TOKEN.encode())]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost@evil.example"]
)
def test_other_names_are_refused_whatever_the_token(served, host):
    """A name that was made to point here (DNS rebinding) is not one of ours."""
    status, _, body = ask(served[1], f"/{TOKEN}/run.json", host=host)
    assert status == 421
    assert b"tiny" not in body


@pytest.mark.parametrize(
    ("header", "host", "known"),
    [
        ("127.0.0.1:8765", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("localhost:9000", "127.0.0.1", True),
        ("LOCALHOST", "127.0.0.1", True),
        ("[::1]:8765", "::1", True),
        ("192.168.1.5:8765", "0.0.0.0", True),
        ("box.lan:8765", "box.lan", True),
        (f"{socket.gethostname()}:8765", "0.0.0.0", True),
        ("box.lan:8765", "0.0.0.0", False),
        ("", "127.0.0.1", False),
        ("localhost.evil.example", "127.0.0.1", False),
        ("evil.example/127.0.0.1", "127.0.0.1", False),
        ("evil.example#@127.0.0.1", "127.0.0.1", False),
        ("[::1", "::1", False),
        ("localhost:8765:1", "127.0.0.1", False),
    ],
)
def test_names_of_this_machine(header, host, known):
    assert knows_host(header, host) is known


def test_every_answer_keeps_to_itself(served):
    for path in (f"/{TOKEN}/", f"/{TOKEN}/picture.png", "/", f"/{TOKEN}/none", f"/{TOKEN}/picture.png?seed=x"):
        _, headers, _ = ask(served[1], path)
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert re.findall(r"https?:|\*", policy) == []
        assert (headers["referrer-policy"], headers["cache-control"]) == ("no-referrer", "no-store")
        assert headers["x-content-type-options"] == "nosniff"


def test_the_page_needs_nothing_else():
    """No address leads elsewhere, and nothing is in line."""
    for name in ("page.html", "page.css", "page.js"):
        text = (files("distgan.explore") / name).read_text()
        assert not re.search(r"https?://|url\(|@import|innerHTML|eval\(| style=| on\w+=", text), name
    page = (files("distgan.explore") / "page.html").read_text()
    assert "<style" not in page
    assert re.findall(r"<script[^>]*>(.*?)</script>", page) == [""]


def test_one_picture_at_a_time_and_the_oldest_wish_gives_way(served, monkeypatch):
    explorer, port = served
    drawing, go_on, drawn, at_once = threading.Event(), threading.Event(), [], []

    def draw(state: State) -> bytes:
        at_once.append(state.seed)
        assert len(at_once) == 1
        drawing.set()
        assert go_on.wait(60)
        drawn.append(at_once.pop())
        return b"png"

    monkeypatch.setattr(explorer, "draw", draw)
    arrived: list[int] = []
    turn = Turns.turn

    def noted(self: Turns) -> AbstractAsyncContextManager[None]:
        arrived.append(1)
        return turn(self)

    monkeypatch.setattr(Turns, "turn", noted)
    answers: dict[int, int] = {}

    def wish(seed: int) -> None:
        answers[seed] = ask(port, f"/{TOKEN}/picture.png?seed={seed}")[0]

    last = server.MOST_WAITING + 2
    threads = [threading.Thread(target=wish, args=(seed,)) for seed in range(last + 1)]
    for count, thread in enumerate(threads, 1):  # each comes after the one before
        thread.start()
        while len(arrived) < count:
            time.sleep(0.001)
        assert drawing.wait(60)
    while len(answers) < 2:
        time.sleep(0.001)
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert drawn == [0, *range(last, 2, -1)]
    assert answers == {seed: 503 if seed in (1, 2) else 200 for seed in range(last + 1)}


def test_ports():
    with listen("127.0.0.1", None) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} is taken: give another --port, or none"):
            listen("127.0.0.1", port)
        assert address(taken, "127.0.0.1", "t") == f"http://127.0.0.1:{port}/t/"


def test_where_no_port_is_asked_for_a_free_one_is_found(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(server, "PORT", taken.getsockname()[1])
        with listen("127.0.0.1", None) as bound:
            assert bound.getsockname()[1] not in (0, server.PORT)
            assert bound.getsockname()[0] == "127.0.0.1"


def test_a_host_that_is_not_this_machine_s():
    for host in ("192.0.2.1", "no such host"):
        with pytest.raises(InputError, match=f"cannot listen on --host {host}"):
            listen(host, None)


def started(run: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "distgan", "explore", str(run), "--count", "50", "--no-open", *options]
    environment = {**os.environ, "DISTGAN_EXPLORE_TOKEN": "from-the-environment", "COLUMNS": "500"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it(run, number):
    process = started(run)
    line = process.stdout.readline()
    found = re.fullmatch(r"Look around at http://127\.0\.0\.1:(\d+)/from-the-environment/ \(Ctrl-C ends it\)\n", line)
    assert found, line + process.stderr.read()
    port = int(found[1])
    assert ask(port, "/from-the-environment/picture.png?seed=1")[0] == 200
    assert ask(port, "/wrong/")[0] == 403
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")
