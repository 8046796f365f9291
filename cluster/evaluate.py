"""Evaluation with fixed prompts and seeds that are never trained on.

Every reward; the diversity within a prompt; the distance from what the pretrained model draws for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import ray

from actors.trajectories import EVALUATION
from cluster.config import Config
from cluster.prompts import make_requests, read_prompts
from cluster.rollouts import Rollout, Rollouts


def evaluate(
    config: Config,
    rollouts: Rollouts,
    version: int,
    weights: ray.ObjectRef | None = None,
    pretrained: Mapping[str, np.ndarray] | None = None,
) -> tuple[dict[str, float], dict[str, list[Rollout]]]:
    """Sample and score the evaluation set: the training prompts and the held-out ones.

    Args:
        config: Of the run.
        rollouts: Of the run; training requests under way in it go on.
        version: The oldest weights that may act.
        weights: Act with exactly these instead (an exponential average).
        pretrained: `features` of this evaluation with the pretrained model, by split, to measure the distance from.

    Returns:
        Metrics `eval/<split>/<name>`, and the rollouts of each split ("train" and "held_out").
    """
    requests = {
        (EVALUATION, split, number): request
        for offset, (split, source, samples) in enumerate(
            (
                ("train", config.prompts.train, config.evaluation.samples),
                ("held_out", config.prompts.held_out, config.evaluation.held_out_samples),
            )
        )
        for number, request in enumerate(
            make_requests(
                read_prompts(source),
                samples,
                config.samplers.request_size,
                seed=config.seed,
                iteration=EVALUATION + offset,
            )
        )
    }
    for key, request in requests.items():
        rollouts.submit(key, request, version, weights, config.evaluation.features)
    found: dict[tuple, Rollout] = {}
    while len(found) < len(requests):
        rollouts.wait()
        found |= {key: done for key in requests if (done := rollouts.take(key)) is not None}
    metrics: dict[str, float] = {}
    by_split: dict[str, list[Rollout]] = {}
    for split in ("train", "held_out"):
        by_split[split] = [found[key] for key in requests if key[1] == split]
        for name in config.rewards:
            metrics[f"eval/{split}/{name}"] = float(np.nanmean([s for r in by_split[split] for s in r.scores[name]]))
        if config.evaluation.features is not None:
            metrics[f"eval/{split}/diversity"] = diversity(by_split[split])
            if pretrained is not None:
                metrics[f"eval/{split}/distance"] = distance(by_split[split], pretrained[split])
    return metrics, by_split


def features(rollouts: Sequence[Rollout]) -> np.ndarray | None:
    """Image features `(B, D)` float32 of rollouts, NaN where they could not be computed; `None` if there are none."""
    widths = [r.features.shape[1] for r in rollouts if r.features is not None]
    if not widths:
        return None
    missing = [np.full((len(r.request.prompts), widths[0]), np.nan, np.float32) for r in rollouts]
    return np.concatenate([m if r.features is None else r.features for r, m in zip(rollouts, missing, strict=True)])


def diversity(rollouts: Sequence[Rollout]) -> float:
    """Mean distance between the image features of two samples of the same prompt, averaged over prompts.

    Samples whose features could not be computed take no part, nor do prompts with fewer than two others; NaN if nothing
    is left.
    """
    found = features(rollouts)
    if found is None:
        return float("nan")
    known = np.isfinite(found).all(axis=1)
    groups = _prompts(rollouts)
    pairs = [found[known & (groups == group)] for group in np.unique(groups)]
    distances = [mean_pairwise_distance(group) for group in pairs if len(group) > 1]
    return float(np.mean(distances)) if distances else float("nan")


def distance(rollouts: Sequence[Rollout], pretrained: np.ndarray) -> float:
    """Energy distance between the image features of the samples and the pretrained model's, averaged over prompts.

    For each prompt 2 E|X - Y| - E|X - X'| - E|Y - Y'| (Szekely & Rizzo 2013), without bias: two samples that share
    their seed are not compared. It is 0 where nothing has changed, and can fall a little below by chance.

    Args:
        rollouts: Of an evaluation.
        pretrained: `features` of the same evaluation with the pretrained model.
    """
    found = features(rollouts)
    if found is None:
        return float("nan")
    known = np.isfinite(found).all(axis=1) & np.isfinite(pretrained).all(axis=1)
    groups = _prompts(rollouts)
    distances = []
    for group in np.unique(groups):
        now, before = found[known & (groups == group)], pretrained[known & (groups == group)]
        if len(now) > 1:
            across = np.linalg.norm(now[:, None] - before[None], axis=2)
            across = across[~np.eye(len(now), dtype=bool)].mean()
            distances.append(2 * across - mean_pairwise_distance(now) - mean_pairwise_distance(before))
    return float(np.mean(distances)) if distances else float("nan")


def _prompts(rollouts: Sequence[Rollout]) -> np.ndarray:
    return np.concatenate([r.request.prompt_index for r in rollouts])


def mean_pairwise_distance(features: np.ndarray) -> float:
    """Mean Euclidean distance over all pairs of rows of `(n, D)`, n at least 2."""
    rows, columns = np.triu_indices(len(features), k=1)
    return float(np.linalg.norm(features[rows] - features[columns], axis=1).mean())
