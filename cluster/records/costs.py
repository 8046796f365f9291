"""What the work of a run has cost, by role: read off its records, by processes without Ray or torch."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.records.reading import Records


@dataclass(frozen=True)
class Costs:
    """Medians over the iterations on record, of which the first counts only where it is the only one."""

    images: float  # of an iteration
    asked: float  # images that the rollout calls of an iteration are for: of a dataset some are left out afterwards
    request_size: int  # images of such a call
    sampling: float  # seconds of a sampler, an image
    scoring: dict[str, float]  # seconds of a reward actor, an image; by the rewards that share an actor
    learning: float  # seconds of all ranks together, an image
    iteration: float  # seconds from one batch to the next
    samplers: int
    reward_actors: int  # of each environment
    ranks: int
    sizes: dict[str, float]  # settings that the images of an iteration grow with, and their values


def costs_of(run: Records, config: Mapping[str, Any]) -> Costs:
    """The costs of a run.

    Args:
        run: Which.
        config: Its settings, as it saved them.

    Raises:
        LookupError: In one sentence, if nothing on record says them.
    """
    series = {name: dict(values) for name, values in run.metrics().items()}
    needed = [series.get(name, {}) for name in ("samples", "time/sample", "time/learn", "time/iteration")]
    known = sorted(set.intersection(*map(set, needed)))
    iterations = [i for i in known if needed[0][i] > 0]
    if not iterations:
        raise LookupError(
            f"The run in {run.path} has no iteration on record yet, and costs are read off iterations; let it do a few."
        )
    counted = iterations[1:] or iterations  # models are loaded, kernels chosen and caches filled in the first
    images, sampling, learning, seconds = ({i: values[i] for i in counted} for values in needed)
    if not statistics.median(sampling.values()):
        raise LookupError(
            f"The run in {run.path} goes round batches that were drawn once, so no number of samplers makes it faster."
        )
    try:
        samplers, rewards, learner = config["samplers"], config["reward_actors"], config["learner"]
        counts = int(samplers["count"]), int(rewards["count"]), int(learner["ranks"])
        size, middle = int(samplers["request_size"]), statistics.median(images.values())
        sizes = _sizes(config, middle)
    except (KeyError, TypeError, ValueError):
        raise LookupError(
            f"The settings of the run in {run.path} cannot be read, so its costs are of nothing."
        ) from None

    def an_image(values: Mapping[int, float]) -> float:
        return statistics.median(values.get(i, 0.0) / images[i] for i in counted)

    evaluated = set(run.evaluations())  # whose calls stand beside those of the batch
    scored: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for iteration, span in run.timeline(max(known)):
        if span.what == "score":
            scored[span.who.rpartition(" ")[0]][iteration] += span.seconds
    if scored and evaluated.issuperset(counted):
        raise LookupError(
            f"Every iteration of the run in {run.path} that counts was evaluated too, and what rewards have cost is "
            "read off the others; let it do three iterations or more with evaluation.every=0."
        )
    scoring = {
        names: statistics.median(of.get(i, 0.0) / images[i] for i in counted if i not in evaluated)
        for names, of in sorted(scored.items())
    }
    return Costs(
        images=middle,
        asked=2 * sizes["data.pairs"] if "data.pairs" in sizes else middle,
        request_size=size,
        sampling=an_image(sampling),
        scoring={names: cost for names, cost in scoring.items() if cost > 0},
        learning=an_image(learning) * counts[2],
        iteration=statistics.median(seconds.values()),
        samplers=counts[0],
        reward_actors=counts[1],
        ranks=counts[2],
        sizes=sizes,
    )


def _sizes(config: Mapping[str, Any], images: float) -> dict[str, float]:
    if config.get("data"):
        return {"data.pairs": float(config["data"]["pairs"])}
    samples = float(config["prompts"]["samples"])
    return {"prompts.per_iteration": images / samples, "prompts.samples": samples}
