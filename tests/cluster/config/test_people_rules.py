"""What cannot work where people choose is refused before anything starts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster.config import Config
from cluster.config.schema import RewardConfig
from cluster.errors import ConfigError

Make = Callable[..., Config]


@pytest.fixture
def make(make_config: Make) -> Make:
    people = ("rewards={people: {options: {pairs: 3}}, shapes_agreement: {weight: 0}}", "prompts.samples=2")
    return lambda *overrides: make_config(*people, "samplers.request_size=2", *overrides)


def test_people_decide_and_the_other_rewards_watch(make: Make) -> None:
    config = make()
    assert config.weights == {"people": 1.0, "shapes_agreement": 0.0, "shapes_gold": 0.0}
    assert config.people == "people"
    assert list(config.makers) == ["shapes_agreement", "shapes_gold"]
    assert config.environments == {None: ("shapes_agreement", "shapes_gold")}
    assert (config.asks_people().pairs, config.asks_people().patience) == (3, None)
    assert config.standardise == "nothing"
    assert make("combination.standardise=group").standardise == "group"
    assert make("objective={name: nft}").standardise == "group_mean"


def test_people_may_be_the_only_reward_and_have_another_name(make: Make) -> None:
    config = make().model_copy(update={"rewards": {"us": RewardConfig(kind="people")}})
    assert (config.people, config.environments, config.makers) == ("us", {}, {})


def test_without_people_nothing_is_asked(make_config: Make) -> None:
    config = make_config()
    assert config.people is None
    assert config.judges == config.rewards
    assert config.standardise == "run"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "rewards.shapes_agreement.weight=0.5",
            "rewards.shapes_agreement has weight 0.5, but a reward beside people's",
        ),
        ("rewards={people: {}, us: {kind: people}}", "two rewards are of kind people"),
        ("rewards={people: {weight: -1}}", "rewards.people.weight is -1, but people are asked for nothing but"),
        ("prompts.samples=4", "prompts.samples is 4, but people choose between two pictures"),
        ("objective={name: ppod, offline_batches: 2}", "draws pictures once, but rewards.people asks about the newest"),
        ("objective={name: ddpo}", "ddpo, as it is set, does not compare the samples of a prompt"),
        ("objective={name: draft}", "rewards.people has no gradient"),
        ("rewards.people.options.pairs=4", "rewards.people.options.pairs is 4, but an iteration has 3"),
        ("rewards.people.options.pairs=0", "people are asked for at least 1 of the pairs, and not for 0"),
        ("rewards.people.options.patience=-1", "people are waited for some seconds, and not for -1"),
        ("rewards.people.options.paris=4", "the reward 'people' has no option 'paris' (did you mean 'pairs'?)"),
        ("samplers.max_staleness=1", "max_staleness is 1, but a run that is resumed would draw other pictures"),
        ("evaluation.features=people", "has no image features"),
    ],
)
def test_what_people_cannot_do_is_refused_in_a_sentence(make: Make, override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(override)
    assert words.lower() in str(caught.value).lower()
