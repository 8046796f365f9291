"""What a run has spent is counted alike for every objective, over ranks and restarts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from actors.config import PolicyConfig
from actors.policy import Policy
from learner.batch import Batch
from learner.flow_function import FlowConfig
from learner.learner import Learner, LearnerConfig
from learner.objectives.dag_db import DAGDBConfig
from learner.objectives.ddpo import DDPOConfig
from learner.objectives.nabla_db import NablaDBConfig
from learner.objectives.ppod import PPODConfig
from learner.objectives.refl import ReFLConfig
from learner.objectives.residual_db import ResidualDBConfig
from learner.objectives.residual_nabla_db import ResidualNablaDBConfig
from learner.objectives.rwr import RWRConfig
from learner.spending import Judged


class Flat:
    """A reward without slope."""

    def score(self, images: Tensor, prompts: object) -> Tensor:
        return torch.zeros(len(images))

    def score_and_grad(self, images: Tensor, prompts: object) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(images)), torch.zeros_like(images)


Draw = Callable[..., Batch]


def test_a_policy_counts_what_its_network_sees(policy: Policy, draw: Draw) -> None:
    assert policy.passes == 2  # guided
    draw(policy)
    assert policy.evaluations == 6 * len(policy.transitions) * 2
    text = policy.encode(["a"])
    policy.predict(torch.zeros(1, *policy.latent_shape), torch.tensor([0]), text, guided=False)
    assert policy.evaluations == 6 * len(policy.transitions) * 2 + 1


def test_pictures_of_a_dataset_are_not_drawn_and_queries_only_where_rewards_judge_them(
    policy: Policy, draw: Draw
) -> None:
    batch, spent = draw(policy), {}
    cut = {name: getattr(batch, name)[:, :0] for name in ("latents", "next_latents", "log_probs")}
    pictures = replace(batch, **cut, steps=batch.steps[:0], clean=batch.latents[:, 0])
    for source in ("drawn", "judged", "labelled"):
        learner = Learner(LearnerConfig(), policy, RWRConfig(updates=1, states=1).build(), source=source)  # type: ignore[arg-type]
        spent[source] = learner.step(pictures).metrics
    assert [spent[source]["images_drawn"] for source in spent] == [6, 0, 0]
    assert [spent[source]["reward_queries"] for source in spent] == [6, 6, 0]
    evaluations = [spent[source]["network_evaluations"] for source in spent]
    assert evaluations[0] - 6 * len(policy.transitions) * 2 == evaluations[1] == evaluations[2] == 6


def test_batches_are_counted_as_drawn_and_as_trained_on(policy: Policy, draw: Draw) -> None:
    learner = Learner(LearnerConfig(micro_batch=8), policy, DDPOConfig(updates=2, epochs=2).build())
    batch = draw(policy)
    batch = replace(batch, rewards=torch.where(torch.arange(6) == 0, torch.nan, batch.rewards))
    metrics = learner.step(batch).metrics
    assert metrics["reward_queries"] == 6  # also the one that was dropped
    # Six chains; then two passes over four steps of the other five; the check of the ratios is no part of it.
    assert metrics["network_evaluations"] == 2 * (6 * len(policy.transitions) + 2 * 5 * 4)


SMALL = FlowConfig(widths=(8,), heads=2, groups=4)


@pytest.mark.parametrize(
    ("config", "queries", "gradients"),
    [
        (PPODConfig(kl_weight=0), 1, 0),
        (ReFLConfig(), 1 + 1, 1),
        # The five states with noise, each once; the image's own score is known.
        (ResidualDBConfig(flow=SMALL), 1 + 5, 0),
        (DAGDBConfig(flow=SMALL), 1 + 5, 0),
        # The gradient at all six states of a chain; or only where transitions end.
        (NablaDBConfig(flow=SMALL, step_fraction=1.0), 1 + 6, 6),
        (ResidualNablaDBConfig(no_flow=True, step_fraction=1.0), 1 + 5, 5),
    ],
    ids=lambda given: getattr(given, "name", None),
)
def test_what_an_objective_asks_the_reward_is_counted_an_image(
    policy: Policy, draw: Draw, config: Any, queries: int, gradients: int
) -> None:
    learner = Learner(LearnerConfig(micro_batch=8), policy, config.build(), reward=Flat())
    steps = learner._objective.plan(policy.transitions).stored_steps
    metrics = learner.step(draw(policy, steps=steps)).metrics
    assert metrics["images_drawn"] == 6
    assert metrics["reward_queries"] == 6 * queries
    assert metrics["reward_gradients"] == 6 * gradients


def test_a_score_without_gradient_is_a_query_and_no_gradient() -> None:
    judged = Judged(Flat())
    judged.score(torch.zeros(2, 3, 4, 4), ["a"] * 2)
    judged.score_and_grad(torch.zeros(3, 3, 4, 4), ["a"] * 3)
    assert (judged.images, judged.gradients) == (5, 3)


def test_an_offline_batch_costs_once(policy: Policy, draw: Draw) -> None:
    objective = PPODConfig(offline_batches=1, kl_weight=0).build()
    learner = Learner(LearnerConfig(ratio_tolerance=1.0), policy, objective)
    batch = draw(policy)
    first, second = (learner.step(batch).metrics for _ in range(2))
    assert [of["reward_queries"] for of in (first, second)] == [6, 6]
    learning = first["network_evaluations"] - 2 * 6 * len(policy.transitions)
    assert second["network_evaluations"] == first["network_evaluations"] + learning


def test_a_restored_learner_counts_on(tiny_pipeline: Path, tmp_path: Path, draw: Draw) -> None:
    config = PolicyConfig(model=str(tiny_pipeline), device="cpu", steps=5, lora_rank=2, lora_alpha=2)

    def make() -> tuple[Policy, Learner]:
        policy = Policy.load(config)
        return policy, Learner(LearnerConfig(), policy, DDPOConfig(updates=1).build())

    policy, learner = make()
    learner.step(draw(policy))
    learner.save(tmp_path)
    expected = learner.step(draw(policy, version=1, iteration=1)).metrics
    policy, learner = make()
    learner.restore(tmp_path)
    found = learner.step(draw(policy, version=1, iteration=1)).metrics
    for name in ("images_drawn", "reward_queries", "reward_gradients", "network_evaluations"):
        assert found[name] == expected[name]
