"""What lies beneath a user's settings: the embedded world where it is the model, and nothing of it anywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from cluster.yaml_text import read
from shapes import PIPELINES

EMBEDDED = Path(__file__).parents[2] / "configs" / "shapes.yaml"
# What lies between that file and the user's settings, by model: another world has prompts and judges of its own.
BETWEEN = {"shapes_second": EMBEDDED.with_name("shapes_second.yaml")}


def stack(settings: Mapping[str, Any], lists_rewards: bool) -> dict[str, Any]:
    """A user's settings, on top of `configs/shapes.yaml` if `policy.model` is not given or an embedded one; the second
    world's own file lies between.

    Settings of another objective than the file's do not apply. Rewards that the user lists replace the file's. Where
    single ones are named, new ones that have a weight are trained on alone: those of the file that are not named as
    well are watched.

    Args:
        settings: What the user wrote, in a file and in overrides.
        lists_rewards: Whether the file lists rewards; overrides name single ones.
    """
    policy, objective, rewards = (_mapping(settings.get(key)) for key in ("policy", "objective", "rewards"))
    model = policy.get("model", "shapes")
    if model not in tuple(PIPELINES):
        return merge({"objective": {"name": "ppod"}}, settings)
    base = read(EMBEDDED.read_text(encoding="utf-8"))
    if model in tuple(BETWEEN):
        base = merge(base, read(BETWEEN[model].read_text(encoding="utf-8")))
    if objective.get("name", base["objective"]["name"]) != base["objective"]["name"]:
        del base["objective"]
    if lists_rewards:
        base["rewards"] = {}
    elif any(_mapping(rewards[name]).get("weight", 1.0) for name in rewards.keys() - base["rewards"]):
        base["rewards"] = {n: reward if n in rewards else {"weight": 0.0} for n, reward in base["rewards"].items()}
    if base["evaluation"]["features"] not in {*base["rewards"], *rewards}:
        del base["evaluation"]["features"]
    return merge(base, settings)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """One mapping of two: where both hold a mapping these are merged, and else the one above counts."""
    merged = dict(deepcopy(below))
    for key, value in above.items():
        beneath = merged.get(key)
        both = isinstance(beneath, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(beneath, value) if both else deepcopy(value)  # type: ignore[arg-type]
    return merged


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
