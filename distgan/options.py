"""Every option of a specification: its value, what it means, and the JSON schema that editors know it by.

A specification itself declares what all runs have (:mod:`distgan.spec`). Here its sections are put together with the
options of the networks, the objective and the optimizers that it names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from distgan.networks import CRITICS, ENCODERS, GENERATORS
from distgan.objectives import OBJECTIVES
from distgan.spec import Options, RunSpec, item_of, section_of
from distgan.training.complete import complete
from distgan.training.optimizers import OPTIMIZERS

_NAMED: dict[str, tuple[str, Mapping[str, Any]]] = {
    "model.generator": ("name", GENERATORS),
    "model.critic": ("name", {**CRITICS, **ENCODERS}),
    "objective": ("kind", OBJECTIVES),
    "optimizer.generator": ("name", OPTIMIZERS),
    "optimizer.critic": ("name", OPTIMIZERS),
}
"""Sections whose other fields depend on a name: the field of that name, and the registry."""


@dataclass(frozen=True)
class Option:
    """A field of a specification."""

    path: str
    value: Any
    description: str


def every_option(spec: RunSpec) -> list[Option]:
    """Every field of a specification, with its value, its default included, and what it means.

    Of a section that is unset, the fields are there too, without a value.

    Raises:
        InputError: An unknown network, objective or optimizer, or a wrong option of one.
    """
    return list(_options(RunSpec, complete(spec), ""))


def json_schema() -> dict[str, Any]:
    """The JSON schema of a specification, with the options of every network, objective and optimizer, for editors."""
    tree = RunSpec.model_json_schema()
    definitions = tree["$defs"]
    for path, (key, registry) in _NAMED.items():
        section, _, field = path.partition(".")
        holder = definitions[_reference(tree["properties"][section])]["properties"] if field else tree["properties"]
        declared = holder[field or section]
        common = definitions[_reference(declared)]
        default = common["properties"][key]["default"]
        del declared["$ref"]
        declared["anyOf"] = [
            _variant(common, key, name, default, entry.options.model_json_schema(), definitions)
            for name, entry in registry.items()
        ]
    for name in ("NetworkSpec", "ObjectiveSpec", "SideOptimizerSpec"):  # each has become its variants
        del definitions[name]
    return tree


def options_text(found: list[Option]) -> str:
    """Options for people."""
    lines: list[str] = []
    for option in found:
        value = "unset" if option.value is None else json.dumps(option.value, ensure_ascii=False)
        lines.append(f"{option.path}: {value}")
        lines += wrap(" ".join(option.description.split()), 100, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def _options(model: type[Options], value: Options | None, path: str) -> Iterator[Option]:
    """The fields of a section and, below them, of its sections; of a list of sections, those of one, without values."""
    fields = dict(model.model_fields)
    key, registry = _NAMED.get(path, ("", {}))
    if registry:
        fields |= registry[getattr(value, key)].options.model_fields
    tree = {} if value is None else value.model_dump(mode="json")
    for name, field in fields.items():
        here = f"{path}.{name}" if path else name
        inner = section_of(field.annotation)
        if inner is not None and issubclass(inner, Options):
            yield from _options(inner, getattr(value, name, None), here)
        else:
            names = f" One of {', '.join(registry)}." if name == key else ""
            # Docstrings are written for Sphinx.
            plain = re.sub(r":\w+:`([^`]*)`", r"\1", field.description or "").replace("``", "`")
            yield Option(here, tree.get(name), plain + names)
            item = item_of(field.annotation)
            if item is not None and issubclass(item, Options):
                yield from _options(item, None, f"{here}.N")


def _reference(node: Mapping[str, Any]) -> str:
    """The definition that a node of a schema refers to."""
    return str(node["$ref"]).rpartition("/")[2]


def _variant(
    common: Mapping[str, Any],
    key: str,
    name: str,
    default: str,
    own: dict[str, Any],
    definitions: dict[str, Any],
) -> dict[str, Any]:
    """The schema of a section under one of the names that it can have; the default name may be left out."""
    definitions.update(own.pop("$defs", {}))
    named = {"const": name, "description": common["properties"][key]["description"]}
    return {
        "title": name,
        "description": own.get("description", ""),
        "type": "object",
        "properties": {**common["properties"], **own["properties"], key: named},
        "required": [] if name == default else [key],
        "additionalProperties": False,
    }
