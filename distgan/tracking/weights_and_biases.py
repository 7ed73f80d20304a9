"""What Weights & Biases is to this machine and its user: whether a run goes there, as whom, and under which id.

``wandb`` is imported only when a run wants it. What holds on this machine (offline or not, which server, whose login,
which project) is what wandb itself makes of its variables and settings files.
"""

from __future__ import annotations

import os
import secrets
import string
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import ValidationError

from distgan.spec import RunSpec
from distgan.tracking.commit import VARIABLE, commit_of_distgan
from distgan.tracking.tracker import Sink
from distgan.tracking.wandb_sink import Begin, WeightsAndBiases
from shards.errors import InputError
from shards.files import write_atomically

if TYPE_CHECKING:
    import wandb

RUN_ID = "run-id"
"""In RUN/wandb: the run's id, for a restart before the first checkpoint, which has it too."""
_ENVIRONMENT = {
    "WANDB_SILENT": "true",  # what a person should know is said through the tracker
    # A killed process loses what was not flushed: 15 s of figures by default.
    "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "1",
    # Without a network the end of a run would wait for ever; what is not uploaded stays on disk.
    "WANDB_FINISH_TIMEOUT": "60",
    "WANDB_FINISH_TIMEOUT_RAISES": "true",
    # Reports on wandb's own working: nobody asked for them, and a server that does not answer delays the end by 10 s.
    "WANDB_ERROR_REPORTING": "false",
}


class Login(NamedTuple):
    """How the user of this machine logs in to Weights & Biases."""

    variables: dict[str, str]
    """What makes another machine do the same: ``WANDB_BASE_URL``, ``WANDB_API_KEY``. Nothing where nothing is sent."""
    note: str | None
    """For the person, where a run that may want a login has none."""


def start(
    spec: RunSpec,
    run: Path,
    run_id: str | None,
    say: Callable[[str], None],
    *,
    fingerprint: str | None = None,
    steps_undone: int = 0,
) -> tuple[Sink | None, str | None]:
    """Begin a Weights & Biases run, or go on with one. Returns at once; the server is reached meanwhile.

    Args:
        spec: The run; it becomes the configuration shown there.
        run: The run's folder; files go to ``RUN/wandb``.
        run_id: The run to go on with.
        say: Tells the person watching; called in the thread that trains.
        fingerprint: Of the shards, shown there.
        steps_undone: By roll-backs, so far.

    Returns:
        The sink and the run's id; no sink, and the id that was given, where there is nothing to send to.

    Raises:
        InputError: wandb cannot read its variables or settings files.
    """
    spec = settled(spec)
    mode = spec.tracking.wandb.mode
    if mode == "disabled":
        return None, run_id
    try:
        settings = _settings()
    except ImportError:
        say("Weights & Biases is not installed (pip install -U wandb); the figures are in metrics.jsonl.")
        return None, run_id
    online = False
    if mode != "offline":
        key, problem = _key(settings)
        online = key is not None
        if problem or (mode == "online" and not online):
            say(f"Weights & Biases stays offline: {problem or _no_login(settings)}.")
    run_id = run_id or _kept_id(run) or settings.run_id or _new_id()
    _keep_id(run, run_id)
    begin = Begin(spec, run, run_id, bool(settings.sweep_id), settings.git_commit, fingerprint)
    return WeightsAndBiases(lambda tell: begin.connect(online, tell), say, spec, run, steps_undone), run_id


def settled(spec: RunSpec) -> RunSpec:
    """A specification in which ``tracking.wandb`` says what holds on this machine, for wherever the run is trained.

    wandb's variables (``WANDB_PROJECT``, ``WANDB_ENTITY``, ``WANDB_NAME``, ``WANDB_TAGS``, ``WANDB_RUN_GROUP``,
    ``WANDB_MODE``) and settings files win over defaults, never over what a person wrote into the specification; but
    that a run stays offline holds wherever it was asked for.

    Raises:
        InputError: wandb cannot read them.
    """
    options = spec.tracking.wandb
    if options.mode == "disabled":
        return spec
    try:
        settings = _settings()
    except ImportError:
        # No login can be found without wandb; what is trained elsewhere stays offline all the same.
        found: dict[str, Any] = {"mode": _strictest({os.environ.get("WANDB_MODE")})}
    else:
        found = {
            "mode": _mode(settings),
            "project": settings.project,
            "entity": settings.entity,
            "name": settings.run_name,
            "group": settings.run_group,
            "tags": list(settings.run_tags or ()),
        }
    if found["mode"] == "online":
        found["mode"] = "auto"  # online where the run is trained, if there is a login
    defaults = {name for name in found if name not in options.model_fields_set or getattr(options, name) is None}
    # Of the two modes the one that stays offline holds: it is a promise, whoever wrote the other.
    if options.mode == "auto" or found["mode"] in ("offline", "disabled"):
        defaults.add("mode")
    changes = {name: value for name, value in found.items() if value and name in defaults}
    tracking = spec.tracking.model_copy(update={"wandb": options.model_copy(update=changes)})
    return spec.model_copy(update={"tracking": tracking})


def online_settings() -> tuple[wandb.Settings, str]:
    """Wandb's settings and login on this machine, for what needs its server.

    Returns:
        The settings, and the key; "" for a login of another kind.

    Raises:
        InputError: wandb is not installed or cannot read its settings, the user wants to stay offline, or has no login.
    """
    try:
        settings = _settings()
    except ImportError:
        raise InputError("Weights & Biases is not installed: pip install 'distgan[wandb]'") from None
    if (mode := _mode(settings)) != "online":
        raise InputError(f"Weights & Biases is {mode} here, by WANDB_MODE or wandb {mode}: nothing is sent")
    key, problem = _key(settings)
    if key is None:
        raise InputError(f"Weights & Biases: {problem or _no_login(settings)}")
    return settings, key


def login(spec: RunSpec, *, send_key: bool = True) -> Login:
    """How this machine's user logs in, for a run that is trained elsewhere; nothing for one that stays offline.

    Args:
        spec: The run, :func:`settled` here.
        send_key: Else the key is the other machine's own affair.

    Raises:
        InputError: wandb cannot read its variables or settings files.
    """
    if spec.tracking.wandb.mode in ("offline", "disabled"):
        return Login({}, None)
    try:
        settings = _settings()
    except ImportError:
        return Login({}, "Weights & Biases is not installed here, so no login was looked for (pip install wandb)")
    if not send_key:
        return Login(_own_server(settings), None)
    key, problem = _key(settings)
    if key:
        return Login({"WANDB_BASE_URL": settings.base_url, "WANDB_API_KEY": key}, None)
    if key is not None:
        problem = "an identity token is no key that could be sent along"
    return Login(_own_server(settings), problem or _no_login(settings))


def elsewhere(spec: RunSpec) -> dict[str, str]:
    """The variables of wandb that workers on other machines need beside the specification; no secrets.

    Args:
        spec: The run, :func:`settled` here.

    Raises:
        InputError: wandb cannot read its variables or settings files.
    """
    found = trial()
    variables = {"WANDB_SWEEP_ID": found[0], "WANDB_RUN_ID": found[1]} if found else {}
    if spec.tracking.wandb.mode != "disabled":
        with suppress(ImportError):
            settings = _settings()
            variables |= _own_server(settings)
            if commit := settings.git_commit or commit_of_distgan():
                variables[VARIABLE] = commit
    return variables


def trial() -> tuple[str, str] | None:
    """The ids of the sweep and of its run that this process is for, where ``wandb agent`` has started it; else None."""
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    return (sweep, run) if sweep and run else None


def _kept_id(run: Path) -> str | None:
    try:
        return (run / "wandb" / RUN_ID).read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


def _keep_id(run: Path, run_id: str) -> None:
    with suppress(OSError):
        (run / "wandb").mkdir(exist_ok=True)
        with write_atomically(run / "wandb" / RUN_ID) as file:
            file.write(run_id.encode("ascii") + b"\n")


def _settings() -> wandb.Settings:
    """What wandb makes of its variables and settings files; nothing is started and nobody asked.

    Raises:
        ImportError: wandb is not installed, or not as distgan knows it.
        InputError: There is something in them that it does not understand.
    """
    from wandb.errors import UsageError
    from wandb.sdk import wandb_setup

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        settings = wandb_setup.singleton().settings.model_copy()
        settings.update_from_env_vars(dict(os.environ))  # a notebook may have set some since
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]  # the input may be a key
        name = ".".join(map(str, problem["loc"]))
        raise InputError(f"WANDB_{name.upper()}, or {name} in wandb's settings file: {problem['msg']}") from None
    except AttributeError as error:
        raise ImportError(str(error)) from None
    except UsageError as error:
        raise InputError(f"wandb refuses its settings (WANDB_…, or its settings file): {error}") from None
    return settings


def _own_server(settings: wandb.Settings) -> dict[str, str]:
    """The variable that leads to a server that is not wandb's usual one."""
    own = settings.base_url != type(settings).model_fields["base_url"].default
    return {"WANDB_BASE_URL": settings.base_url} if own else {}


def _mode(settings: wandb.Settings) -> Literal["online", "offline", "disabled"]:
    """What was asked for, by ``WANDB_MODE`` or else by ``wandb offline`` and ``wandb disabled``."""
    modes: set[str | None] = {settings.mode}
    if "WANDB_MODE" not in os.environ:
        # Where WANDB_DIR is set, these commands write there, where wandb does not look when it starts.
        modes.add(settings.read_system_settings().all().get("mode"))
    return _strictest(modes)


def _strictest(modes: set[str | None]) -> Literal["online", "offline", "disabled"]:
    if "disabled" in modes:
        return "disabled"
    return "offline" if modes & {"offline", "dryrun"} else "online"


def _key(settings: wandb.Settings) -> tuple[str | None, str | None]:
    """The login that wandb would use, and what is wrong with it.

    Returns:
        The key, "" for a login of another kind, or None for none; and why there is none, if that is not its absence.
    """
    from wandb.errors import AuthenticationError

    try:
        from wandb.sdk.lib import wbauth

        host = wbauth.HostUrl(settings.base_url, app_url=settings.app_url)
        found = wbauth.authenticate_session(host=host, source="distgan", prompt=False, update_session=False)
    except AuthenticationError as error:
        return None, str(error).rstrip(".")
    except (ImportError, AttributeError, TypeError):
        return None, "this version of wandb keeps its logins in another way than the one that distgan knows"
    return (getattr(found, "api_key", "") if found else None), None


def _no_login(settings: wandb.Settings) -> str:
    return f"no login for {settings.base_url} (`wandb login` writes one, or set WANDB_API_KEY)"


def _new_id() -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))
