"""The same figures and grids in Weights & Biases. Whatever happens to it, training goes on."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from distgan.spec import RunSpec
from distgan.threads import aside
from distgan.tracking.commit import commit_of_distgan
from distgan.tracking.records import REAL
from distgan.tracking.tracker import Outcome, Sink, Which

if TYPE_CHECKING:
    import wandb

Say = Callable[[str], None]

_START_SECONDS = 20.0
"""To reach the server, at most. Training has begun meanwhile."""
_END_SECONDS = 120.0
"""For the server to take what is left, at most, when a run ends."""
MOST_WAITING = 20_000
"""Figures and pictures that wait for the thread that sends them, at most: some 40 MB."""
MOST_ALERTS = 10
"""Of a process."""
BEST_APART = 0.1
"""Share of a run between two of its best generators that are sent, at least."""
# 255 is what wandb itself reports for Ctrl-C: the run is shown as killed, not as failed.
_EXIT_CODES: dict[Outcome, int] = {"finished": 0, "failed": 1, "interrupted": 255}

_Action = Callable[["wandb.Run"], object]


class WeightsAndBiases(Sink):
    """Sends figures and grids to a Weights & Biases run, until that fails for the first time.

    A thread connects and sends: what comes meanwhile waits for it, and training for neither. Nothing of wandb is
    called in the thread that trains.

    W&B's own steps are those that were trained, the ones that roll-backs have undone included: so they never go back,
    which W&B would not take, and a resumed run's are the same again. What curves are drawn against are images.

    Args:
        connect: Begins the run; called in that thread, it may take its time.
        say: Tells the person watching; called in the thread that trains.
        spec: The run.
        folder: For what is sent later; the run's, in which wandb keeps its own.
        steps_undone: By roll-backs, so far.
    """

    def __init__(
        self,
        connect: Callable[[Say], wandb.Run],
        say: Say,
        spec: RunSpec,
        folder: Path,
        steps_undone: int = 0,
    ) -> None:
        self._connect = connect
        self._say = say
        self._spec = spec
        self._generators = folder / "wandb" / "generators"
        self._undone = steps_undone
        self._at = 0
        self._alerts = self._lost = 0
        self._shown_real = False
        self._best: deque[_Action] = deque(maxlen=1)  # that has not been sent: a better one takes its place
        self._best_sent: int | None = None  # at these images
        self._actions: SimpleQueue[_Action | None] = SimpleQueue()
        self._news: SimpleQueue[str] = SimpleQueue()
        self._thread = Thread(target=self._send, name="wandb", daemon=True)
        self._thread.start()

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log the figures."""
        sent, at = {"step": step, **figures}, step + self._undone
        self._tell(lambda run: run.log(sent, step=at))

    def progress(self, step: int) -> None:
        """Say what the thread has to say."""
        self._at = step
        self._say_news()

    def scores_of(self, facts: Mapping[str, Any]) -> None:
        """Add them to the configuration; ``evaluation`` there is what the specification asks for."""
        known = dict(facts)
        self._tell(lambda run: run.config.update({"scores_of": known}, allow_val_change=True))  # type: ignore[no-untyped-call]

    def picture(self, step: int, images: int, path: Path) -> None:
        """Log a grid under ``samples``, unless a roll-back has removed it by the time that its turn comes.

        Beside the first one, the real images that the run trains on, under ``real``.
        """
        real = None if self._shown_real else path.with_name(REAL)
        self._shown_real, at = True, step + self._undone

        def send(run: wandb.Run) -> None:
            import wandb

            if path.exists():
                sent = {"samples": wandb.Image(str(path), caption=f"{images:,} images"), "images": images}
                if real and real.exists():
                    sent["real"] = wandb.Image(str(real), caption="what it trains on")
                run.log(sent, step=at)

        self._tell(send)

    def film(self, step: int, images: int, path: Path) -> None:
        """Log the grids as a film, under ``timeline``."""
        at = step + self._undone

        def send(run: wandb.Run) -> None:
            import wandb

            run.log({"timeline": wandb.Video(str(path), format="gif"), "images": images}, step=at)

        self._tell(send)

    def alert(self, title: str, text: str) -> None:
        """Have W&B tell those who want to hear of alerts, by mail or otherwise; a bounded number of times."""
        self._alerts += 1
        if self._alerts <= MOST_ALERTS:
            self._tell(lambda run: run.alert(f"{self._spec.name[:40]}: {title}", text, level="WARN"))

    def generator(self, which: Which, step: int, facts: Mapping[str, Any], export: Callable[[Path], None]) -> None:
        """Log it as an artifact, if the specification asks for such."""
        if which != self._spec.tracking.wandb.artifacts:
            return
        action = self._artifact(which, step, dict(facts), export)
        if which == "last":
            self._tell(action)
            return
        self._best.append(action)
        images, apart = int(facts["images"]), BEST_APART * self._spec.timetable.images(self._spec.steps)
        if self._best_sent is None or images - self._best_sent >= apart:
            self._best_sent = images
            self._tell(self._send_best)

    def rewind(self, step: int) -> None:
        """Count on: W&B takes no step twice."""
        self._undone += self._at - step
        if self._thread.is_alive():
            self._say(
                f"Weights & Biases cannot forget: there, figures of steps {step + 1:,} to {self._at:,} stay beside "
                "those that come now, against the same images."
            )
        self._at = step

    def close(self, outcome: Outcome) -> None:
        """Finish the run, and wait for what is left to upload, but not for ever."""
        if self._best and outcome == "finished":
            self._tell(self._send_best)
        self._actions.put(lambda run: self._finish(run, outcome))
        self._actions.put(None)
        self._thread.join(_END_SECONDS)
        if self._thread.is_alive():
            self._news.put(f"Weights & Biases has not taken everything within {_END_SECONDS:.0f} s.")
        if self._lost:
            self._news.put(f"Weights & Biases was too slow for {self._lost:,} figures and pictures: it lacks them.")
        self._say_news()

    def _send_best(self, run: wandb.Run) -> None:
        with suppress(IndexError):
            send = self._best.pop()
            send(run)

    def _finish(self, run: wandb.Run, outcome: Outcome) -> None:
        run.finish(exit_code=_EXIT_CODES[outcome])
        if run.settings.mode == "online":
            shutil.rmtree(self._generators, ignore_errors=True)  # they are there now

    def _artifact(
        self, which: Which, step: int, facts: dict[str, Any], export: Callable[[Path], None]
    ) -> Callable[[wandb.Run], None]:
        spec = self._spec

        def send(run: wandb.Run) -> None:
            import wandb

            name = f"{spec.name}-{run.id}"
            folder = self._generators / f"step-{step:08d}" / name
            try:
                shutil.rmtree(folder.parent, ignore_errors=True)  # left by a kill
                folder.parent.mkdir(parents=True)
                aside(lambda: export(folder), "export").result()
                artifact = wandb.Artifact(name, "model", description=f"The generator of {spec.name}", metadata=facts)
                # As they lie there: wandb's own copies would stay in the user's home.
                artifact.add_dir(str(folder), policy="immutable", skip_cache=True)
                run.log_artifact(artifact, aliases=[which, f"step-{step}"])
            except Exception as error:  # no reason to do without the figures
                self._news.put(f"Weights & Biases does not get the generator of step {step:,}: {_reason(error)}")

        return send

    def _say_news(self) -> None:
        while not self._news.empty():
            self._say(self._news.get())

    def _tell(self, action: _Action) -> None:
        if not self._thread.is_alive():  # it has failed: nothing is kept for nobody
            return
        if self._actions.qsize() < MOST_WAITING:
            self._actions.put(action)
        else:
            self._lost += 1

    def _send(self) -> None:
        try:
            run = self._connect(self._news.put)
        except Exception as error:
            self._news.put(f"Weights & Biases does not start, going on without it: {_reason(error)}")
            return
        try:
            while action := self._actions.get():
                action(run)
        except Exception as error:
            self._news.put(
                f"Weights & Biases failed and gets nothing more from this run: {_reason(error)}. "
                "Training is not affected, and metrics.jsonl has every figure."
            )


class Begin(NamedTuple):
    """All that a run begins with."""

    spec: RunSpec
    run: Path
    run_id: str
    in_sweep: bool
    commit: str | None
    fingerprint: str | None

    def connect(self, online: bool, tell: Say) -> wandb.Run:
        """Begin the run, offline where the server does not answer, and tell where it is."""
        import wandb

        if online:
            try:
                found = self._init("online")
                tell(f"Weights & Biases: {found.url}")
                return found
            except Exception as error:
                tell(f"Weights & Biases cannot be reached, staying offline: {_reason(error)}")
                wandb.teardown()  # else the run's id counts as in use
        found = self._init("offline")
        tell(f"Weights & Biases is offline; `wandb sync {found.settings.sync_dir}` uploads the run.")
        return found

    def _init(self, mode: Literal["online", "offline"]) -> wandb.Run:
        import wandb

        spec, options, commit = self.spec, self.spec.tracking.wandb, self.commit or commit_of_distgan()
        known = {"git_commit": commit, "fingerprint": self.fingerprint}
        found = wandb.init(
            # In a sweep its own project and run hold, and its server names the run.
            project=None if self.in_sweep else options.project,
            entity=None if self.in_sweep else options.entity,
            id=None if self.in_sweep else self.run_id,
            name=options.name or (None if self.in_sweep else spec.name),
            group=options.group,
            tags=options.tags,
            config={**_shown(spec), **{name: value for name, value in known.items() if value}},
            allow_val_change=True,  # a resumed run may change what no number depends on
            dir=self.run,
            resume="allow",
            mode=mode,
            reinit="create_new",  # a process may train several times
            settings=wandb.Settings(
                console="off",
                disable_git=True,  # it would send the remote's URL and what has been changed
                git_commit=commit,
                save_code=False,
                init_timeout=_START_SECONDS,
            ),
        )
        found.define_metric("*", step_metric="images")  # the clock by which runs of any batch size compare
        return found


def _shown(spec: RunSpec) -> dict[str, Any]:
    """A specification's fields for others to see: of a URL of shards, no login and no query, which may hold keys."""
    tree = spec.model_dump(mode="json")
    for section in ("data", "evaluation"):
        shards = tree[section]["shards"]
        if shards and "://" in shards:
            parts = urlsplit(shards)
            tree[section]["shards"] = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return tree


def _reason(error: Exception) -> str:
    """What went wrong, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
