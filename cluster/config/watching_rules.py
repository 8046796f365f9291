"""What cannot work of what watches a run, one function a rule, as in `cluster.config.rules`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from importlib.util import find_spec

from cluster.config.guard import FIGURES, TRAINED, WATCHED
from cluster.config.schema import Config
from cluster.config.sentences import short
from rewards.canary import read_picture

_RISING = ("distance", "kl")
_SPLITS = ("train", "held_out", "train_everywhere")


def guard_watches_what_there_is(config: Config) -> None:
    if config.guard is None:
        return
    rewards = (*config.scoring, WATCHED, TRAINED)
    if config.guard.best is not None and config.guard.best not in rewards:
        raise ValueError(f"guard.best is {_unknown(config, config.guard.best, rewards)}")
    for name, rule in config.guard.rules.items():
        if not re.fullmatch(r"\w[\w-]{0,63}", name):
            raise ValueError(f"the guard's rule {short(name)} has no plain name; take letters, digits, _ and - alone")
        if rule is None:
            continue
        key = f"guard.rules.{name}"
        if rule.figure not in (*rewards, *FIGURES):
            raise ValueError(f"{key}.figure is {_unknown(config, rule.figure, (*rewards, *FIGURES))}")
        if not rule.limits:
            raise ValueError(f"{key} has no limit; give errors, falls, share or above, or set it to null")
        if "errors" in rule.limits and rule.figure in FIGURES:
            raise ValueError(
                f"{key}.errors is for rewards, and {rule.figure} has no standard error; give falls, share or above"
            )
        if rule.figure in _RISING and (useless := rule.limits.keys() & {"falls", "share"}):
            raise ValueError(
                f"{key}.{min(useless)} can never act: {rule.figure} is 0 before training and rises; give above"
            )
        if rule.split is not None and rule.split not in _SPLITS:
            raise ValueError(f"{key}.split is {short(rule.split)}; the splits are {', '.join(_SPLITS)}")
        if rule.split == "held_out" and config.prompts.held_out is None:
            raise ValueError(f"{key}.split is held_out, but there are no prompts.held_out; set it to null")


def canaries_can_be_read(config: Config) -> None:
    for name in config.rewards:
        for canary in config.canaries(name):
            try:
                read_picture(canary.picture)
            except ValueError as error:
                raise ValueError(f"rewards.{name}.canaries: {error}") from None


def loggers_are_installed(config: Config) -> None:
    for name in config.loggers:
        if find_spec(name) is None:
            raise ValueError(f"loggers names {name}, whose package is not installed; pip install 'reinoise[{name}]'")


def _unknown(config: Config, figure: str, known: tuple[str, ...]) -> str:
    if figure in config.rewards:
        return f"{short(figure)}, which gives no scores in evaluations; there are {', '.join(known)}"
    near = difflib.get_close_matches(figure, known, n=1)
    return f"{short(figure)}; " + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}")


WATCHING_RULES: tuple[Callable[[Config], None], ...] = (
    guard_watches_what_there_is,
    canaries_can_be_read,
    loggers_are_installed,
)
