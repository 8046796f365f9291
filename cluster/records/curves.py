"""The figure of a run's metrics: a panel for whatever was measured, so that any reward and objective has its curves."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

from cluster.text import shown

Series = Mapping[str, Sequence[tuple[int, float]]]

# Metrics by pattern, the title of their panel (\1 is the first group) and its unit, in the order of the figure. The
# first pattern that matches a whole name counts; what none knows gets a panel by what is before its slash.
_PANELS = (
    (r"reward/mean", "Combined reward of the training samples", "as the learner gets it"),
    (r"(?:score|eval/[^/]+)/(?!diversity$|distance$)(.+)", r"\1", "score"),
    (r"eval/[^/]+/diversity", "Diversity within a prompt", "feature distance"),
    (r"eval/[^/]+/distance", "Distance from the pretrained model", "feature distance"),
    (r"share/.+", "Shares of the rewards in the combined one", "share of variance"),
    (r"kl/.+", "KL divergence, a step", "nats per dimension"),
    (r"loss/(?:forward|reverse|terminal|change)", "Detailed balance", "mean square of scores"),
    (r"size/.+", "Reward gradient and flow function", "mean square of scores"),
    (r"margin/accuracy", "Implicit accuracy", "share of pairs"),
    (r"margin/.+", "Margin", "nats per dimension"),
    (r"clip/.+", "Clipped", "share of transitions"),
    (r"dropped|unjudged", "Samples without a reward", "share"),
    (r"time/(?:sample|learn)", "Seconds of an iteration", "s"),
    (r"([^/]+)(?:/.*)?", r"\1", ""),
)
# What says how the machinery does: it is on dashboards and in the metrics, and tells nothing of what was learned.
_MACHINERY = re.compile(
    r"(sampler|queue|restarts|busy|ratio)/.*|reward/std|samples|updates|pairs|staleness|lr|overlap|time/iteration"
    r"|images_per_second|publish_to_applied"
)


def panels(series: Series) -> dict[tuple[str, str], list[str]]:
    """Names of the metrics by panel (title and unit), in the order of the figure; those that were measured."""
    measured = [
        name
        for name, values in series.items()
        if not _MACHINERY.fullmatch(name) and any(math.isfinite(value) for _, value in values)
    ]
    said = [name for name in measured if name.startswith("share/")]
    if len(said) == 1:  # of one reward: 1 for ever
        measured.remove(said[0])
    found: dict[tuple[int, str, str], list[str]] = {}
    for name in measured:
        for place, (pattern, title, unit) in enumerate(_PANELS):
            if match := re.fullmatch(pattern, name, re.DOTALL):
                found.setdefault((place, match.expand(title), unit), []).append(name)
                break
    return {(title, unit): names for (_, title, unit), names in sorted(found.items(), key=lambda panel: panel[0][0])}


def draw(series: Series) -> bytes | None:
    """The figure as a PNG; `None` if nothing was measured."""
    by_panel = panels(series)
    if not by_panel:
        return None
    rows, buffer = -(-len(by_panel) // 2), io.BytesIO()
    # Names are text of others: no mathematics in them, and no word about letters that the font lacks.
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        figure = Figure(figsize=(11, 2.7 * rows), layout="constrained")
        axes = figure.subplots(rows, 2, squeeze=False)
        for axis in axes.flat[len(by_panel) :]:
            axis.remove()
        for axis, ((title, unit), names) in zip(axes.flat, by_panel.items(), strict=False):
            for name in names:
                iterations, values = zip(*series[name], strict=True)
                axis.plot(iterations, values, marker=".", label=_short(_label(name)))
            axis.set(title=_short(title), ylabel=unit, xlabel="iteration")
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(alpha=0.3)
            if len(names) > 1 or names[0].startswith(("eval/", "score/")):
                axis.legend(fontsize=8)
        figure.savefig(buffer, dpi=110)
    return buffer.getvalue()


def _label(name: str) -> str:
    kind, *rest = name.split("/")
    return {"score": "training", "eval": f"evaluation, {rest[0] if rest else ''}"}.get(kind, name)


def _short(text: str) -> str:
    text = shown(text)
    return text if len(text) <= 60 else text[:59] + "…"
