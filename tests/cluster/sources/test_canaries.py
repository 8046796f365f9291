"""Canaries of a run through real reward actors: one of several that is installed wrongly is found, remote ones too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import ray

from cluster.config import Config
from cluster.crew.pool import Pool
from cluster.sources.canaries import check_canaries
from rewards import make_reward
from rewards.actor import RewardActor
from rewards.canary import SHIPPED
from rewards.errors import RewardUnavailable

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

CANARY = "[{picture: %s, prompt: four blue stars, score: %s}]"


def test_each_actor_is_asked_and_what_is_wrong_is_said_once(make_config: Callable[..., Config]) -> None:
    canaries = CANARY % (SHIPPED, 2.714)
    config = make_config(
        f"rewards={{shapes_agreement: {{weight: 1}}, other: {{kind: shapes_agreement, canaries: {canaries}}}}}"
    )
    kind: Any = ray.remote(RewardActor)
    right = partial(make_reward, "shapes_agreement")
    wrong = partial(make_reward, "shapes_agreement", checkpoint="second")
    actors = [
        kind.options(num_cpus=0).remote({"shapes_agreement": right, "other": make}) for make in (right, wrong, wrong)
    ]
    names = ("shapes_agreement", "other")
    try:
        check_canaries(config, {names: Pool("RewardActor", actors[:1], max_deaths=0)})
        with pytest.raises(RewardUnavailable) as refused:
            check_canaries(config, {names: Pool("RewardActor", actors, max_deaths=0)})
    finally:
        for actor in actors:
            ray.kill(actor)
    said = str(refused.value)
    assert said.startswith("Nothing is trained. The reward 'other' is not what it should be: it scores four_blue")
    assert said.count("'other'") == 1
    assert "'shapes_agreement'" not in said


def test_without_canaries_nobody_is_asked(make_config: Callable[..., Config]) -> None:
    config = make_config("rewards={jpeg_compressibility: {}}", "evaluation.features=null")
    check_canaries(config, {("jpeg_compressibility",): Pool("RewardActor", [], max_deaths=0)})
