"""What is logged of an iteration; `docs/metrics.md` explains every name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cluster.rollouts import Rollout
from learner.learner import Update
from rewards.combine import Combined


def iteration_metrics(
    update: Update, batch: Sequence[Rollout], scores: Mapping[str, np.ndarray], combined: Combined, seconds: float
) -> dict[str, float]:
    """The metrics of one iteration.

    Args:
        update: What the learner said.
        batch: What it was trained on.
        scores: `(B,)` of each reward.
        combined: The reward that they make.
        seconds: From the end of the last iteration to the end of this one.
    """
    rewards = combined.rewards
    kept = rewards[np.isfinite(rewards)]
    metrics = dict(update.metrics)
    metrics["reward/mean"], metrics["reward/std"] = float(kept.mean()), float(kept.std())
    for name, values in scores.items():
        finite = values[np.isfinite(values)]
        metrics[f"score/{name}"] = float(finite.mean()) if finite.size else float("nan")
    metrics |= {f"share/{name}": share for name, share in combined.shares.items()}
    metrics["samples"] = float(len(rewards))
    metrics["dropped"] = float(1 - len(kept) / len(rewards))
    metrics["staleness"] = float(update.version - 1 - min(rollout.version for rollout in batch))
    metrics["time/sample"] = float(sum(rollout.seconds for rollout in batch))
    metrics["time/learn"] = update.seconds
    metrics["time/iteration"] = seconds
    metrics["images_per_second"] = len(rewards) / seconds
    return metrics
