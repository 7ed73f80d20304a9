"""A workspace in Weights & Biases that shows what matters of a GAN's runs, through W&B's own package for that."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from distgan.errors import RunError
from distgan.tracking.weights_and_biases import online_settings
from shards.errors import InputError
from shards.files import write_or_say

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "distgan"
"""Of the workspace."""
WITHIN_S = 60.0
"""For W&B's server to take it."""
CLOCK = "images"
"""What all curves are drawn against."""


class Panel(NamedTuple):
    """One panel of the workspace."""

    kind: Literal["line", "media"]
    title: str
    keys: tuple[str, ...]
    """The figures or pictures that it shows; a figure's may end with * for all that begin so."""


LAYOUT: dict[str, tuple[Panel, ...]] = {
    "Pictures": (
        Panel("media", "Drawn from the same latents", ("samples",)),
        Panel("media", "What it trains on", ("real",)),
        Panel("media", "Over training", ("timeline",)),
    ),
    "Scores": (
        Panel("line", "Best so far", ("best/frechet", "best/kernel", "best/precision", "best/recall")),
        Panel("line", "Fréchet distance", ("score/frechet",)),
        Panel("line", "Kernel distance", ("score/kernel",)),
        Panel("line", "Precision and recall", ("score/precision", "score/recall")),
        Panel("line", "All scores", ("score/*",)),
    ),
    "The game": (
        Panel("line", "Losses", ("loss/*",)),
        Panel("line", "D(x) and D(G(z))", ("critic/real", "critic/fake")),
        Panel("line", "Wasserstein estimate", ("critic/wasserstein",)),
        Panel("line", "The critic is right", ("critic/accuracy", "critic/ranking")),
        Panel("line", "Diversity, share of the data's", ("diversity",)),
        Panel("line", "Gradient norms", ("grad_norm/*",)),
    ),
    "Speed": (
        Panel("line", "Images a second", ("time/images_per_second",)),
        Panel("line", "Waiting for data, share of the time", ("time/data_wait",)),
        Panel("line", "GiB of the fullest GPU", ("gpu/memory_gib", "gpu/memory_reserved_gib")),
        Panel("line", "Learning rates", ("learning_rate/*",)),
    ),
}
"""Its sections, from the top."""


def layout_text() -> str:
    """The workspace as Markdown: for those who make it by hand, where the API cannot."""
    lines = [
        f"# The workspace {NAME}",
        "",
        f"Sections and panels for W&B's runs of distgan. The x axis of all line plots is `{CLOCK}`: set it for the "
        "whole workspace, under Settings, Line plots.",
    ]
    for section, panels in LAYOUT.items():
        lines += ["", f"## {section}", ""]
        lines += [f"- {p.title}: {_WORDS[p.kind]} of {', '.join(f'`{key}`' for key in p.keys)}" for p in panels]
    return "\n".join(lines) + "\n"


def write_layout(out: Path) -> None:
    """Write :func:`layout_text` into a file.

    Raises:
        InputError: It cannot be written.
    """
    write_or_say(out, layout_text().encode())


def make_dashboard(project: str | None, entity: str | None) -> str:
    """Make the workspace in a project, and return its URL. It is a new one, whatever others there are.

    Args:
        project: None is ``WANDB_PROJECT``, else distgan.
        entity: The team or user; None is ``WANDB_ENTITY``, else the account's default.

    Raises:
        InputError: A package is missing, the user wants to stay offline, or has no login.
        RunError: The server cannot be reached, or refuses.
    """
    settings, key = online_settings()
    try:
        import wandb
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise InputError(f"dashboard needs {error.name}: pip install 'distgan[wandb]', or give --out FILE") from None

    def make() -> str:
        whose = entity or settings.entity or wandb.Api(api_key=key or None).default_entity
        if not whose:
            raise RunError("this login has no default entity: give --entity")
        workspace = ws.Workspace(
            entity=whose,
            project=project or settings.project or "distgan",
            name=NAME,
            sections=[
                ws.Section(name=name, panels=[_panel(each) for each in panels], is_open=True)
                for name, panels in LAYOUT.items()
            ],
            settings=ws.WorkspaceSettings(x_axis=CLOCK),
        )
        workspace.save()
        return str(workspace.url)

    return _within(WITHIN_S, make, settings.base_url)


_WORDS = {"line": "a line plot", "media": "the pictures"}


def _panel(panel: Panel) -> Any:
    import wandb_workspaces.reports.v2 as wr

    if panel.kind == "media":
        return wr.MediaBrowser(title=panel.title, media_keys=list(panel.keys), num_columns=1)
    families = [key.removesuffix("*") for key in panel.keys if key.endswith("*")]
    if families:
        return wr.LinePlot(title=panel.title, x=CLOCK, metric_regex="|".join(f"^{family}.*" for family in families))
    return wr.LinePlot(title=panel.title, x=CLOCK, y=list(panel.keys))


def _within(seconds: float, work: Callable[[], str], server: str) -> str:
    """What work returns. wandb's own patience with a server that does not answer is many minutes.

    Raises:
        RunError: It has failed, or takes longer.
    """
    done: list[str] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="dashboard", daemon=True)
    thread.start()
    thread.join(seconds)
    if done:
        return done[0]
    if failed and isinstance(failed[0], RunError):
        raise failed[0]
    why = " ".join(str(failed[0]).split()) if failed else f"no answer within {seconds:.0f} s"
    raise RunError(f"{server} does not take the workspace: {why}. --out FILE writes its layout, to be made by hand.")
