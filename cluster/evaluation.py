"""Evaluation with fixed prompts and seeds that are never trained on.

Every reward; the diversity within a prompt; the distance from what the pretrained model draws for it; the KL of the
chains. Where `policy.adapted_steps` lets the adapter act in some steps alone, the training prompts are drawn once more
with it in all of them, which is what an exported adapter does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import ray
from PIL import Image

from actors.model_check import partly_adapted
from actors.trajectories import EVALUATION, Request
from cluster.config import Config
from cluster.measures.spread import mean_pairwise_distance
from cluster.prompts import make_requests, read_prompts
from cluster.records.grids import COLUMNS, EVERYWHERE, ROWS
from cluster.records.metrics import finite_mean
from cluster.records.pictures import grid
from cluster.sources.rollouts import Rollout, Rollouts
from cluster.sources.source import Progress, unseen


def evaluate(
    config: Config,
    rollouts: Rollouts,
    version: int,
    weights: ray.ObjectRef | None = None,
    pretrained: Mapping[str, np.ndarray] | None = None,
    progress: Progress = unseen,
) -> tuple[dict[str, float], dict[str, list[Rollout]]]:
    """Sample and score the evaluation set: training prompts and held-out ones, if there are any.

    Args:
        config: Of the run.
        rollouts: Of the run; training requests under way in it go on.
        version: The oldest weights that may act.
        weights: Act with exactly these instead (an exponential average).
        pretrained: `features` of this evaluation with the pretrained model, by split, to measure the distance from.
        progress: Is told how many of how many images are scored, whenever some are.

    Returns:
        Metrics `eval/<split>/<name>`, and the rollouts of each split ("train", "held_out" and `EVERYWHERE`).
    """
    requests: dict[tuple, Request] = {}
    train, held_out = config.prompts.train, config.prompts.held_out
    policy = config.policy.model_copy(update={"model": config.pipeline})
    elsewhere = None if partly_adapted(policy) is None else train
    for offset, split, source, samples in (
        (0, "train", train, config.evaluation.samples),
        (1, "held_out", held_out, config.evaluation.held_out_samples),
        (0, EVERYWHERE, elsewhere, config.evaluation.samples),
    ):
        if source is not None:
            made = make_requests(
                read_prompts(source),
                samples,
                config.samplers.request_size,
                seed=config.seed,
                iteration=EVALUATION + offset,
                most=config.evaluation.prompts,
                steps=config.policy.steps,
            )
            asked = [replace(request, kl=True, everywhere=split == EVERYWHERE) for request in made]
            requests |= {(EVALUATION, split, number): request for number, request in enumerate(asked)}
    for key, request in requests.items():
        rollouts.submit(key, request, version, weights, config.evaluation.features)
    found: dict[tuple, Rollout] = {}
    done, images = 0, sum(len(request.prompts) for request in requests.values())
    while len(found) < len(requests):
        progress(done, images)
        rollouts.wait()
        new = rollouts.finished(requests)
        found |= new
        done += sum(len(rollout.request.prompts) for rollout in new.values())
    metrics: dict[str, float] = {}
    by_split: dict[str, list[Rollout]] = {}
    for key in requests:
        by_split.setdefault(key[1], []).append(found[key])
    for split, sampled in by_split.items():
        for name in config.scoring:
            metrics[f"eval/{split}/{name}"] = finite_mean(np.concatenate([r.scores[name] for r in sampled]))
        if kls := [r.kl for r in sampled for _ in r.request.prompts if r.kl is not None]:
            metrics[f"eval/{split}/kl"] = float(np.mean(kls))
        if config.evaluation.features is not None:
            metrics[f"eval/{split}/diversity"] = diversity(sampled)
            if pretrained is not None and split in pretrained:
                metrics[f"eval/{split}/distance"] = distance(sampled, pretrained[split])
    return metrics, by_split


def leaves_out(config: Config) -> str | None:
    """What evaluations leave out of long lists of prompts, in a sentence; `None` if nothing."""
    most = config.evaluation.prompts
    lengths = {
        kind: len(read_prompts(source))
        for kind, source in (("training", config.prompts.train), ("held-out", config.prompts.held_out))
        if source is not None
    }
    long = {kind: length for kind, length in lengths.items() if most is not None and length > most}
    parts = [f"{most} of the {length:,} {kind} prompts" for kind, length in long.items()]
    if not parts:
        return None
    return f"evaluations ask for {' and '.join(parts)}, the same every time (evaluation.prompts=null asks for all)"


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


def sample_grid(rollouts: Sequence[Rollout], rows: int = ROWS, columns: int = COLUMNS) -> Image.Image:
    """The grid of the first samples of the first prompts of an evaluation; fetches only the rollouts that it shows."""
    cells: dict[tuple[int, int], np.ndarray] = {}
    prompts: dict[int, str] = {}
    for rollout in rollouts:
        request = rollout.request
        shown = [
            (i, (prompt, sample))
            for i, (prompt, sample) in enumerate(zip(request.prompt_index, request.sample_index, strict=True))
            if prompt < rows and sample < columns
        ]
        if shown:
            pixels = ray.get(rollout.pixels)
            cells |= {place: pixels[i] for i, place in shown}
            prompts |= {place[0]: request.prompts[i] for i, place in shown}
    size = max(column for _, column in cells) + 1
    sheet = np.stack([np.stack([cells[row, column] for column in range(size)]) for row in sorted(prompts)])
    return grid(sheet, [prompts[row] for row in sorted(prompts)])
