"""Canaries of a run through real reward actors: one of several that is installed wrongly is found, remote ones too."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import GetTimeoutError, RayActorError

from cluster.config import Config
from cluster.crew.pool import Pool
from cluster.sources.canaries import check_canaries
from rewards import make_reward
from rewards.actor import RewardActor
from rewards.canary import SHIPPED
from rewards.errors import RewardUnavailable

CANARY = "[{picture: %s, prompt: four blue stars, score: %s}]"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
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


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RayActorError(None, "lost"), "which is not up or was lost."),
        (GetTimeoutError("late"), "which did not answer within failures.patience.score=7 seconds."),
    ],
)
def test_an_actor_that_cannot_be_asked_is_said(
    make_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    why: str,
) -> None:
    config = make_config("rewards={shapes_agreement: {}, brightness: {}}", "failures.patience.score=7")

    def get(answer: str, timeout: float) -> list[str]:
        if answer == "lost":
            raise error
        return []

    monkeypatch.setattr(ray, "get", get)
    actors: Any = [
        SimpleNamespace(wrong=SimpleNamespace(remote=lambda known, answer=answer: answer)) for answer in ("up", "lost")
    ]
    pool: Any = SimpleNamespace(actors=actors)
    with caplog.at_level(logging.WARNING, "cluster.sources.canaries"):
        check_canaries(config, {tuple(config.rewards): pool})
    assert caplog.messages == [
        f"The canaries of 'shapes_agreement' and 'shapes_gold' were not checked in reward actor 2 of 2, {why}"
    ]


def test_without_canaries_nobody_is_asked(make_config: Callable[..., Config]) -> None:
    config = make_config("rewards={jpeg_compressibility: {}}", "evaluation.features=null")
    check_canaries(config, {("jpeg_compressibility",): Pool("RewardActor", [], max_deaths=0)})
