"""The training loop: prompts -> samplers -> rewards -> learner -> weights, and round again.

No tensor work happens here: the driver moves references and scores.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import ray
from ray.exceptions import GetTimeoutError

from cluster.config import Config
from cluster.crew.crew import Crew
from cluster.errors import Hung, NobodyChose, RunStopped
from cluster.evaluation import evaluate, features, sample_grid
from cluster.guarding import Guarding
from cluster.pages.live import LivePage
from cluster.records import warned
from cluster.records.display import Display
from cluster.records.metrics import iteration_metrics, pool_metrics, span_metrics
from cluster.records.rundir import RunDirectory
from cluster.records.timeline import Span
from cluster.records.watch import Watch, of_people
from cluster.sources.canaries import check_canaries
from cluster.sources.dataset import Dataset
from cluster.sources.first_pictures import check_rewards
from cluster.sources.offline import Offline
from cluster.sources.people import Asked
from cluster.sources.rollouts import Rollouts
from cluster.sources.samplers import Sampled
from cluster.sources.source import Source
from cluster.stopping import Stopped, at_once
from learner import checkpoint
from learner.actor import Which
from learner.learner import Update
from learner.objectives.objective import Plan

log = logging.getLogger(__name__)


def train(config: Config, crew: Crew, run: RunDirectory, display: Display) -> None:
    """Train until `config.iterations`, from the newest checkpoint of the run directory if it has one.

    Raises:
        RunStopped: If too many samples have no reward.
        RewardUnavailable, RewardFailed: If a reward cannot do on the first pictures what the run asks of it, or says
            something else of its canaries than is known.
        Stopped: If the run was asked to end, with a checkpoint of the last iteration written.
        ActorsLost: If actors of one role died too often.
        RayActorError, ObjectLostError, Hung: If the learner or the weight store died or hangs, or a node took what it
            alone had; calling again with a new crew continues from the last checkpoint. Whoever depended on what was
            lost may speak first, see `Crew.lost`.
    """
    judges = [name for name, weight in config.weights.items() if weight]
    rollouts = Rollouts(crew.samplers, crew.rewards, judges)
    watch = Watch(judges)
    version = saved = _restore(crew, run)
    at_a_time: float | str = config.learner.micro_batch
    plans = crew.learner.plans(config.iterations)
    source = _source(config, crew, rollouts, version, plans)
    if config.people is not None:
        source = Asked(source, config.asks_people(), config.people, run.path, display.note, display.pairs)
    # What is learned is judged, also where what acts is not that; `None` is what has been published.
    judged: Which | None = "averaged" if config.learner.ema_decay else "trained" if plans[0].trails else None
    with at_once():
        check_canaries(config, crew.rewards)
    if version == 0:
        with at_once():
            check_rewards(config, rollouts, crew.rewards)
    _publish(config, crew, crew.learner.weights())
    if not checkpoint.list_all(run.checkpoints):
        _checkpoint(config, crew, run)
    guard = Guarding(config, run, display, crew.learner, version)
    try:
        if _evaluates(config, version) and not run.evaluated(version):  # also where a request to end came before it
            _evaluate(config, crew, rollouts, run, display, version, judged)
            guard.look(version)
        page = LivePage(run)
        display.going_on(version)
        while version < config.iterations and not guard.stopped:
            started = time.time()
            display.status("sampling")
            with at_once():
                batch = source.batch(version, display.images)
            scores = {name: np.concatenate([r.scores[name] for r in batch]) for name in config.weights}
            dropped = _dropped(config, scores)
            display.status("learning")
            candidates = {name: np.concatenate([r.candidates[name] for r in batch]) for name in batch[0].candidates}
            updates, weights = crew.learner.update(scores, [r.trajectories for r in batch], candidates)
            updated = rollouts.wait_for(updates, config.failures.patience.learn)[0]
            _publish(config, crew, weights)
            metrics = iteration_metrics(updated, batch, scores, dropped, time.time() - started)
            metrics |= span_metrics(rollouts.spans, updated)
            metrics |= pool_metrics(sampler=crew.samplers, **{"+".join(names): p for names, p in crew.rewards.items()})
            version = updated.version
            if metrics.get("micro_batch", at_a_time) != at_a_time:
                at_a_time = metrics["micro_batch"]
                display.note(f"the learner's micro-batch is now {at_a_time:g}")
            display.iteration(version, metrics)
            for sentence in watch.look(version, metrics, scores, [i for r in batch for i in r.request.prompt_index]):
                log.warning("%s", sentence)
            run.record(version, metrics, {"training": batch}, [*_worked(crew, display), *_updated(updated)])
            if (warning := of_people(version, metrics)) is not None and warned.add(run.path, warning):
                log.warning("%s", warning.sentence)
            for pool in crew.pools:
                pool.progressed()
            # Before the evaluation, so that a failure there does not lose the update.
            if version == config.iterations or version % config.checkpoints.every == 0:
                display.status("checkpoint")
                _checkpoint(config, crew, run)
                saved = version
            if _evaluates(config, version):
                _evaluate(config, crew, rollouts, run, display, version, judged)
                guard.look(version)
            page.refresh()
        if guard.stopped:
            display.note(f"the run ends at iteration {version}, as guard.rules.{guard.stopped} asks (stop)")
            if saved != version:
                _checkpoint(config, crew, run)
    except (Stopped, NobodyChose):
        if saved != version:
            display.status("checkpoint")
            _checkpoint(config, crew, run)
        raise


def _source(config: Config, crew: Crew, rollouts: Rollouts, version: int, plans: Sequence[Plan]) -> Source:
    if config.data is not None:
        return Dataset(config, rollouts, version)
    if plans[0].offline_batches:
        return Offline(config, rollouts, plans, crew.learner.weights("initial"))
    return Sampled(config, rollouts, version, plans)


def _publish(config: Config, crew: Crew, weights: ray.ObjectRef) -> None:
    try:
        ray.get(crew.store.publish.remote([weights]), timeout=config.failures.patience.learn)
    except GetTimeoutError:
        patience = f"{config.failures.patience.learn:g} s (failures.patience.learn)"
        raise Hung(f"The weight store has not published new weights in {patience}.") from None


def _restore(crew: Crew, run: RunDirectory) -> int:
    if not checkpoint.list_all(run.checkpoints):
        run.rewind(-1)
        return 0
    newest = checkpoint.newest(run.checkpoints).absolute()
    version = crew.learner.restore(str(newest))
    run.rewind(version)
    return version


def _checkpoint(config: Config, crew: Crew, run: RunDirectory) -> None:
    crew.learner.save(str(run.checkpoints.absolute()), config.checkpoints.keep)


def _evaluates(config: Config, version: int) -> bool:
    every = config.evaluation.every
    return version in (0, config.iterations) or bool(every and version % every == 0)


def _evaluate(
    config: Config,
    crew: Crew,
    rollouts: Rollouts,
    run: RunDirectory,
    display: Display,
    version: int,
    judged: Which | None,
) -> None:
    display.status("evaluation")
    weights = crew.learner.weights(judged) if judged else None
    with at_once():
        metrics, splits = evaluate(
            config, rollouts, version, weights, run.pretrained() if version else None, display.images
        )
    if version == 0 and config.evaluation.features is not None:
        found = {split: features(sampled) for split, sampled in splits.items()}
        if all(of_split is not None for of_split in found.values()):
            run.write_pretrained(cast(dict[str, np.ndarray], found))
            metrics |= {f"eval/{split}/distance": 0.0 for split in found}
    display.evaluation(version, metrics)
    for split, sampled in splits.items():
        run.write_grid(split, version, sample_grid(sampled))
    run.add(version, metrics, splits, _worked(crew, display))


def _worked(crew: Crew, display: Display) -> list[Span]:
    """The driver's phases and the calls of rewards since this was last asked."""
    calls = [
        Span(f"{'+'.join(names)} {actor}", "score", started, seconds)
        for names, pool in crew.rewards.items()
        for actor, started, seconds in pool.take_work()
    ]
    return [*display.phases.take(), *calls]


def _updated(update: Update) -> list[Span]:
    return [Span("learner", "update", update.started, update.seconds)]


def _dropped(config: Config, scores: Mapping[str, np.ndarray]) -> float:
    """The share of an iteration's samples that a reward with a weight could not judge; people need not.

    Raises:
        RunStopped: If there are too many of them.
    """
    weighted = [name for name, weight in config.weights.items() if weight and name != config.people]
    judged = np.all([np.isfinite(scores[name]) for name in weighted], axis=0)
    share, allowed = float(1 - judged.mean()) if judged.size else 0.0, config.failures.max_dropped_share
    if share > allowed:
        raise RunStopped(
            f"{share:.0%} of an iteration's samples got no reward, more than failures.max_dropped_share={allowed} "
            "allows; the log says what failed and why."
        )
    return share
