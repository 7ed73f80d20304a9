"""The same figures and grids in Weights & Biases. Whatever happens to it, training goes on.

The only module that imports ``wandb``, and only when a run wants it.
"""

from __future__ import annotations

import netrc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from distgan.spec import RunSpec
from distgan.tracking.tracker import Outcome, Sink

if TYPE_CHECKING:
    import wandb

_START_SECONDS = 20.0
"""To reach the server, at most: without a network, training waits this long to begin."""
_EXIT_CODES: dict[Outcome, int] = {"finished": 0, "failed": 1, "interrupted": 130}
_ENVIRONMENT = {
    "WANDB_SILENT": "true",  # what a person should know is said through the tracker
    # A killed process loses what was not flushed: 15 s of figures by default.
    "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "1",
    # Without a network the end of a run would wait for ever; what is not uploaded stays on disk.
    "WANDB_FINISH_TIMEOUT": "60",
    "WANDB_FINISH_TIMEOUT_RAISES": "true",
}


class WeightsAndBiases(Sink):
    """Sends figures and grids to a Weights & Biases run, until that fails for the first time."""

    def __init__(self, run: wandb.Run, say: Callable[[str], None]) -> None:
        self._run: wandb.Run | None = run
        self._say = say

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log the figures."""
        self._tell(lambda run: run.log(dict(figures), step=step))

    def picture(self, step: int, images: int, path: Path) -> None:
        """Log a grid under ``samples``."""

        def send(run: wandb.Run) -> None:
            import wandb

            run.log({"samples": wandb.Image(str(path), caption=f"{images:,} images"), "images": images}, step=step)

        self._tell(send)

    def close(self, outcome: Outcome) -> None:
        """Finish the run; with what is left to upload, this waits at most a minute."""
        self._tell(lambda run: run.finish(exit_code=_EXIT_CODES[outcome]))

    def _tell(self, action: Callable[[wandb.Run], None]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:
            self._run = None
            self._say(
                f"Weights & Biases failed and gets nothing more from this run: {_reason(error)}. "
                "Training is not affected, and metrics.jsonl has every figure."
            )


def start(spec: RunSpec, run: Path, run_id: str | None, say: Callable[[str], None]) -> tuple[Sink | None, str | None]:
    """Begin a Weights & Biases run, or go on with one.

    Args:
        spec: The run; it becomes the configuration shown there.
        run: The run's folder; files go to ``RUN/wandb``.
        run_id: The run to go on with.
        say: Tells the person watching.

    Returns:
        The sink and the run's id; no sink, and the id that was given, where there is nothing to send to.
    """
    wish: str = spec.tracking.wandb.mode
    if wish == "auto":
        wish = os.environ.get("WANDB_MODE", wish)
    if wish == "disabled":
        return None, run_id
    try:
        import wandb

        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        online = wish != "offline" and _api_key(wandb.setup().settings.base_url) is not None
        if wish == "online" and not online:
            say("Weights & Biases stays offline: no API key in WANDB_API_KEY or netrc (`wandb login` writes it).")
        try:
            found = _init(spec, run, run_id, online)
        except Exception as error:
            if not online:
                raise
            say(f"Weights & Biases cannot be reached, staying offline: {_reason(error)}")
            wandb.teardown()  # else the run's id counts as in use
            online = False
            found = _init(spec, run, run_id, online)
    except ImportError:
        say("Weights & Biases is not installed (pip install wandb); the figures are in metrics.jsonl.")
        return None, run_id
    except Exception as error:
        say(f"Weights & Biases does not start, going on without it: {_reason(error)}")
        return None, run_id
    if online:
        say(f"Weights & Biases: {found.url}")
    else:
        say(f"Weights & Biases is offline; `wandb sync {found.settings.sync_dir}` uploads the run.")
    return WeightsAndBiases(found, say), found.id


def _init(spec: RunSpec, run: Path, run_id: str | None, online: bool) -> wandb.Run:
    import wandb

    options = spec.tracking.wandb
    found = wandb.init(
        project=options.project,
        entity=options.entity,
        name=spec.name,
        tags=options.tags,
        config=spec.model_dump(mode="json"),
        allow_val_change=True,  # a resumed run may change what no number depends on
        dir=run,
        id=run_id,
        resume="allow",
        mode="online" if online else "offline",
        reinit="create_new",  # a process may train several times
        settings=wandb.Settings(console="off", disable_git=True, save_code=False, init_timeout=_START_SECONDS),
    )
    found.define_metric("*", step_metric="images")  # the clock by which runs of any batch size compare
    return found


def _api_key(base_url: str) -> str | None:
    """The key that ``wandb`` would use, found without asking the network."""
    if key := os.environ.get("WANDB_API_KEY"):
        return key
    try:
        login = netrc.netrc(Path(os.environ.get("NETRC") or "~/.netrc").expanduser())
    except (OSError, netrc.NetrcParseError):
        return None
    found = login.authenticators(urlsplit(base_url).netloc)
    return found[2] if found else None


def _reason(error: Exception) -> str:
    """What went wrong, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
