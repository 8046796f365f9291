"""One sentence for the user of what is wrong with a configuration, with the nearest valid key where one is unknown."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from cluster.config.schema import Config, RewardConfig
from learner.objectives import ObjectiveConfig
from rewards import REWARDS


class ConfigError(Exception):
    """A configuration that cannot work; the message is one sentence for the user."""


def of_detail(detail: Any) -> str:
    """A sentence of one of pydantic's `error_details`."""
    # Pydantic puts the name of the union's member into the location; it is no part of the key.
    objectives = [model.model_fields["name"].default for model in _objectives()]
    location = [str(part) for part in detail["loc"]]
    if len(location) > 1 and location[0] == "objective" and location[1] in objectives:
        del location[1]
    key = ".".join(location)
    if detail["type"] == "extra_forbidden":
        known = sorted(set(_keys(Config)))
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        return f"There is no setting {key!r}" + (f"; did you mean {near[0]!r}?" if near else ".")
    if detail["type"] == "union_tag_invalid":
        near = difflib.get_close_matches(str(detail["input"].get("name")), objectives, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(objectives)}."
        return f"There is no objective {detail['input'].get('name')!r}; {hint}"
    if detail["type"] == "value_error":
        return f"{key}: {detail['ctx']['error']}."
    return f"The setting {key!r} is {detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}."


def of_rule(message: str) -> str:
    """A sentence of what a rule raised: it begins with a setting's name, or with a capital."""
    return f"{message}." if "." in message.split()[0] else f"{message[0].upper()}{message[1:]}."


def _objectives() -> tuple[type[BaseModel], ...]:
    return typing.get_args(typing.get_args(ObjectiveConfig)[0]) or (typing.get_args(ObjectiveConfig)[0],)


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of the configuration."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if name == "rewards":
            for reward in REWARDS:
                yield from _keys(RewardConfig, f"{prefix}{name}.{reward}.")
        nested = _objectives() if name == "objective" else (field.annotation,)
        for inner in nested:
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _keys(inner, f"{prefix}{name}.")
