"""The training loop: prompts -> samplers -> rewards -> learner -> weights, and round again.

No tensor work happens here: the driver moves references and scores.
"""

from __future__ import annotations

import time
from typing import Any, cast

import numpy as np
import ray

from cluster.batches import Batches
from cluster.config import Config
from cluster.display import Display
from cluster.evaluate import evaluate, features
from cluster.metrics import iteration_metrics, pool_metrics
from cluster.pictures import sample_grid
from cluster.placement import Crew
from cluster.rollouts import Rollout, Rollouts
from cluster.rundir import RunDirectory
from cluster.stopping import Stopped, at_once
from learner import checkpoint
from rewards.combine import Combiner


class RunStopped(RuntimeError):
    """The run cannot go on; the message is one sentence for the user."""


def train(config: Config, crew: Crew, run: RunDirectory, display: Display) -> None:
    """Train until `config.iterations`, from the newest checkpoint of the run directory if it has one.

    Raises:
        RunStopped: If too many samples have no reward.
        Stopped: After SIGTERM, with a checkpoint of the last iteration written.
        ActorsLost: If actors of one role died too often.
        RayActorError: If the learner or the weight store died; calling again with a new crew continues from the last
            checkpoint.
    """
    rollouts = Rollouts(crew.samplers, crew.rewards, tuple(config.rewards))
    combiner = Combiner({name: r.weight for name, r in config.rewards.items()}, config.normalises)
    version = _restore(crew, run, combiner)
    batches = Batches(config, rollouts, version)
    batches.draw_offline()
    _publish(crew, crew.learner.weights.remote())
    if not run.has(version):
        metrics, splits = _evaluate(config, crew, rollouts, run, display, version)
        run.record(version, metrics, splits)
        _checkpoint(config, crew, run, combiner)
    while version < config.iterations:
        started = time.time()
        display.status("sampling")
        try:
            with at_once():
                batch = batches.batch(version)
        except Stopped:
            if version % config.checkpoints.every:
                display.status("checkpoint")
                _checkpoint(config, crew, run, combiner)
            raise
        scores = {name: np.concatenate([r.scores[name] for r in batch]) for name in config.rewards}
        display.status("learning")
        rewards = combiner.combine(scores)
        _check_dropped(rewards, config.failures.max_dropped_share)
        update, weights = crew.learner.update.options(num_returns=2).remote(rewards, *[r.trajectories for r in batch])
        updated = batches.wait_for(update)
        _publish(crew, weights)
        metrics = iteration_metrics(updated, batch, scores, rewards, time.time() - started)
        metrics |= pool_metrics(sampler=crew.samplers, reward=crew.rewards)
        splits = {"training": batch}
        version = updated.version
        display.iteration(version, metrics)
        last = version == config.iterations
        if last or (config.evaluation.every and version % config.evaluation.every == 0):
            found, sampled = _evaluate(config, crew, rollouts, run, display, version)
            metrics, splits = metrics | found, splits | sampled
        run.record(version, metrics, splits)
        if last or version % config.checkpoints.every == 0:
            display.status("checkpoint")
            _checkpoint(config, crew, run, combiner)


def _publish(crew: Crew, weights: ray.ObjectRef) -> None:
    ray.get(crew.store.publish.remote(weights, [weights]))


def _restore(crew: Crew, run: RunDirectory, combiner: Combiner) -> int:
    if not checkpoint.list_all(run.checkpoints):
        run.rewind(-1)
        return 0
    newest = checkpoint.newest(run.checkpoints).absolute()
    version, extra = cast(tuple[int, dict[str, Any]], ray.get(crew.learner.restore.remote(str(newest))))
    combiner.load_state_dict(extra["combiner"])
    run.rewind(version)
    return version


def _checkpoint(config: Config, crew: Crew, run: RunDirectory, combiner: Combiner) -> None:
    folder, extra = str(run.checkpoints.absolute()), {"combiner": combiner.state_dict()}
    ray.get(crew.learner.save.remote(folder, config.checkpoints.keep, extra))


def _evaluate(
    config: Config, crew: Crew, rollouts: Rollouts, run: RunDirectory, display: Display, version: int
) -> tuple[dict[str, float], dict[str, list[Rollout]]]:
    display.status("evaluation")
    averaged = crew.learner.weights.remote(True) if config.learner.ema_decay else None
    metrics, splits = evaluate(config, rollouts, version, averaged, run.pretrained() if version else None)
    if version == 0 and config.evaluation.features is not None:
        found = {split: features(sampled) for split, sampled in splits.items()}
        if all(of_split is not None for of_split in found.values()):
            run.write_pretrained(cast(dict[str, np.ndarray], found))
    display.evaluation(version, metrics)
    for split, sampled in splits.items():
        run.write_grid(split, version, sample_grid(sampled))
    return metrics, splits


def _check_dropped(rewards: np.ndarray, allowed: float) -> None:
    if (share := float(np.isnan(rewards).mean())) > allowed:
        raise RunStopped(
            f"{share:.0%} of an iteration's samples got no reward, more than failures.max_dropped_share={allowed} "
            "allows; the log says which reward failed and why."
        )
