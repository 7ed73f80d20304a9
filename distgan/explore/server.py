"""The server of the page: whoever has its address, token included, may look; nobody else learns anything."""

from __future__ import annotations

import asyncio
import errno
import hmac
import ipaddress
import re
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from distgan.errors import RunError
from distgan.explore.pictures import Explorer, GoneError
from distgan.explore.state import State
from distgan.explore.turns import OvertakenError, Turns
from shards.errors import InputError

LOOPBACK = "127.0.0.1"
PORT = 8765
"""That is tried first where none is asked for."""
MOST_WAITING = 4
"""Pictures that may wait while one is drawn: a page asks for one at a time."""
GRACE_S = 5
"""Seconds that a picture has to be done when the server ends."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
"""The files of the page, by their path below the token."""
_HOST = re.compile(r"\[([0-9a-f:.]+)\](?::\d+)?|([^\[\]:/@?#\s]+)(?::\d+)?", re.IGNORECASE)


class Guard:
    """Lets through who knows the token, which is the first part of the path, and asks this machine by a name it has.

    A page elsewhere could have its own name point to this machine (DNS rebinding), but then the Host header says so.

    Args:
        app: What is guarded.
        token: The secret.
        host: What the server listens on.
    """

    def __init__(self, app: ASGIApp, token: str, host: str) -> None:
        self._app, self._token, self._host = app, token, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._answer(scope)(scope, receive, send_with_headers)

    def _answer(self, scope: Scope) -> ASGIApp:
        if not knows_host(Headers(scope=scope).get("host", ""), self._host):
            return PlainTextResponse("this is not a name of the machine that distgan explore runs on", 421)
        given, slash, _ = scope["path"][1:].partition("/")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return PlainTextResponse("open the address that distgan explore has printed, to its last character", 403)
        if not slash:
            return RedirectResponse(f"/{self._token}/")
        scope["root_path"] = f"/{self._token}"
        return self._app


def knows_host(header: str, host: str) -> bool:
    """Whether a Host header names this machine.

    Args:
        header: ``localhost:8765``. Numbers always do, as no foreign name was looked up. Ports do not matter, as
            one may be forwarded.
        host: What the server listens on.
    """
    written = _HOST.fullmatch(header)
    if written is None:
        return False
    name = (written[1] or written[2]).lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in ("localhost", host.lower(), socket.gethostname().lower())
    return True


def make_app(explorer: Explorer, token: str, host: str = LOOPBACK) -> Guard:
    """The page and its pictures.

    Args:
        explorer: That has begun.
        token: Without which nothing is answered.
        host: What the server listens on.
    """
    turns = Turns(MOST_WAITING)
    artist = ThreadPoolExecutor(1, "explore")

    def page(name: str, media_type: str) -> Callable[[Request], Response]:
        data = (files("distgan.explore") / name).read_bytes()
        return lambda request: Response(data, media_type=media_type)

    def run(request: Request) -> Response:
        return JSONResponse(explorer.describe())

    def command(request: Request) -> Response:
        return PlainTextResponse(explorer.command(State.from_query(request.url.query)) + "\n")

    async def picture(request: Request) -> Response:
        state = State.from_query(request.url.query)
        async with turns.turn():
            if await request.is_disconnected():
                return Response(status_code=499)
            data = await asyncio.get_running_loop().run_in_executor(artist, explorer.draw, state)
        return Response(data, media_type="image/png")

    def said(status: int) -> Callable[[Request, Exception], Response]:
        return lambda request, error: PlainTextResponse(str(error), status)

    app = Starlette(
        routes=[
            *(Route(path, page(*file)) for path, file in FILES.items()),
            Route("/run.json", run),
            Route("/command.txt", command),
            Route("/picture.png", picture),
        ],
        exception_handlers={
            GoneError: said(404),
            InputError: said(400),
            OvertakenError: said(503),
            RunError: said(503),
            OSError: said(500),
            MemoryError: said(500),
            RuntimeError: said(500),  # torch's way to say that memory is full, too
        },
    )
    return Guard(app, token, host)


def listen(host: str, port: int | None) -> socket.socket:
    """A socket to serve on.

    Args:
        host: A name or address of this machine.
        port: None for :data:`PORT`, or any free one where that is taken.

    Raises:
        InputError: The port is taken or not allowed, or the host is not this machine's.
    """
    wanted = PORT if port is None else port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, wanted), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and port is None:
            return socket.create_server((host, 0), family=family)
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"port {port} is taken: give another --port, or none for one that is free") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise InputError(f"port {wanted} may not be used here: give a --port from 1024 on") from None
        raise InputError(f"cannot listen on --host {host}: {error.strerror or error}") from None


def address(bound: socket.socket, host: str, token: str) -> str:
    """What to open in a browser."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # noqa: S104
    return f"http://{name}:{bound.getsockname()[1]}/{token}/"


class Server(uvicorn.Server):
    """Answers until it is told to end; what takes long is told, too."""

    def __init__(self, explorer: Explorer, token: str, host: str = LOOPBACK) -> None:
        app = make_app(explorer, token, host)
        # Its log of requests would hold the token.
        super().__init__(
            uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=GRACE_S, lifespan="off")
        )
        self._explorer = explorer

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What a signal does."""
        self._explorer.stop.set()
        super().handle_exit(sig, frame)


def serve(explorer: Explorer, bound: socket.socket, token: str, host: str) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        explorer: That has begun.
        bound: From :func:`listen`.
        token: Without which nothing is answered.
        host: What it listens on.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        Server(explorer, token, host).run(sockets=[bound])
    except KeyboardInterrupt:  # which uvicorn raises again when it has ended because of it
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
