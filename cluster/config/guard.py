"""The over-optimisation guard's settings: what of the evaluations is watched, what is kept, and what ends a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field, field_validator

FIGURES = ("diversity", "distance", "kl")  # of an evaluation, beside the rewards
# Each stands for rewards by their weight.
WATCHED = "watched"
TRAINED = "trained"


class RuleConfig(BaseModel, frozen=True, extra="forbid"):
    """What an evaluation must not show; where several limits are given, it breaks the rule once it is beyond all."""

    figure: str = Field(
        description="What is watched: a reward's name, diversity, distance or kl; or watched, which is each reward of "
        "weight 0, or trained, each with a weight."
    )
    split: str | None = Field(
        None, description="Of which prompts: train, held_out or train_everywhere; null: each split by itself."
    )
    errors: float | None = Field(
        None,
        gt=0,
        description="Limit of a reward: so many standard errors below its best evaluation so far, of the mean "
        "difference over pictures, which are drawn with the same noise every time.",
    )
    falls: float | None = Field(None, gt=0, description="Limit: so much below its best evaluation so far.")
    share: float | None = Field(None, gt=0, lt=1, description="Limit: below this share of its value before training.")
    above: float | None = Field(None, gt=0, description="Limit: above this.")
    stop: bool = Field(False, description="Whether the run ends early where the rule is broken.")

    @property
    def limits(self) -> dict[str, float]:
        """Those that are given, by their names."""
        named = {"errors": self.errors, "falls": self.falls, "share": self.share, "above": self.above}
        return {name: limit for name, limit in named.items() if limit is not None}


DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "watched": {"figure": WATCHED, "errors": 3},
    "diversity": {"figure": "diversity", "share": 0.6},
}


class GuardConfig(BaseModel, frozen=True, extra="forbid"):
    """What looks at every evaluation for a reward that is being exploited; it changes nothing of what is learned."""

    rules: dict[str, RuleConfig | None] = Field(
        {},
        description="Rules by name, beside the two that there are without being named: watched (each reward of weight "
        "0 has fallen by 3 standard errors) and diversity (below .6 of what it was); null takes one away.",
    )
    best: str | None = Field(
        WATCHED,
        description="What the best checkpoint is chosen by, among the evaluations that break no rule: a reward's name, "
        "watched (trained, where none of those gives a score) or trained; of several rewards their mean, each in "
        "standard deviations of its scores before training; null keeps none.",
    )

    @field_validator("rules", mode="before")
    @classmethod
    def _over_the_defaults(cls, rules: Any) -> Any:
        if not isinstance(rules, Mapping):
            return rules
        return {
            name: {**DEFAULTS[name], **rule} if name in DEFAULTS and isinstance(rule, Mapping) else rule
            for name, rule in rules.items()
        }

    @property
    def in_force(self) -> dict[str, RuleConfig]:
        """The rules that evaluations are held to, by name: the two, unless they are taken away, and the others."""
        rules = {**{name: RuleConfig(**rule) for name, rule in DEFAULTS.items()}, **self.rules}
        return {name: rule for name, rule in rules.items() if rule is not None}
