"""Diffusion-DPO: its loss by hand and through the network, ties, the reference that moves, and what it learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler
from pydantic import ValidationError
from torch import Tensor

from actors.config import PolicyConfig
from actors.policy import Policy
from actors.transitions import over
from learner.batch import Batch
from learner.forward_process import noised
from learner.learner import Learner, LearnerConfig
from learner.likelihood import REFERENCE_ADAPTER
from learner.objectives.diffusion_dpo import DiffusionDPO, DiffusionDPOConfig, dpo_loss, labels
from learner.objectives.objective import Part
from shapes.networks import make_scheduler
from tests.support.bright import bright_and_dark
from tests.support.tiny import make_pipeline
from tests.support.tiny_flow import make_sd3

Draw = Callable[..., Batch]
Nudge = Callable[..., None]
PLAIN = {"prompt_dropout": 0.0, "beta": 100.0}


def clean(policy: Policy, batch: Batch, **changes: Any) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return replace(batch, clean=torch.randn(6, *policy.latent_shape, generator=generator), **changes)


def made(policy: Policy, **settings: Any) -> DiffusionDPO:
    objective = DiffusionDPOConfig.model_validate({**PLAIN, **settings}).build()
    objective.attach(policy, None)
    return objective


def gradient_of(policy: Policy) -> Tensor:
    found = torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in policy.parameters])
    for parameter in policy.parameters:
        parameter.grad = None
    return found


def test_the_loss_is_the_published_one() -> None:
    """T8: errors .1000 and .1010 where the reference has .1002 and .1008."""
    margin = torch.tensor([((0.1002 - 0.1000) - (0.1008 - 0.1010)) / 2], dtype=torch.float64)
    found = dpo_loss(margin, torch.ones(1), DiffusionDPOConfig())
    assert float(found) == pytest.approx(0.3132616875, abs=1e-8)
    assert float(dpo_loss(0 * margin, torch.ones(1), DiffusionDPOConfig())) == pytest.approx(math.log(2))


def test_a_tie_is_drawn_together_and_a_label_is_met() -> None:
    assert labels(torch.tensor([0.0, 2.0]), None).tolist() == [0.5, 1.0]
    assert labels(torch.tensor([0.0, 2.0]), 4.0).tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-0.5))])
    for label in (0.5, 0.8):
        margin = torch.tensor([0.3], requires_grad=True)
        met = math.log(label / (1 - label)) / 10  # where the slope is 0
        config = DiffusionDPOConfig(beta=10, ties="soft")
        dpo_loss(margin, torch.tensor([label]), config).sum().backward()
        assert float(margin.grad) > 0  # type: ignore[arg-type]
        at = torch.tensor([met], requires_grad=True)
        dpo_loss(at, torch.tensor([label]), config).sum().backward()
        assert float(at.grad) == pytest.approx(0, abs=1e-6)  # type: ignore[arg-type]


def of_network(kind: str, folder: Path) -> Policy:
    if kind == "velocity":
        config = PolicyConfig(
            model=str(make_sd3(folder / kind)), device="cpu", steps=4, height=16, width=16, lora_rank=2
        )
    else:
        scheduler = DDIMScheduler.from_config(make_scheduler().config, prediction_type=kind)
        config = PolicyConfig(
            model=str(make_pipeline(folder / kind, scheduler=scheduler)), device="cpu", steps=5, lora_rank=2
        )
    return Policy.load(config)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "velocity"])
def test_it_is_what_the_released_code_computes(kind: str, tmp_path: Path, draw: Draw, nudge: Nudge) -> None:
    """Noise as diffusers adds it at the network's own timesteps, its target, and the mean square over all entries."""
    policy = of_network(kind, tmp_path)
    nudge(policy)
    batch = clean(policy, draw(policy, steps=(0,)))
    objective = made(policy, states=2, beta=1000.0)
    (part,) = objective.parts(batch, torch.Generator().manual_seed(1))
    metrics = objective.backward(policy, batch, part, micro_batch=4)
    found = gradient_of(policy)
    pairs = {2: 1, 4: 5}  # rewards .3, -1, 2 and .1, .7, -.4: the best and the worst of each prompt
    chain, scheduler = objective._states.chain, DDPMScheduler.from_config(make_scheduler().config)
    losses, margins = [], []
    for best, worst in pairs.items():
        for column in range(2):
            assert part.columns[best, column] == part.columns[worst, column]
            rows, step = torch.tensor([best, worst]), part.columns[[best, worst], column]
            with policy.along(chain):
                state = noised(policy, batch, rows, step, per_group=True)
            signal, sigma = (over(table[step].float(), state.clean) for table in (chain.signal, chain.sigma))
            noise = (state.x - signal * state.clean) / sigma
            torch.testing.assert_close(noise[0], noise[1], rtol=1e-3, atol=1e-3)
            timestep = chain.timesteps[step]
            target = {"epsilon": noise, "velocity": noise - state.clean}.get(kind)
            if kind != "velocity":
                expected = scheduler.add_noise(state.clean, noise, timestep)
                torch.testing.assert_close(state.x, expected, rtol=1e-4, atol=1e-4)
            if kind == "v_prediction":
                target = scheduler.get_velocity(state.clean, noise, timestep)

            def errors() -> Tensor:
                out = policy._family.predict(state.x, timestep, state.conditioning)  # noqa: B023
                return F.mse_loss(out, target, reduction="none").mean(dim=(1, 2, 3))  # type: ignore[arg-type]  # noqa: B023

            with torch.no_grad(), policy.using(None):
                before = errors()
            new = errors()
            margins.append(-0.5 * ((new[0] - new[1]) - (before[0] - before[1])))
            losses.append(-F.logsigmoid(1000.0 * margins[-1]))
    value = torch.stack(losses).mean()
    value.backward()
    margin = torch.stack(margins).detach()
    assert metrics["loss"] == pytest.approx(float(value.detach()), rel=1e-3)
    assert metrics["margin/mean"] == pytest.approx(float(margin.mean()), rel=1e-2, abs=1e-6)
    assert metrics["margin/accuracy"] == float((margin > 0).float().mean())
    expected = gradient_of(policy)
    assert float((found - expected).norm()) < 2e-3 * float(expected.norm())


def test_at_the_reference_nothing_is_preferred(policy: Policy, draw: Draw) -> None:
    """T11: a new adapter changes nothing, so the loss is ln 2, half of the pairs are right and every margin is 0."""
    batch = clean(policy, draw(policy))
    found = made(policy, pairs="all_pairs")
    (part,) = found.parts(batch, torch.Generator().manual_seed(0))
    metrics = found.backward(policy, batch, part, micro_batch=99)
    assert metrics["loss"] == pytest.approx(math.log(2))
    assert (metrics["margin/accuracy"], metrics["margin/mean"], metrics["margin/std"]) == (0.5, 0, 0)
    assert metrics["pairs"] == 6
    assert metrics["error/winner"] != metrics["error/loser"]


def test_swapped_labels_turn_the_margin_round(policy: Policy, draw: Draw, nudge: Nudge) -> None:
    nudge(policy)
    batch, objective = clean(policy, draw(policy)), made(policy)
    (part,) = objective.parts(batch, torch.Generator().manual_seed(0))
    one, other = (
        objective.backward(policy, replace(batch, rewards=r), part, 8) for r in (batch.rewards, -batch.rewards)
    )
    assert one["margin/mean"] == pytest.approx(-other["margin/mean"], abs=1e-9)
    assert one["error/winner"] == pytest.approx(other["error/loser"])
    assert one["margin/accuracy"] == pytest.approx(1 - other["margin/accuracy"])


@pytest.mark.parametrize("ties", ["drop", "soft"])
def test_ties_are_left_out_or_drawn_together(policy: Policy, draw: Draw, nudge: Nudge, ties: str) -> None:
    nudge(policy)
    batch = clean(policy, draw(policy), rewards=torch.tensor([0.5, 0.5, torch.nan, 1.0, 0.0, torch.nan]))
    objective = made(policy, ties=ties)
    (part,) = objective.parts(batch, torch.Generator().manual_seed(0))
    metrics = objective.backward(policy, batch, part, 8)
    assert metrics["pairs"] == (1 if ties == "drop" else 2)
    assert metrics["margin/accuracy"] in (0, 1)  # of the pair that has a winner
    tied = replace(batch, rewards=torch.tensor([0.5, 0.5, torch.nan, torch.nan, torch.nan, torch.nan]))
    gradient_of(policy)
    metrics = objective.backward(policy, tied, part, 8)
    assert bool(gradient_of(policy).any()) == (ties == "soft")
    assert metrics["pairs"] == (0 if ties == "drop" else 1)
    assert "margin/accuracy" not in metrics  # not measured


def test_a_batch_of_ties_changes_nothing(policy: Policy, draw: Draw) -> None:
    batch = clean(policy, draw(policy), rewards=torch.ones(6))
    before = policy.weights()[0].copy()
    metrics = Learner(LearnerConfig(), policy, DiffusionDPOConfig().build()).step(batch).metrics
    assert (metrics["pairs"], metrics["grad_norm"]) == (0, 0)
    assert "loss" not in metrics
    assert policy.weights()[0].tolist() == before.tolist()


def test_the_reference_is_refreshed_every_round(policy: Policy, draw: Draw, nudge: Nudge) -> None:
    nudge(policy)
    objective = made(policy, reference="round", round_length=2)
    batch, seen = clean(policy, draw(policy)), []
    (part,) = objective.parts(batch, torch.Generator().manual_seed(0))
    for version in range(4):
        objective.begin(policy, batch, version)
        seen.append(policy.weights(REFERENCE_ADAPTER)[0].tolist() == policy.weights()[0].tolist())
        assert (objective.backward(policy, batch, part, 8)["margin/std"] == 0) == seen[-1]
        nudge(policy, 0.05)
    assert seen == [True, False, True, False]


def test_it_learns_who_is_preferred(policy: Policy, draw: Draw) -> None:
    """At states and noises that it has not seen the errors come apart as told."""
    batch, objective = bright_and_dark(policy, draw(policy)), made(policy, pairs="all_pairs", states=4)
    learner = Learner(LearnerConfig(lr=3e-2, micro_batch=64, weight_decay=0), policy, objective)
    for _ in range(8):
        learner.step(batch)
    found = objective.backward(policy, batch, Part(torch.arange(6), torch.tensor([[250, 450, 650, 850]] * 6), 7), 64)
    assert found["margin/accuracy"] > 0.9
    assert found["margin/mean"] > 5e-3
    assert found["loss"] < 0.5


def test_it_trains_between_the_chains_own_states_but_not_where_no_adapter_acts(policy: Policy, draw: Draw) -> None:
    policy.transitions = replace(policy.transitions, adapted=3)
    objective, own = made(policy, states=1000), set(policy.transitions.timesteps.tolist())
    (part,) = objective.parts(clean(policy, draw(policy)), torch.Generator().manual_seed(0))
    seen = set(objective._states.chain.timesteps[part.columns[0]].tolist())
    least = int(policy.transitions.timesteps[3])
    assert seen == set(range(least + 1, 1000))
    assert len(seen & own) == 3
    assert objective.trained_steps(policy.transitions) == (0, 1, 2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": "ipo", "ties": "soft"}, "ties does nothing without loss=bt"),
        ({"loss": "hinge", "label_temperature": 1.0}, "label_temperature does nothing without loss=bt"),
        ({"round_length": 3}, "round_length does nothing without reference=round"),
        ({"prompt_dropout": 1.0}, "less than 1"),
    ],
)
def test_what_would_do_nothing_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DiffusionDPOConfig.model_validate(settings)
