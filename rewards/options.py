"""The options of a reward against what its class or function takes, before anything is built."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from inspect import Parameter
from typing import Any

from rewards import is_remote, reward_class


def check_options(kind: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a reward does not take, or that lack one it needs; their values are the reward's own affair.

    Args:
        kind: See `rewards.reward_class`.
        options: Keyword arguments.

    Raises:
        UnknownReward: If there is no such reward.
        ValueError: In one sentence with the signature, if the options do not fit it.
    """
    try:
        signature = _signature(reward_class(kind))
    except (TypeError, ValueError):  # of a class in C; only calling it tells
        return
    taken = list(signature.parameters.values())[1 if is_remote(kind) else 0 :]  # a client's first is its address
    named = {p.name: p for p in taken if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)}
    open_ended = any(p.kind is Parameter.VAR_KEYWORD for p in taken)
    unknown = [name for name in options if name not in named and not open_ended]
    missing = [name for name, p in named.items() if p.default is Parameter.empty and name not in options]
    if not unknown and not missing:
        return
    shown = str(signature.replace(parameters=taken, return_annotation=inspect.Signature.empty))
    if unknown:
        near = difflib.get_close_matches(unknown[0], named, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"the reward {kind!r} has no option {unknown[0]!r}{hint}; it takes {shown}")
    raise ValueError(f"the reward {kind!r} needs the option {missing[0]!r}; it takes {shown}")


def _signature(made: type) -> inspect.Signature:
    try:
        return inspect.signature(made, eval_str=True)
    except (NameError, SyntaxError, AttributeError):  # annotations that only a type checker can resolve
        return inspect.signature(made)
