"""Objectives train where the adapter acts and nowhere else; the KL of the whole chain can be held by any of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from actors.chain_kl import kl_shares
from actors.config import PolicyConfig
from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import Request
from actors.transitions import Transitions
from learner.actor import LearnerActor
from learner.batch import Batch, collate, joined
from learner.chain_kl import backward_chain_kl, chain_kl_metrics
from learner.learner import Learner, LearnerConfig
from learner.objectives.ddpo import DDPOConfig
from learner.objectives.grpo import GRPOConfig
from learner.objectives.objective import Asks
from learner.objectives.ppod import PPODConfig
from tests.learner.rank_process import CASES, Start

Nudge = Callable[..., None]
OF_EACH = {settings["name"]: case for case, settings in reversed(CASES.items())}
BALANCED = ("nabla_db", "dag_db")  # against the noising chain, in every step
PROMPTS = ("a red circle",) * 3 + ("two blue squares",) * 3
REWARDS = np.array([0.3, -1.0, 2.0, 0.1, 0.7, -0.4], np.float32)
THROUGH = ("adjoint_matching", "drtune")  # go through the rest of the chain, which is stored too
ADAPTED = 3


@pytest.fixture
def start(tiny_pipeline: Any) -> Start:
    config = PolicyConfig(
        model=str(tiny_pipeline), device="cpu", steps=5, lora_rank=2, lora_alpha=2, adapted_steps=ADAPTED
    )
    return Start(config)


def draw(policy: Policy, steps: tuple[int, ...], version: int = 0, **changes: Any) -> Batch:
    request = Request(0, version, PROMPTS, (0,) * 3 + (1,) * 3, (0, 1, 2) * 2, steps, clean=True, kl=True, **changes)
    judged = np.random.default_rng(0).normal(size=(6, len(steps), request.candidates))
    return collate([rollout(policy, request, version)[1]], REWARDS, judged=judged if request.candidates > 1 else None)


@pytest.mark.parametrize("name", sorted(OF_EACH.keys() - set(BALANCED)))
def test_an_update_trains_the_steps_with_an_adapter_and_no_others(start: Start, name: str) -> None:
    """Every state that a gradient comes from is at one of them; ratios begin at one where the learner checks it."""
    made, policy = start.learner(OF_EACH[name]), start.policy
    chain, objective = policy.transitions, made._objective
    plan = objective.plan(chain)
    assert set(chain.trainable_steps) == (set(range(ADAPTED)) if chain.stochastic_steps else set())
    assert set(objective.trained_steps(chain)) <= set(range(ADAPTED))
    assert name in THROUGH or set(plan.stored_steps) <= set(range(ADAPTED))
    trained: list[int] = []
    predict = policy._predict

    def watched(x: Tensor, step: Tensor, *rest: Any) -> Tensor:
        out = predict(x, step, *rest)
        if out.requires_grad and policy._acts_as is not None:
            trained.extend(step.tolist())
        return out

    policy._predict = watched  # type: ignore[method-assign]
    for version in range(1 + getattr(objective.config, "lag", 0)):
        made.step(draw(policy, plan.stored_steps, version, candidates=plan.candidates))
    assert trained
    assert set(trained) <= set(range(ADAPTED))
    assert all(p.grad is not None for p in policy.parameters)


@pytest.mark.parametrize("name", BALANCED)
def test_who_balances_every_step_against_the_noising_chain_is_refused(start: Start, name: str) -> None:
    other = f"residual_{name.removeprefix('dag_')}"
    with pytest.raises(ValueError, match=rf"set policy\.adapted_steps=null, or objective\.name={other}\."):
        start.learner(OF_EACH[name])


def test_a_step_without_an_adapter_has_no_gradient(start: Start) -> None:
    """As the definition has it: also where somebody asks for one."""
    policy = start.policy
    told = policy.encode(PROMPTS)
    x = torch.zeros(6, *policy.latent_shape)
    off = policy.predict(x, torch.tensor([3, 4, 3, 4, 3, 4]), told)
    assert not off.requires_grad
    mixed = policy.predict(x, torch.tensor([0, 1, 2, 3, 4, 3]), told)
    gradient = torch.autograd.grad(mixed[3:].sum(), policy.parameters, retain_graph=True)
    assert not any(g.any() for g in gradient)
    assert any(g.any() for g in torch.autograd.grad(mixed[:3].sum(), policy.parameters))


@pytest.mark.parametrize(
    ("chain", "config", "words"),
    [
        ({"adapted": 3}, GRPOConfig(window=4), "objective.window is 4, but objective.step_fraction leaves 3"),
        ({"adapted": 3, "std": [0, 0, 0, 1, 1]}, PPODConfig(), "so ppod has nothing to train"),
        ({"adapted": 3, "first_step": 3}, PPODConfig(), "Rollouts begin at step 3"),
    ],
)
def test_what_leaves_nothing_to_train_is_refused(
    policy: Policy, chain: dict[str, Any], config: Any, words: str
) -> None:
    std = torch.tensor(chain.pop("std", [1, 1, 1, 1, 1])) * policy.transitions.std
    changed: Transitions = replace(policy.transitions, std=std, **chain)
    asks: Asks = config.asks
    with pytest.raises(ValueError, match=words):
        asks.check(config.name, changed)
    asks.check(config.name, replace(changed, adapted=None, first_step=0))


def test_what_nobody_trains_is_told_apart(policy: Policy) -> None:
    batch = Batch(
        *(torch.empty(0),) * 3, torch.arange(2), ("",) * 4, torch.arange(4), torch.zeros(4), 0,
        kl=torch.tensor([1.0, 2.0, 3.0, 4.0]), kl_steps=torch.tensor([0, 1, 3, 4]),
    )  # fmt: skip
    assert chain_kl_metrics(batch, (0, 1)) == {"kl/chain": 2.5, "kl/untrained_share": pytest.approx(0.7)}
    assert chain_kl_metrics(replace(batch, kl=torch.zeros(4)), (0, 1)) == {"kl/chain": 0.0}
    assert chain_kl_metrics(replace(batch, kl=None), (0, 1)) == {}
    windowed = GRPOConfig(window=2, step_fraction=0.8)
    assert windowed.build().trained_steps(policy.transitions) == (0, 1, 2, 3)
    stays = GRPOConfig(window=2, window_moves="stays").build()
    assert stays.trained_steps(policy.transitions) == stays.plan(policy.transitions).stored_steps == (0, 1)


def gradient_of(policy: Policy) -> Tensor:
    return torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in policy.parameters])


@pytest.mark.parametrize("adapted", [None, ADAPTED])
def test_the_penaltys_gradient_is_that_of_the_whole_chains_kl(
    policy: Policy, nudge: Nudge, adapted: int | None
) -> None:
    """The mean over the draws, exactly: each step in turn with its share, against the steps' KLs differentiated."""
    nudge(policy)
    policy.transitions = chain = replace(policy.transitions, adapted=adapted)
    batch, rows = draw(policy, (0, 1, 2, 3, 4)), torch.tensor([0, 2, 5])
    total = torch.zeros_like(gradient_of(policy))
    for step, share in enumerate(kl_shares(chain).tolist()):
        for parameter in policy.parameters:
            parameter.grad = None
        here = replace(batch, kl_states=batch.latents[:, step], kl_steps=torch.full((6,), step))
        if share:
            backward_chain_kl(policy, here, rows, 0.5, micro_batch=2)
            total += share * gradient_of(policy)
    told, size = policy.encode([batch.prompts[row] for row in rows.tolist()]), prod(policy.latent_shape)
    kl = torch.zeros(())
    for step in range(adapted or 5):
        x, at = batch.latents[rows, step], torch.full((3,), step)
        with torch.no_grad(), policy.using(None):
            before = chain.mean(x, policy.predict(x, at, told), at)
        off = (chain.mean(x, policy.predict(x, at, told), at) - before) / chain.std_at(at, x)
        kl = kl + off.square().sum() / 2
    expected = torch.autograd.grad(0.5 * kl / (3 * size), policy.parameters)
    torch.testing.assert_close(total, torch.cat([g.flatten() for g in expected]), rtol=1e-3, atol=1e-6)
    assert total.abs().max() > 1e-3


def test_the_learner_measures_it_and_holds_it_whatever_the_objective(policy: Policy, nudge: Nudge) -> None:
    """Held alone (no reward differs), the policy goes back towards the pretrained model."""
    nudge(policy)
    begun, found = policy.weights(), {}
    for weight in (0.0, 1.0):
        policy.load_weights(*begun)
        objective = DDPOConfig(step_fraction=0.4, updates=1).build()
        config = LearnerConfig(lr=3e-2, micro_batch=16, weight_decay=0, chain_kl_weight=weight)
        learner = Learner(config, policy, objective)
        for version in range(3):
            batch = draw(policy, (0, 1), version)
            found[weight, version] = learner.step(replace(batch, rewards=torch.zeros(6))).metrics
    assert found[0.0, 0]["kl/chain"] == found[1.0, 0]["kl/chain"] > 1
    assert found[0.0, 0]["kl/untrained_share"] > 0.5
    assert found[1.0, 2]["kl/chain"] < 0.7 * found[0.0, 2]["kl/chain"]  # of the same noise
    of_chains, of_ratios = 6 * 5 * 2, 6 * 2 * 2  # two rows for each state
    assert found[0.0, 0]["network_evaluations"] == of_chains + of_ratios
    assert found[1.0, 0]["network_evaluations"] == of_chains + of_ratios + 6 * 2 * 2  # policy and pretrained model


def test_batches_keep_it_sample_by_sample(policy: Policy, nudge: Nudge) -> None:
    nudge(policy)
    batch = draw(policy, (0,))
    assert batch.kl is not None
    some = batch.take(torch.tensor([4, 1]))
    both = joined([batch, some])
    again = Batch.of_state_dict(both.state_dict())
    for found in (both, again):
        assert found.kl is not None
        assert found.kl_states is not None
        assert found.kl_steps is not None
        assert torch.equal(found.kl[-2:], batch.kl[[4, 1]])
        assert len(found.kl_states) == len(found.kl_steps) == 8
    trajectories = rollout(policy, Request(0, 0, PROMPTS[:2], (0, 0), (0, 1), kl=True))[1]
    assert trajectories.kl_states is not None
    trajectories.kl_states[0, 0] = np.nan  # what is not finite is left out altogether
    assert len(collate([trajectories], REWARDS[:2]).kl) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("adapted", "line"),
    [
        (None, r"the adapter acts in every step; step 3 alone \(counted from 0\) 9\d% of the chain's KL weight"),
        ("auto", r"the first 3 of 5 steps, and is trained there alone; these have \d% of .*, step 3 alone .* 9\d%"),
    ],
)
def test_a_run_says_where_the_adapter_acts(policy_config: PolicyConfig, adapted: Any, line: str) -> None:
    config = policy_config.model_copy(update={"adapted_steps": adapted})
    nobody: Any = None
    actor = LearnerActor(LearnerConfig(), config, PPODConfig(), 0, 1, nobody)
    assert re.search(line, actor.steps())
