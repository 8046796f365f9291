"""What is logged of an iteration; `docs/metrics.md` explains every name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from cluster.crew.pool import Pool
from cluster.sources.answers import Answers
from cluster.sources.pairs import Counts
from cluster.sources.rollouts import Rollout
from cluster.sources.spans import Spans
from learner.learner import Update


def iteration_metrics(
    update: Update, batch: Sequence[Rollout], scores: Mapping[str, np.ndarray], dropped: float, seconds: float
) -> dict[str, float]:
    """The metrics of one iteration.

    Args:
        update: What the learner said.
        batch: What it was trained on.
        scores: `(B,)` of each reward.
        dropped: Share of the samples that a reward with a weight could not judge.
        seconds: From asking for the batch to the publication of the new weights.
    """
    samples = sum(len(rollout.request.prompts) for rollout in batch)
    metrics = dict(update.metrics)
    metrics |= {f"score/{name}": finite_mean(values) for name, values in scores.items()}
    metrics["samples"], metrics["dropped"] = float(samples), dropped
    if (noisy := batch[0].request.noisy_steps) is not None:
        metrics["noise/first_step"], metrics["noise/last_step"] = float(noisy[0]), float(noisy[1] - 1)
    if counts := [rollout.counts for rollout in batch if rollout.counts is not None]:
        metrics |= {f"data/{name}": float(value) for name, value in asdict(sum(counts, Counts())).items()}
    if answers := [rollout.answers for rollout in batch if rollout.answers is not None]:
        metrics |= {f"people/{name}": float(value) for name, value in asdict(sum(answers, Answers())).items()}
    metrics["staleness"] = float(update.version - 1 - min(rollout.version for rollout in batch))
    metrics["time/sample"] = float(sum(rollout.seconds for rollout in batch))
    metrics["time/learn"] = update.seconds
    metrics["time/iteration"] = seconds
    metrics["images_per_second"] = samples / seconds
    drawn: dict[str, list[Rollout]] = {}
    for rollout in batch:
        if rollout.actor is not None:
            drawn.setdefault(rollout.actor, []).append(rollout)
    for actor, own in sorted(drawn.items()):
        metrics[f"sampler/{actor}/images"] = float(sum(len(rollout.request.prompts) for rollout in own))
        metrics[f"sampler/{actor}/seconds"] = sum(rollout.seconds for rollout in own)
        metrics[f"sampler/{actor}/version"] = float(max(rollout.version for rollout in own))
    if lags := [rollout.lag for rollout in batch if rollout.lag is not None]:
        metrics["publish_to_applied"] = max(lags)
    return metrics


def finite_mean(values: np.ndarray) -> float:
    """The mean of those values that are finite; NaN if none is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def span_metrics(spans: Spans, update: Update) -> dict[str, float]:
    """How busy samplers and learner were from the update before to this one, and how much of that update overlapped.

    The update before, because the rollouts that ran beside this one have not ended yet. Adds this one to the spans.
    """
    before = spans.last("learner")
    spans.add("learner", update.started, update.seconds)
    if before is None or not before[0] < before[1] <= update.started:
        return {}
    window = update.started - before[0]
    return {
        "busy/samplers": spans.busy("sampler", before[0], update.started) / window,
        "busy/learner": spans.busy("learner", before[0], update.started) / window,
        "overlap": spans.overlap("sampler", "learner", *before) / (before[1] - before[0]),
    }


def pool_metrics(**pools: Pool) -> dict[str, float]:
    """What the pools of each role have to do, and how often their actors died."""
    metrics = {}
    for role, pool in pools.items():
        waiting, running = pool.depths
        metrics[f"queue/{role}/waiting"] = float(waiting)
        metrics[f"queue/{role}/running"] = float(running)
        metrics[f"restarts/{role}"] = float(pool.deaths)
    return metrics
