"""The command that serves a page to look around in the latent space, and that draws what the page shows."""

from __future__ import annotations

import os
import re
import secrets
import sys
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from distgan.commands.base import Device, Run, Weights, WhichWeights, console, errors, progress_bar
from shards.errors import InputError

if TYPE_CHECKING:
    from distgan.evaluation.scoring import Progress
    from distgan.explore.pictures import Directions, Explorer

TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}")


def explore(
    run: Run,
    classifier: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="What distgan classifier train has written for the run's shards: a slider for each attribute.",
            show_default=False,
        ),
    ] = None,
    attributes: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--attribute", metavar="NAME", help="Sliders for this one, not for all that it knows. Repeatable."
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="Pictures to draw, from whose latents the directions come.")] = 2_000,
    weights: WhichWeights = Weights.ema,
    device: Device = None,
    port: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, max=65_535, help="Where to listen; a free one when not given.", show_default=False),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on: 0.0.0.0 lets other machines in that know the token.")
    ] = "127.0.0.1",
    token: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            envvar="DISTGAN_EXPLORE_TOKEN",
            help="The secret in the page's address, 16 letters and digits or more; a new one each time when not given.",
            show_default=False,
        ),
    ] = None,
    show: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--open/--no-open", help="Open a browser; when not given, where there is a screen.", show_default=False
        ),
    ] = None,
    draw: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="STATE", help="Serve nothing: draw what the page shows in this state.", show_default=False
        ),
    ] = None,
    out: Annotated[Optional[Path], typer.Option(help="Of --draw: a .png file.", show_default=False)] = None,  # noqa: UP045
) -> None:
    """Look around in what a generator can draw: a local page with sliders.

    They mix two faces, go along directions that show an attribute or move pictures most, and back in training. The
    page shows the command that draws its picture: distgan explore RUN --draw STATE --out FILE.
    """
    if (draw is None) != (out is None):
        raise InputError("--draw STATE and --out FILE belong together")
    if token is not None and not TOKEN.fullmatch(token):
        raise InputError("--token is 16 to 128 letters, digits, - and _")
    if draw is None:
        try:
            import starlette  # noqa: F401
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise InputError(f"explore needs {error.name}: pip install 'distgan[explore]'") from None
    from distgan.explore.pictures import Explorer
    from distgan.explore.state import State

    state = State.from_query(draw or "")
    ema = weights is Weights.ema
    explorer = Explorer(run, classifier=classifier, attributes=attributes, count=count, ema=ema, device=device)
    if out is not None:
        from distgan.sampling import check_png
        from shards.files import ready_or_say, write_or_say

        check_png(out)
        ready_or_say(out)
        write_or_say(out, explorer.draw(state))
        console.print(str(out))
        return
    from distgan.explore.server import LOOPBACK, address, listen, serve

    with listen(host, port) as bound:
        with progress_bar("finding directions") as progress:
            found = _begun(explorer, progress)
        for reason in found.rare.values():
            console.print(f"left out: {reason}")
        secret = token or secrets.token_urlsafe(24)
        url = address(bound, host, secret)
        if host not in (LOOPBACK, "localhost", "::1"):
            errors.print(
                f"WARNING: listening on {host}: every machine that reaches this one can see what the run draws, "
                "if it knows the address below; and who listens in on the network can read that, as it is not encrypted"
            )
        console.print(f"Look around at {url} (Ctrl-C ends it)")
        if _has_screen() if show is None else show:
            webbrowser.open(url)
        serve(explorer, bound, secret, host)


def _begun(explorer: Explorer, progress: Progress) -> Directions:
    """Have it begin in a thread that ends, as another one draws; Ctrl-C ends it where it next tells its progress."""
    from distgan.threads import aside

    given_up = threading.Event()

    def told(done: int, total: int) -> None:
        if given_up.is_set():
            raise KeyboardInterrupt
        progress(done, total)

    try:
        return aside(lambda: explorer.begin(told), "directions").result()
    except KeyboardInterrupt:
        given_up.set()
        raise


def _has_screen() -> bool:
    """Whether a browser that is opened here can be seen."""
    if sys.platform in ("darwin", "win32"):
        return "SSH_CONNECTION" not in os.environ
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
