"""One sentence for the user of what is wrong with a configuration, with the nearest right key where one is unknown."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cluster.config.schema import Config, RewardConfig
from learner.objectives import ObjectiveConfig
from rewards import REWARDS
from shapes import PIPELINES

_MEMBER = re.compile(r"(constrained-|literal\[)")  # how pydantic calls a member without a name
_MISSING = {
    "prompts": "prompts.train (a text file, one prompt a line)",
    "prompts.train": "prompts.train (a text file, one prompt a line)",
    "rewards": "rewards (such as rewards: {clip: {weight: 1}}, or rewards: {mine: {kind: 'my_module:MyReward'}})",
}


def of_details(details: Sequence[Any], settings: Mapping[str, Any]) -> str:
    """A sentence of pydantic's errors.

    Args:
        details: `ValidationError.errors()`.
        settings: What was refused.
    """
    missing = [_MISSING.get(key, key) for detail in details if detail["type"] == "missing" for key in [_key(detail)]]
    if missing:
        model = (settings.get("policy") or {}).get("model")
        own = isinstance(model, str) and model not in PIPELINES
        why = f"; with policy.model={model} nothing comes from the embedded world" if own else ""
        return f"The configuration lacks {' and '.join(missing)}{why}."
    first = {_key(detail): detail for detail in reversed(details)}  # of a union's members the first one speaks
    return " ".join(_of_detail(detail, settings) for detail in reversed([*first.values()][-3:]))


def of_rule(message: str) -> str:
    """A sentence of what a rule raised: it begins with a setting's name, or with a capital."""
    message = message.rstrip(".") or "the configuration is nested too deeply"
    message = message if "." in message.split()[0] else f"{message[0].upper()}{message[1:]}"
    return message if message.endswith("?") else f"{message}."


def short(value: Any, size: int = 80) -> str:
    """The `repr` of a value, cut where it is longer than `size`."""
    text = str(value) if isinstance(value, (int, float)) else repr(str(value) if isinstance(value, Path) else value)
    return text if len(text) <= size else f"{text[: size // 2]}...{text[-size // 4 :]}"


def _of_detail(detail: Any, settings: Mapping[str, Any]) -> str:
    key = _key(detail)
    if detail["type"] == "extra_forbidden":
        return _of_unknown(key, settings)
    if detail["type"] == "union_tag_invalid":
        name = str(detail["input"].get("name"))
        # Short names are all alike, and ddpo is not d3po: a slip is suggested only where little else could be meant.
        near = difflib.get_close_matches(name, _objectives(), n=1, cutoff=0.85)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_objectives())}."
        return f"There is no objective {short(name)}; {hint}"
    if detail["type"] == "value_error":
        return f"{key}: {detail['ctx']['error']}."
    setting, says = key, "is"
    if detail["type"] == "literal_error" and isinstance(detail["loc"][-1], int):  # one of a list of choices
        setting, says = key.rpartition(".")[0], "holds"
    why = f"{detail['msg'][0].lower()}{detail['msg'][1:]}"
    return f"The setting {short(setting)} {says} {short(detail['input'])}: {why}."


def _key(detail: Any) -> str:
    # Pydantic puts the name of the union's member into the location; it is no part of the key.
    location = [str(part) for part in detail["loc"] if not _MEMBER.match(str(part))]
    if len(location) > 1 and location[0] == "objective" and location[1] in _objectives():
        del location[1]
    return ".".join(location)


def _of_unknown(key: str, settings: Mapping[str, Any]) -> str:
    parent, _, name = key.rpartition(".")
    if parent == "objective" and (owners := [n for n, model in _objectives().items() if name in model.model_fields]):
        return f"The setting {key!r} belongs to objective.name={' or '.join(owners)}, and this is {_chosen(settings)}."
    near = _near(key, sorted(_keys(Config, _rewards(settings), _chosen(settings))))
    return f"There is no setting {short(key)}" + (f"; did you mean {near!r}?" if near else ".")


def _near(key: str, known: Sequence[str]) -> str | None:
    """The known key that was meant: of its letters, or beside it and nearly it, or of its name elsewhere, or alike."""
    parent, _, name = key.rpartition(".")
    undotted = [other for other in known if _letters(other) == _letters(key)]
    elsewhere = [other for other in known if other.rpartition(".")[2] == name]
    names = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == parent}
    nearly, alike = (difflib.get_close_matches(name, names, n=1, cutoff=cutoff) for cutoff in (0.85, 0.6))
    beside = [names[near] for near in nearly or ([] if elsewhere else alike)]
    return next(iter(undotted or beside or elsewhere or difflib.get_close_matches(key, known, n=1, cutoff=0.5)), None)


def _letters(key: str) -> str:
    return "".join(filter(str.isalnum, key)).lower()


def _objectives() -> dict[str, type[BaseModel]]:
    return {model.model_fields["name"].default: model for model in typing.get_args(typing.get_args(ObjectiveConfig)[0])}


def _rewards(settings: Mapping[str, Any]) -> Collection[str]:
    rewards = settings.get("rewards")
    return [str(name) for name in rewards] if isinstance(rewards, Mapping) else []


def _chosen(settings: Mapping[str, Any]) -> str:
    objective = settings.get("objective")
    return str(objective.get("name")) if isinstance(objective, Mapping) else ""


def _keys(model: type[BaseModel], rewards: Collection[str], objective: str, prefix: str = "") -> Iterator[str]:
    """Every dotted key that a configuration with these rewards and this objective may have."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if name == "rewards":
            for reward in {*REWARDS, *rewards}:
                yield from _keys(RewardConfig, (), "", f"{prefix}{name}.{reward}.")
        inner = [_objectives().get(objective)] if name == "objective" else _members(field.annotation)
        for one in (one for one in inner if isinstance(one, type) and issubclass(one, BaseModel)):
            yield from _keys(one, (), "", f"{prefix}{name}.")


def _members(annotation: Any) -> Sequence[Any]:
    """What a setting may be: itself, or those that it is one of."""
    return typing.get_args(annotation) if isinstance(annotation, types.UnionType) else [annotation]
