"""What Ray's dashboard and Prometheus see of a run: the loop's figures as gauges and counters, and its phase.

The loop keeps its figures in one dictionary; `GAUGES` and `COUNTERS` alone say under which name and with which tags
each of them is exported. Actors know nothing of it: what concerns them comes with their receipts. Ray's agents put
`ray_` before every name and `_total` behind counters, and serve them to Prometheus (`docs/monitoring.md`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Literal, get_args

from ray.util.metrics import Counter, Gauge

Phase = Literal["starting", "sampling", "choosing", "learning", "evaluation", "checkpoint"]
PHASES: tuple[Phase, ...] = get_args(Phase)

# Figure of the loop, where <tag> stands for a tag's value -> name and help text. The first pattern that matches counts.
GAUGES = {
    "iteration": ("reinoise_iteration", "Version of the weights that the last iteration made."),
    "reward/<statistic>": ("reinoise_reward", "Combined reward of the last batch."),
    "score/<reward>": ("reinoise_score", "Mean raw score of the last batch."),
    "eval/<split>/<figure>": ("reinoise_evaluation", "The last evaluation, by split."),
    "guard/<rule>": ("reinoise_guard", "What the last evaluation uses of what a rule allows; above 1 it is broken."),
    "kl/chain": ("reinoise_chain_kl", "KL of whole chains to the pretrained model's, nats."),
    "kl/untrained_share": ("reinoise_untrained_kl_share", "Share of it at steps that nobody trains."),
    "kl/<reference>": ("reinoise_kl", "KL divergence of the policy a step, nats per dimension."),
    "clip/<side>": ("reinoise_clip_fraction", "Share of transitions outside the proximal band, by staleness."),
    "staleness": ("reinoise_staleness_versions", "Versions between the oldest sample of the batch and the learner."),
    "dropped": ("reinoise_dropped_share", "Share of the batch without a reward."),
    "images_per_second": ("reinoise_images_per_second", "Images trained on a second, last iteration."),
    "sampler/<actor>/version": ("reinoise_sampler_version", "Newest weights that the sampler acted with."),
    "publish_to_applied": ("reinoise_publish_to_applied_seconds", "From publication of weights to use, slowest actor."),
    "queue/<role>/<state>": ("reinoise_queue_calls", "Calls that wait for an actor of the role, or run on one."),
    "restarts/<role>": ("reinoise_restarts", "Actors of the role that were lost and started again."),
    "time/<stage>": ("reinoise_stage_seconds", "Seconds that the last iteration spent."),
    "<figure>": ("reinoise_objective", "Everything else that the learner says of the last batch."),
}
# The same, for what adds up over a run, so that `rate()` works on it.
COUNTERS = {
    "samples": ("reinoise_samples", "Images trained on."),
    "sampler/<actor>/images": ("reinoise_sampler_images", "Images that the sampler drew for training."),
    "sampler/<actor>/seconds": ("reinoise_sampler_busy_seconds", "Seconds that the sampler spent on them."),
    "phase/<phase>": ("reinoise_phase_seconds", "Seconds that the driver spent in the phase."),
}
PHASE = ("reinoise_training_phase", "1 for the phase that the driver is in; all others are 0.")

_TAG = re.compile(r"<(\w+)>")
# A tag that comes from another figure of the same iteration.
_BORROWED = {"reinoise_clip_fraction": "staleness"}


class Telemetry:
    """Exports a run's figures through Ray, which must have been started.

    Args:
        run: Name of the run, the tag `run` of everything.
    """

    def __init__(self, run: str) -> None:
        self._metrics: list[tuple[re.Pattern, Gauge | Counter]] = []
        for kind, table in ((Counter, COUNTERS), (Gauge, GAUGES)):
            for figure, (name, text) in table.items():
                tags = ("run", *_TAG.findall(figure), *filter(None, [_BORROWED.get(name)]))
                metric = kind(name, text, tags).set_default_tags({"run": run})
                self._metrics.append((re.compile(_TAG.sub(r"(?P<\1>.+?)", figure) + "$"), metric))
        self._gauge = Gauge(*PHASE, ("run", "phase")).set_default_tags({"run": run})
        self._phase: Phase | None = None
        self._since = time.monotonic()
        self.phase(None)

    def phase(self, phase: Phase | None) -> None:
        """Say what the driver is waiting for now, or that it has ended: one phase is 1, the others are 0."""
        now = time.monotonic()
        if self._phase is not None:
            self.record({f"phase/{self._phase}": now - self._since})
        self._phase, self._since = phase, now
        for name in PHASES:
            self._gauge.set(float(name == phase), {"phase": name})

    def record(self, figures: Mapping[str, float]) -> None:
        """Export figures of the loop, by their names in `docs/metrics.md`."""
        for figure, value in figures.items():
            metric, match = next(
                (metric, match) for pattern, metric in self._metrics if (match := pattern.match(figure))
            )
            tags = match.groupdict()
            if borrowed := _BORROWED.get(metric.info["name"]):
                tags[borrowed] = f"{figures[borrowed]:.0f}"
            if isinstance(metric, Gauge):
                metric.set(value, tags)
            elif value > 0:  # Ray refuses to count nothing
                metric.inc(value, tags)


def exported_names() -> set[str]:
    """Of everything that a run exports, as Prometheus sees it."""
    gauges = {name for name, _ in (*GAUGES.values(), PHASE)}
    return {f"ray_{name}" for name in gauges} | {f"ray_{name}_total" for name, _ in COUNTERS.values()}
