"""What Ray's dashboard and Prometheus see of a run: the loop's figures as gauges, and the phase that it is in.

The loop keeps its figures in one dictionary; `EXPORTED` alone says under which name and with which tags each of them is
exported. Actors know nothing of it: what concerns them comes with their receipts. Ray's agents put `ray_` before every
name, and serve them to Prometheus (`docs/monitoring.md`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Literal, get_args

from ray.util.metrics import Counter, Gauge

Phase = Literal["starting", "sampling", "learning", "evaluation", "checkpoint"]
PHASES: tuple[Phase, ...] = get_args(Phase)

# Name of a figure, where <tag> stands for a tag's value -> name of its gauge. The first that matches is taken.
EXPORTED = {
    "iteration": "reinoise_iteration",
    "reward/<statistic>": "reinoise_reward",
    "score/<reward>": "reinoise_score",
    "eval/<split>/<figure>": "reinoise_evaluation",
    "kl/<reference>": "reinoise_kl",
    "clip/<side>": "reinoise_clip_fraction",
    "staleness": "reinoise_staleness_versions",
    "dropped": "reinoise_dropped_share",
    "images_per_second": "reinoise_images_per_second",
    "sampler/<actor>/images_per_second": "reinoise_sampler_images_per_second",
    "sampler/<actor>/busy": "reinoise_sampler_busy_share",
    "sampler/<actor>/version": "reinoise_sampler_version",
    "publish_to_applied": "reinoise_publish_to_applied_seconds",
    "queue/<role>/<state>": "reinoise_queue_calls",
    "restarts/<role>": "reinoise_restarts",
    "time/<stage>": "reinoise_stage_seconds",
    "<figure>": "reinoise_objective",
}
# What adds up over the run, so that `rate()` works on it. Ray's agents put `_total` behind.
SAMPLES, DROPPED, PHASE_SECONDS = "reinoise_samples", "reinoise_dropped_samples", "reinoise_phase_seconds"
PHASE = "reinoise_training_phase"


class Telemetry:
    """Exports a run's figures through Ray.

    Args:
        run: Name of the run, the tag `run` of everything.
    """

    def __init__(self, run: str) -> None:
        self._patterns = [(re.compile(_TAG.sub(r"(?P<\1>.+?)", p) + "$"), name) for p, name in EXPORTED.items()]
        self._gauges = {
            name: Gauge(name, tag_keys=("run", *_TAG.findall(pattern), *_also(name)))
            for pattern, name in EXPORTED.items()
        } | {PHASE: Gauge(PHASE, tag_keys=("run", "phase"))}
        self._counters = {
            SAMPLES: Counter(SAMPLES, tag_keys=("run",)),
            DROPPED: Counter(DROPPED, tag_keys=("run",)),
            PHASE_SECONDS: Counter(PHASE_SECONDS, tag_keys=("run", "phase")),
        }
        for metric in (*self._gauges.values(), *self._counters.values()):
            metric.set_default_tags({"run": run})
        self._phase: Phase | None = None
        self._since = time.monotonic()
        self.phase(None)

    @property
    def names(self) -> set[str]:
        """Of everything that is exported, as the agents write it but for their `ray_`."""
        return set(self._gauges) | {f"{name}_total" for name in self._counters}

    def phase(self, phase: Phase | None) -> None:
        """Say what the driver is waiting for now, or that it has ended: at most one phase is 1, all others are 0."""
        now = time.monotonic()
        if self._phase is not None and now > self._since:
            self._counters[PHASE_SECONDS].inc(now - self._since, {"phase": self._phase})
        self._phase, self._since = phase, now
        for name in PHASES:
            self._gauges[PHASE].set(float(name == phase), {"phase": name})

    def record(self, figures: Mapping[str, float]) -> None:
        """Export figures of the loop, by their names in `docs/metrics.md`."""
        for figure, value in figures.items():
            name, tags = self._place(figure)
            also = {tag: f"{figures.get(tag, 0):.0f}" for tag in _also(name)}
            self._gauges[name].set(value, tags | also)
        for counter, share in ((SAMPLES, 1.0), (DROPPED, figures.get("dropped", 0.0))):
            if (count := share * figures.get("samples", 0.0)) > 0:
                self._counters[counter].inc(count)

    def _place(self, figure: str) -> tuple[str, dict[str, str]]:
        return next((name, match.groupdict()) for pattern, name in self._patterns if (match := pattern.match(figure)))


_TAG = re.compile(r"<(\w+)>")


def _also(name: str) -> tuple[str, ...]:
    """Tags that come from another figure of the same iteration."""
    return ("staleness",) if name == "reinoise_clip_fraction" else ()
