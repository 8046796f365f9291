"""Which curves a run has: a panel for whatever was measured, so that any reward and objective has its own."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

Series = Mapping[str, Sequence[tuple[int, float]]]

OUTCOME, LEARNING, MACHINERY = "outcome", "learning", "machinery"

# Metrics by pattern, the part of the page that their panel is in, its title (\1 is the first group) and unit, in the
# order of the page. The first pattern that matches a whole name counts; what none knows gets a panel by what is before
# its slash.
_PANELS = (
    (r"reward/mean", OUTCOME, "Combined reward of the training samples", "as the learner gets it"),
    (r"(?:score|eval/[^/]+)/(?!diversity$|distance$|kl$)(.+)", OUTCOME, r"\1", "score"),
    (r"eval/[^/]+/diversity", OUTCOME, "Diversity within a prompt", "feature distance"),
    (r"eval/[^/]+/distance", OUTCOME, "Distance from the pretrained model", "feature distance"),
    (r"kl/chain|eval/[^/]+/kl", OUTCOME, "KL of whole chains to the pretrained model", "nats"),
    (r"share/.+", LEARNING, "Shares of the rewards in the combined one", "share of variance"),
    (r"reward/std", LEARNING, "Spread of the combined reward", "standard deviation"),
    (r"loss", LEARNING, "Loss", ""),
    (r"loss/(?:forward|reverse|terminal|change)", LEARNING, "Detailed balance", "mean square of scores"),
    (r"loss/(.+)", LEARNING, r"Loss: \1", ""),
    (r"size/.+", LEARNING, "Reward gradient and flow function", "mean square of scores"),
    (r"margin/accuracy", LEARNING, "Implicit accuracy", "share of pairs"),
    (r"margin/.+", LEARNING, "Margin", "nats per dimension"),
    (r"clip/.+", LEARNING, "Clipped", "share of transitions"),
    (r"kl/untrained_share", LEARNING, "Share of the KL at untrained steps", "share"),
    (r"kl/.+", LEARNING, "KL divergence, a step", "nats per dimension"),
    (r"ratio/.+", LEARNING, "Ratio to the policy that sampled", "largest abs log"),
    (r"grad_norm(?:/.+)?", LEARNING, "Gradient norm before clipping", ""),
    (r"lr", LEARNING, "Learning rate", ""),
    (r"dropped|unjudged", MACHINERY, "Samples without a reward", "share"),
    (r"staleness|sampler/[^/]+/version", MACHINERY, "Versions of the weights that acted", "versions"),
    (r"time/.+", MACHINERY, "Seconds of an iteration", "s"),
    (r"busy/.+|overlap", MACHINERY, "Share of time at work", "share"),
    (r"images_per_second", MACHINERY, "Images a second", "1/s"),
    (r"publish_to_applied", MACHINERY, "From publication of weights to use", "s"),
    (r"reward_queries|images_drawn|reward_gradients", MACHINERY, "Images that rewards were shown", "images"),
    (r"network_evaluations", MACHINERY, "Evaluations of the network", "rows"),
    (r"sampler/[^/]+/images", MACHINERY, "Images of each sampler", "images"),
    (r"sampler/[^/]+/seconds", MACHINERY, "Seconds of each sampler", "s"),
    (r"queue/.+", MACHINERY, "Calls that wait or run", "calls"),
    (r"restarts/.+", MACHINERY, "Actors that were lost", "deaths"),
    (r"samples|updates|pairs|micro_batch", MACHINERY, "Sizes", "a batch"),
    (r"data/.+", MACHINERY, "Rows of the dataset", "rows"),
    (r"people/.+", LEARNING, "Answers of people", "pairs"),
    (r"([^/]+)(?:/.*)?", LEARNING, r"\1", ""),
)

_DECADES = (
    r"lr|grad_norm(?:/.+)?|loss(?:/.+)?|size/.+|(?:eval/[^/]+/)?kl(?:/.+)?"  # positive over many, by their nature
)


class Panel(NamedTuple):
    """Curves that are drawn together."""

    part: str  # of the page
    title: str
    unit: str
    names: list[str]  # of the metrics


def panels(series: Series) -> list[Panel]:
    """The panels of what was measured and has changed, in the order of the page; what is constant makes none."""
    found: dict[tuple[int, str], Panel] = {}
    for name, values in series.items():
        if not any(math.isfinite(value) for _, value in values):
            continue
        for place, (pattern, part, title, unit) in enumerate(_PANELS):
            if match := re.fullmatch(pattern, name, re.DOTALL):
                title = match.expand(title) or name
                found.setdefault((place, title), Panel(part, title, unit, [])).names.append(name)
                break
    made = []
    for _, panel in sorted(found.items(), key=lambda item: item[0][0]):
        moved = [name for name in panel.names if not constant(series[name])]
        if moved:  # beside a reward that moves one that does not says something
            made.append(panel if panel.part == OUTCOME else panel._replace(names=moved))
    return made


def constants(series: Series) -> dict[str, float]:
    """What has no panel because it never changed: the one value of each."""
    drawn = {name for panel in panels(series) for name in panel.names}
    return {name: values[-1][1] for name, values in series.items() if values and name not in drawn}


def constant(values: Sequence[tuple[int, float]]) -> bool:
    """Whether a curve would be flat, or a single point."""
    finite = [value for _, value in values if math.isfinite(value)]
    return len(finite) < 2 or max(finite) - min(finite) <= 1e-9 * max(map(abs, finite))


def over_decades(names: Iterable[str]) -> bool:
    """Whether metrics may be drawn on a logarithmic axis; scores may not, whose zero is as good as any place."""
    return all(re.fullmatch(_DECADES, name) for name in names)


def label(name: str) -> str:
    """What a curve is called in its panel."""
    kind, _, rest = name.partition("/")
    if kind == "score":
        return "training"
    if kind == "eval":
        return f"evaluation, {rest.partition('/')[0].replace('_', ' ')}"
    return rest.replace("_", " ") if rest else name.replace("_", " ")
