"""The model card of a generator: what it draws, what it has learnt from, how well, and how it is used."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from distgan.checkpoint import Checkpoint
from distgan.evaluation.metrics import names_of_scores
from distgan.sampling.scored import SCORES
from distgan.tracking.records import SCORE, read_facts, read_metrics
from shards.errors import InputError

CARD = "README.md"
"""The name under which model hubs look for it."""


def name_of_set(shards: str) -> str:
    """What a packed set is called: no path of a machine, and no key in a URL."""
    return PurePosixPath(shards.partition("?")[0]).name


def model_card(checkpoint: Checkpoint, use: str) -> str:
    """A model card as Markdown, with the head that model hubs read.

    Args:
        checkpoint: Where the generator comes from.
        use: How what has been exported is used: Markdown.
    """
    state = checkpoint.state
    spec = state.spec
    size, channels = spec.data.image_size, state.channels
    kind = "grey" if channels == 1 else "colour"
    lines = [
        "---",
        "library_name: distgan",
        "tags: [gan, unconditional-image-generation, image-generation]",
        "---",
        f"# {spec.name}",
        "",
        f"The generator of a generative adversarial network. It draws {kind} images of {size}×{size} pixels from "
        f"{spec.model.latent_dim} numbers drawn from {'N(0, 1)' if spec.model.latent == 'normal' else 'U(-1, 1)'}"
        + (f", and from what they are to show ({', '.join(state.label_names)})." if state.label_names else "."),
        "",
        use,
        "",
        "## Training",
        "",
        f"- Networks: generator `{spec.model.generator.name}`, critic `{spec.model.critic.name}`; objective "
        f"`{spec.objective.kind}`.",
        f"- {state.images:,} images shown to the critic in {state.step:,} steps of {spec.training.batch_size}"
        + (f", {state.training_seconds / 3600:.2g} hours" if state.training_seconds else "")
        + f", by distgan with seed {spec.seed}.",
        f"- The set's name was `{name_of_set(spec.data.shards)}`, its fingerprint `{state.fingerprint}`.",
        "",
        "## Scores",
        "",
        *_scores(checkpoint),
        "",
        "## What to know before using it",
        "",
        "It draws what its training images are like, with what is one-sided in them, and may come near to single ones: "
        "`distgan neighbours` shows how near. Images of people that it draws show nobody; say so where they are used. "
        "Whether its images may be used freely depends on the licence of the training images.",
        "",
    ]
    return "\n".join(lines)


def _scores(checkpoint: Checkpoint) -> list[str]:
    """What is known of how well it draws."""
    found = _known(checkpoint)
    if found is None:
        return ["None are known: `distgan evaluate` computes them."]
    scores, facts = found
    of = ", ".join(
        f"{facts[name]:,} {what}" for name, what in (("count", "generated"), ("real_count", "real")) if name in facts
    )
    shown = f"Of {of} images" if of else "Of images drawn while training"
    by = f", features {facts['features']}" if "features" in facts else ""
    split = facts.get("where", {}).get("split") if isinstance(facts.get("where"), dict) else None
    compared = f", the split {split}" if split else ""
    return [
        f"{shown}{compared}{by}:",
        "",
        *(f"- {line.strip()}" for line in names_of_scores(scores, str(facts.get("distance", "")))),
    ]


def _known(checkpoint: Checkpoint) -> tuple[dict[str, float], dict[str, Any]] | None:
    """Scores of this very generator, and what they are of: beside it, else in the figures of its run."""
    try:
        tree = json.loads((checkpoint.path / SCORES).read_bytes())
        return dict(tree["scores"]), dict(tree["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    run, step = checkpoint.path.parents[1], checkpoint.state.step
    try:
        lines = [line for line in read_metrics(run) if line["step"] == step]
        scores = {name.removeprefix(SCORE): value for line in lines for name, value in line.items() if SCORE in name}
        facts = [each for since, each in read_facts(run) if since <= step]
    except InputError:
        return None
    return (scores, facts[-1] if facts else {}) if scores else None
