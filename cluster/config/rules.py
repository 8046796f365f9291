"""What cannot work, one function a rule: each raises `ValueError` with a sentence that has no full stop.

A rule sees a configuration whose values have their types and ranges; rules before it in `RULES` hold already.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace

import torch

from actors.chain_kl import has_kl
from actors.compiling import check_compiler
from actors.devices import parse_device
from actors.model_check import check_model, check_prompts
from actors.quantising import check_quantised
from cluster.config.data_rules import DATA_RULES
from cluster.config.people_rules import PEOPLE_RULES
from cluster.config.schema import Config
from cluster.config.sentences import short
from cluster.config.watching_rules import WATCHING_RULES
from cluster.prompts import read_prompts
from cluster.start_images import check_starts, first_step, image_of
from learner.optimizer import check_optimizer
from rewards.options import check_options
from rewards.reward import Reward, UnknownReward

log = logging.getLogger(__name__)
_MAX_BATCH = 1_000_000  # images of an iteration
# Columns of samples.parquet, and what stands beside the rewards in eval/<split>/.
_TAKEN = {
    "iteration",
    "split",
    "prompt",
    "prompt_index",
    "sample_index",
    "seed",
    "version",
    "diversity",
    "distance",
    "kl",
}


def groups_are_compared(config: Config) -> None:
    if config.objective.asks.groups and config.samples_per_prompt < 2:
        raise ValueError(
            f"prompts.samples is {config.prompts.samples}, but {config.objective.name} compares samples of the same "
            "prompt; give at least 2"
        )


def standards_have_others(config: Config) -> None:
    by, samples = config.standardise, config.samples_per_prompt
    if by in ("group", "group_mean") and samples < 2:
        raise ValueError(
            f"prompts.samples is {samples}, but combination.standardise={by} measures a sample by the others of its "
            "prompt; give at least 2"
        )
    if by == "batch" and config.batch_size < 2:
        raise ValueError(
            "combination.standardise=batch measures a sample by the others of its batch, but a batch is a single "
            "image; raise prompts.samples or prompts.per_iteration"
        )


def some_samples_are_left_out(config: Config) -> None:
    keeps, samples = config.objective.asks.keeps, config.samples_per_prompt
    if keeps is not None and keeps >= samples:
        raise ValueError(
            f"objective.keep is {keeps}, but a prompt has {samples} samples, of which it would leave none out; set it "
            "to less, or to null"
        )


def samplers_are_enough(config: Config) -> None:
    if (least := config.samplers.min_count) and least > config.samplers.count:
        raise ValueError(f"samplers.min_count is {least}, but samplers.count is only {config.samplers.count}")


def rewards_have_plain_names(config: Config) -> None:
    for name in config.rewards:
        if not re.fullmatch(r"\w[\w-]{0,63}", name):
            raise ValueError(
                f"the reward's name {short(name)} will not do for columns and files; take letters, digits, _ and - "
                "alone, and say in its kind what it is"
            )
        if name in _TAKEN:
            raise ValueError(f"the reward's name {name!r} is taken by a column or a metric of every run; take another")


def rewards_are_there(config: Config) -> None:
    try:
        config.environments  # noqa: B018 (it looks for the class and the environment of each)
        for name, reward in config.rewards.items():
            check_options(reward.kind or name, reward.options)
    except (UnknownReward, FileNotFoundError) as error:
        raise ValueError(str(error).rstrip(".")) from None


def rewards_have_weight(config: Config) -> None:
    for name, reward in config.rewards.items():
        if reward.weight and config.reward_class(name).features_only:
            raise ValueError(
                f"rewards.{name} has image features and no score, so there is nothing to learn from it; set its weight "
                f"to 0, and evaluation.features to {name}"
            )
    if not any(config.weights.values()):
        raise ValueError("every reward has weight 0, so there is nothing to learn from; give one a weight")


def rewards_have_gradients(config: Config) -> None:
    if config.objective.asks.reward == "gradients":
        for name, reward in config.rewards.items():
            if reward.weight and not config.reward_class(name).differentiable:
                raise ValueError(
                    f"rewards.{name} has no gradient with respect to the image, which {config.objective.name} needs; "
                    "give it weight 0 to watch it, or choose another objective"
                )


def rewards_can_judge_the_prompts(config: Config) -> None:
    # What is only watched may say NaN.
    checks = {name: config.reward_class(name).check_prompt for name, reward in config.rewards.items() if reward.weight}
    for key in ("train", "held_out"):
        source = getattr(config.prompts, key)
        for prompt in read_prompts(source) if source else ():
            for name, check in checks.items():
                try:
                    check(prompt)
                except ValueError as error:
                    raise ValueError(
                        f"the reward {name!r} cannot judge the prompt {short(str(prompt))} of prompts.{key}: {error}"
                    ) from None


def learner_can_hold_the_rewards(config: Config) -> None:
    if config.objective.asks.reward != "scores" and config.reward_actors.gradients == "learner":
        isolated = {name for environment, names in config.environments.items() if environment for name in names}
        for name, reward in config.rewards.items():
            if reward.weight and name in isolated:
                raise ValueError(
                    f"rewards.{name} lives in an environment of its own, so the learner cannot hold the copy "
                    f"that {config.objective.name} asks for; set reward_actors.gradients=actors"
                )


def reward_stays_raw(config: Config) -> None:
    if config.objective.asks.reward != "scores" and (config.standardise != "nothing" or config.combination.whiten):
        raise ValueError(
            f"{config.objective.name} trains on the reward itself, which standardising would move; "
            "leave combination.standardise null, or set it to nothing, and combination.whiten to false"
        )


def tracker_can_know_enough(config: Config) -> None:
    if config.standardise == "prompt" and config.combination.min_count > config.combination.buffer:
        raise ValueError(
            f"combination.min_count is {config.combination.min_count}, but only the last {config.combination.buffer} "
            "scores of a prompt are remembered (combination.buffer)"
        )


def features_are_of_a_reward(config: Config) -> None:
    features = config.evaluation.features
    if features is not None and features not in config.rewards:
        raise ValueError(
            f"evaluation.features names {short(features)}, which is not among the rewards; add it with weight 0, or "
            "set evaluation.features=null"
        )
    if features is not None and config.reward_class(features).embed is Reward.embed:
        raise ValueError(
            f"evaluation.features names {features!r}, which has no image features; name another reward, or set "
            "evaluation.features=null"
        )


def learning_rate_is_sane(config: Config) -> None:
    if config.learner.lr > 0.1:
        log.warning(
            "learner.lr is %g: AdamW moves every weight by about so much in a step, and adapters are trained with 1e-5 "
            "to 1e-2.",
            config.learner.lr,
        )


def ratios_begin_at_one(config: Config) -> None:
    dtype = config.policy.dtype_on(_device(config))
    if config.objective.asks.ratios and config.samplers.max_staleness and dtype != torch.float32:
        log.warning(
            "samplers.max_staleness is %d, so most batches are of weights that the learner no longer has, and their "
            "log-probabilities keep the rounding of %s, often more than a clip range of 1e-4; 0 has the learner take "
            "them again.",
            config.samplers.max_staleness,
            str(dtype).removeprefix("torch."),
        )


def batches_are_of_the_policy(config: Config) -> None:
    if config.objective.asks.current and config.samplers.max_staleness:
        raise ValueError(
            f"samplers.max_staleness is {config.samplers.max_staleness}, but {config.objective.name} takes the policy "
            "that a batch finds for the one that drew it; set it to 0"
        )


def prompts_are_remembered_whole(config: Config) -> None:
    samples, combination = config.samples_per_prompt, config.combination
    if config.standardise == "prompt" and combination.buffer < samples:
        log.warning(
            "combination.buffer is %d and a prompt has %d samples in a batch, so all of them are measured by its last "
            "%d; set it to at least %d.",
            combination.buffer,
            samples,
            combination.buffer,
            samples,
        )


def _device(config: Config) -> torch.device:
    """Where the learner's networks will be, as far as the driver can know."""
    here = torch.device("cuda" if torch.cuda.is_available() or config.learner.gpus > 0 else "cpu")
    return parse_device(config.policy.device) or here


def gpus_can_be_reserved(config: Config) -> None:
    for role in ("samplers", "reward_actors", "learner"):
        gpus = getattr(config, role).gpus
        if (gpus > 1 and gpus % 1) or 0 < gpus < 1e-4:
            raise ValueError(f"{role}.gpus is {gpus}; Ray reserves whole GPUs, or at least 0.0001 of a single one")


def start_images_are_there(config: Config) -> None:
    train = read_prompts(config.prompts.train)
    for source in filter(None, (config.prompts.train, config.prompts.held_out)):
        check_starts(read_prompts(source), config.policy.steps)
    begins = {(image_of(prompt) is not None, first_step(prompt, config.policy.steps)): prompt for prompt in train}
    if len(begins) > 1:
        (_, one), (_, other), *_ = sorted(begins.items())
        raise ValueError(
            f"prompts.train holds {short(one)} and {short(other)}, whose chains begin at different steps, but all "
            "samples of a batch store the same ones; give all training prompts a start image of one strength, or none"
        )


def libraries_are_there(config: Config) -> None:
    settings, device = config.policy, _device(config)
    try:
        check_optimizer(config.learner.optimizer, device)
        check_quantised(settings, device)
        if settings.compile and device.type == "cpu":  # GPUs are the actors', and so may Triton be
            check_compiler(device, settings.dtype_on(device))
    except ValueError as error:
        raise ValueError(str(error).rstrip(".")) from None


def model_can_be_trained(config: Config) -> None:
    try:
        chain = check_model(config.policy.model_copy(update={"model": config.pipeline}))
        if chain is not None:
            noisy, begin = chain.stochastic_steps, config.first_step
            chain = replace(chain, first_step=begin)
            if noisy and not chain.stochastic_steps:
                raise ValueError(
                    f"The strength of the prompts' start images leaves the steps from {begin} on, of which none adds "
                    "noise, so none can be trained; raise the strength, or policy.steps"
                )
            config.objective.asks.check(config.objective.name, chain)
            if config.learner.chain_kl_weight and config.objective.asks.window is not None:
                raise ValueError(
                    f"learner.chain_kl_weight is {config.learner.chain_kl_weight:g}, but objective.window leaves most "
                    "steps of a chain without noise, others in each iteration; set the one to 0 or the other to null"
                )
            if config.learner.chain_kl_weight and not has_kl(chain):
                raise ValueError(
                    f"learner.chain_kl_weight is {config.learner.chain_kl_weight:g}, but no step with an adapter has a "
                    "density, so the chain has no KL that could be held; set it to 0, or policy.solver to one with "
                    "noise and of first order, such as ddpm"
                )
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(str(error).rstrip(".")) from None


def prompts_are_read_whole(config: Config) -> None:
    policy = config.policy.model_copy(update={"model": config.pipeline})
    for source in filter(None, (config.prompts.train, config.prompts.held_out)):
        try:
            check_prompts(policy, read_prompts(source))
        except ValueError as error:
            raise ValueError(str(error).rstrip(".")) from None


def batch_can_be_held(config: Config) -> None:
    if config.batch_size > _MAX_BATCH:
        raise ValueError(
            f"prompts.per_iteration x prompts.samples is {config.batch_size:,} images an iteration, more than "
            f"{_MAX_BATCH:,}"
        )


def requests_fill_the_batch(config: Config) -> None:
    batch, size = config.batch_size, config.samplers.request_size
    if batch % size:
        fits = max(d for d in range(1, min(size, batch) + 1) if batch % d == 0)
        raise ValueError(
            f"samplers.request_size={size} does not divide the {batch} samples of an iteration; {fits} does"
        )


RULES: tuple[Callable[[Config], None], ...] = (
    groups_are_compared,
    standards_have_others,
    some_samples_are_left_out,
    samplers_are_enough,
    rewards_have_plain_names,
    rewards_are_there,
    rewards_have_weight,
    rewards_have_gradients,
    rewards_can_judge_the_prompts,
    learner_can_hold_the_rewards,
    reward_stays_raw,
    tracker_can_know_enough,
    features_are_of_a_reward,
    learning_rate_is_sane,
    ratios_begin_at_one,
    batches_are_of_the_policy,
    prompts_are_remembered_whole,
    gpus_can_be_reserved,
    start_images_are_there,
    libraries_are_there,
    model_can_be_trained,
    prompts_are_read_whole,
    batch_can_be_held,
    *DATA_RULES,
    *PEOPLE_RULES,
    *WATCHING_RULES,
    requests_fill_the_batch,
)
