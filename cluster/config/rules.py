"""What cannot work, one function a rule: each raises `ValueError` with a sentence that has no full stop.

A rule sees a configuration whose values have their types and ranges; rules before it in `RULES` hold already.
"""

from __future__ import annotations

from collections.abc import Callable

from actors.policy import check_model
from cluster.config.schema import Config
from cluster.prompts import read_prompts
from rewards.reward import UnknownReward


def groups_are_compared(config: Config) -> None:
    objective = config.objective.build()
    if objective.needs_groups and config.prompts.samples < 2:
        raise ValueError(
            f"prompts.samples is {config.prompts.samples}, but {config.objective.name} compares samples of the same "
            "prompt; give at least 2"
        )


def samplers_are_enough(config: Config) -> None:
    if (least := config.samplers.min_count) and least > config.samplers.count:
        raise ValueError(f"samplers.min_count is {least}, but samplers.count is only {config.samplers.count}")


def rewards_are_there(config: Config) -> None:
    try:
        config.environments  # noqa: B018 (it looks for the class and the environment of each)
    except (UnknownReward, FileNotFoundError) as error:
        raise ValueError(str(error).rstrip(".")) from None


def rewards_have_weight(config: Config) -> None:
    if not any(reward.weight for reward in config.rewards.values()):
        raise ValueError("every reward has weight 0, so there is nothing to learn from; give one a weight")


def rewards_have_gradients(config: Config) -> None:
    objective = config.objective.build()
    if objective.needs_reward == "gradients":
        for name, reward in config.rewards.items():
            if reward.weight and not config.reward_class(name).differentiable:
                raise ValueError(
                    f"rewards.{name} has no gradient with respect to the image, which {config.objective.name} needs; "
                    "give it weight 0 to watch it, or choose another objective"
                )


def learner_can_hold_the_rewards(config: Config) -> None:
    objective = config.objective.build()
    if objective.needs_reward != "nothing" and config.reward_actors.gradients == "learner":
        isolated = {name for environment, names in config.environments.items() if environment for name in names}
        for name, reward in config.rewards.items():
            if reward.weight and name in isolated:
                raise ValueError(
                    f"rewards.{name} lives in an environment of its own, so the learner cannot hold the copy "
                    f"that {config.objective.name} asks for; set reward_actors.gradients=actors"
                )


def reward_stays_raw(config: Config) -> None:
    objective = config.objective.build()
    if objective.needs_reward != "nothing" and config.standardise != "nothing":
        raise ValueError(
            f"{config.objective.name} trains on the reward itself, which standardising would move; "
            "leave combination.standardise null, or set it to nothing"
        )


def tracker_can_know_enough(config: Config) -> None:
    if config.standardise == "prompt" and config.combination.min_count > config.combination.buffer:
        raise ValueError(
            f"combination.min_count is {config.combination.min_count}, but only the last {config.combination.buffer} "
            "scores of a prompt are remembered (combination.buffer)"
        )


def features_are_of_a_reward(config: Config) -> None:
    if config.evaluation.features is not None and config.evaluation.features not in config.rewards:
        raise ValueError(
            f"evaluation.features names {config.evaluation.features!r}, which is not among the rewards; add it with "
            "weight 0, or set evaluation.features=null"
        )


def model_is_there(config: Config) -> None:
    try:
        check_model(config.pipeline)
    except FileNotFoundError as error:
        raise ValueError(str(error).rstrip(".")) from None


def prompts_are_there(config: Config) -> None:
    read_prompts(config.prompts.train)
    read_prompts(config.prompts.held_out)


def requests_fill_the_batch(config: Config) -> None:
    if config.batch_size % config.samplers.request_size:
        fits = max(d for d in range(1, config.samplers.request_size) if config.batch_size % d == 0)
        raise ValueError(
            f"samplers.request_size={config.samplers.request_size} does not divide the {config.batch_size} samples of "
            f"an iteration; {fits} does"
        )


RULES: tuple[Callable[[Config], None], ...] = (
    groups_are_compared,
    samplers_are_enough,
    rewards_are_there,
    rewards_have_weight,
    rewards_have_gradients,
    learner_can_hold_the_rewards,
    reward_stays_raw,
    tracker_can_know_enough,
    features_are_of_a_reward,
    model_is_there,
    prompts_are_there,
    requests_fill_the_batch,
)
