"""What cannot work where people choose, one function a rule, as in `cluster.config.rules`."""

from __future__ import annotations

from collections.abc import Callable

from cluster.config.schema import Config


def people_decide_alone(config: Config) -> None:
    if (name := config.people) is None:
        return
    if len(config.rewards) - len(config.judges) > 1:
        raise ValueError("two rewards are of kind people, but a batch waits for one choice of each pair; keep one")
    if not config.rewards[name].weight > 0:
        raise ValueError(
            f"rewards.{name}.weight is {config.rewards[name].weight:g}, but people are asked for nothing but training; "
            "set it to 1, or leave the reward out"
        )
    for other, reward in config.judges.items():
        if reward.weight:
            raise ValueError(
                f"rewards.{other} has weight {reward.weight:g}, but a reward beside people's choices would turn some "
                "of them round; set its weight to 0 to watch it"
            )


def people_choose_between_two(config: Config) -> None:
    if config.people is not None and config.prompts.samples != 2:
        raise ValueError(
            f"prompts.samples is {config.prompts.samples}, but people choose between two pictures, and a run learns "
            "from those pairs alone; set it to 2, and prompts.per_iteration to the pairs of an iteration"
        )


def people_see_what_is_drawn(config: Config) -> None:
    if (name := config.people) is None:
        return
    if config.data is not None:
        raise ValueError(
            f"rewards.{name} asks people about the policy's own samples, and data has others' pictures; leave one out"
        )
    if getattr(config.objective, "offline_batches", 0):
        raise ValueError(
            f"objective.offline_batches draws pictures once, but rewards.{name} asks about the newest; set it to 0"
        )
    asks = config.objective.asks
    if not asks.groups or asks.reward != "scores":
        raise ValueError(
            f"{config.objective.name}, as it is set, does not compare the samples of a prompt, and that is all that "
            f"people say (rewards.{name}); choose another objective, such as ppod, d3po or diffusion_dpo"
        )


def people_can_be_waited_for(config: Config) -> None:
    if (name := config.people) is None:
        return
    wanted, pairs = config.asks_people().pairs, config.prompts_per_iteration
    if wanted is not None and wanted > pairs:
        raise ValueError(
            f"rewards.{name}.options.pairs is {wanted}, but an iteration has {pairs} (prompts.per_iteration)"
        )


def people_choose_between_pictures_that_come_again(config: Config) -> None:
    if (name := config.people) is not None and (staleness := config.samplers.max_staleness):
        raise ValueError(
            f"samplers.max_staleness is {staleness}, but a run that is resumed would draw other pictures than those "
            f"that people chose between (rewards.{name}); set it to 0"
        )


PEOPLE_RULES: tuple[Callable[[Config], None], ...] = (
    people_decide_alone,
    people_choose_between_two,
    people_see_what_is_drawn,
    people_can_be_waited_for,
    people_choose_between_pictures_that_come_again,
)
