"""Every reward on a few real pictures before anything is trained, so that none is found out after hours of sampling."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import ray

from actors.trajectories import EVALUATION
from cluster.config import Config
from cluster.crew.pool import Pool
from cluster.crew.remote_reward import RemoteReward
from cluster.prompts import make_requests, read_prompts
from cluster.sources.rollouts import Rollout, Rollouts
from rewards import is_remote
from rewards.errors import RewardUnavailable
from rewards.reward import to_images

log = logging.getLogger(__name__)

_PICTURES = 4
_KEY = "first pictures"  # of their rollout


def check_rewards(config: Config, rollouts: Rollouts, rewards: Mapping[tuple[str, ...], Pool]) -> None:
    """Ask each reward about a few training prompts' pictures for all that the run will ask of it.

    A watched reward that judges none of them costs a warning.

    Args:
        config: Of the run.
        rollouts: Of the run.
        rewards: Pools of reward actors, by the names of the rewards that they hold.

    Raises:
        RewardUnavailable: In one sentence, if a reward that is trained on judges none of them, has no gradient for any
            though the objective needs one, or has no features though the evaluation does.
        RewardFailed: In one sentence, if asking for a gradient fails.
    """
    prompts = read_prompts(config.prompts.train)
    count = min(_PICTURES, config.samplers.request_size, len(prompts))
    chosen = tuple(prompts[i] for i in np.linspace(0, len(prompts) - 1, count).astype(int))
    steps = config.policy.steps
    (request,) = make_requests(chosen, 1, count, seed=config.seed, iteration=EVALUATION, steps=steps)
    rollouts.submit(_KEY, request, 0, features=config.evaluation.features, strict=True)
    while (rollout := rollouts.take(_KEY)) is None:
        rollouts.wait()
    _check_scores(config, rollout)
    if config.objective.asks.reward == "gradients":
        _check_gradients(config, rollout, rewards)
    for name, reward in config.rewards.items():
        if is_remote(reward.kind or name) and any(prompt.metadata for prompt in prompts):
            log.warning("The reward %r sees the prompts without their metadata, which gRPC does not carry.", name)


def _check_scores(config: Config, rollout: Rollout) -> None:
    for name, scores in rollout.scores.items():
        if np.isfinite(scores).any():
            continue
        failure = rollout.failed.get(name)
        if config.rewards[name].weight:
            why = failure or f"The reward {name!r} answered all of them with NaN or infinity."
            raise RewardUnavailable(
                f"Nothing is trained, because the first {len(scores)} pictures already could not be judged: {why}"
            )
        # A failure has been shown, and what is there for its features alone has no score.
        if not failure and not config.reward_class(name).features_only:
            log.warning("The watched reward %r judged none of the first %d pictures.", name, len(scores))
    if (features := config.evaluation.features) is not None and rollout.features is None:
        raise RewardUnavailable(
            f"The reward {features!r} gave no image features, which evaluation.features asks it for: "
            f"{rollout.failed[features]}"
        )


def _check_gradients(config: Config, rollout: Rollout, rewards: Mapping[tuple[str, ...], Pool]) -> None:
    images = to_images(ray.get(rollout.pixels))
    for name, reward in config.rewards.items():
        if reward.weight:
            (actors,) = (pool.actors for names, pool in rewards.items() if name in names)
            _, gradients = RemoteReward({(name,): actors}, {name: 1.0}).score_and_grad(images, rollout.request.prompts)
            if not gradients.isfinite().flatten(1).all(dim=1).any():
                raise RewardUnavailable(
                    f"Nothing is trained, because the gradient of the reward {name!r} is not finite for any of the "
                    f"first {len(images)} pictures."
                )
