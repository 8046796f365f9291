"""All states that a model was trained at: those of diffusers' training, whatever the chain that is sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from actors.config import PolicyConfig
from actors.model_check import check_model
from actors.policy import Policy
from actors.training_chain import training_chain
from actors.transitions import Transitions
from shapes.networks import make_scheduler
from tests.support.tiny import make_pipeline
from tests.support.tiny_flow import make_sd3


def chain_of(config: PolicyConfig) -> Transitions:
    chain = check_model(config)
    assert chain is not None
    return chain


@pytest.mark.parametrize("spacing", [None, "leading", "linspace", "trailing"])
def test_it_visits_every_timestep_once_whatever_the_spacing(policy_config: PolicyConfig, spacing: str | None) -> None:
    config = policy_config.model_copy(update={"spacing": spacing})
    chain = training_chain(config, chain_of(config))
    assert chain.timesteps.tolist() == list(range(999, -1, -1))
    assert chain.adapted_steps == 1000


def test_its_states_are_those_that_diffusers_trains_at(policy_config: PolicyConfig, policy: Policy) -> None:
    chain, scheduler = (
        training_chain(policy_config, policy.transitions),
        DDPMScheduler.from_config(make_scheduler().config),
    )
    x, noise, steps = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 490, 999])
    signal, sigma = (table[steps].float().view(-1, 1, 1, 1) for table in (chain.signal, chain.sigma))
    expected = scheduler.add_noise(x, noise, chain.timesteps[steps])
    torch.testing.assert_close(signal * x + sigma * noise, expected, rtol=1e-5, atol=1e-6)


def test_those_of_a_flow_model_are_shifted_as_its_scheduler_says(tmp_path: Path) -> None:
    folder = make_sd3(tmp_path / "sd3")
    config = PolicyConfig(model=str(folder), device="cpu", steps=4, height=16, width=16)
    chain = training_chain(config, chain_of(config))
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    assert len(chain) == scheduler.config.num_train_timesteps == 1000
    assert chain.prediction == "velocity"
    # Above the least noise, from where on the sampler's list is shifted at its ends too.
    torch.testing.assert_close(chain.sigma[:900].float(), scheduler.sigmas[:900], atol=2e-2, rtol=0)


@pytest.mark.parametrize("adapted", [1, 3, 5])
def test_an_adapter_acts_where_it_does_in_the_chain_that_is_sampled(policy: Policy, adapted: int) -> None:
    """A timestep belongs to the step that passes it."""
    sampled = replace(policy.transitions, adapted=adapted)
    chain = training_chain(policy.config, sampled)
    if adapted == 5:
        assert chain.adapted_steps == 1000
        return
    ends = int(sampled.timesteps[adapted])  # the state at which the last of these steps ends
    assert chain.timesteps[chain.adapted_steps - 1] == ends + 1


def test_a_policy_counts_in_another_chain_for_the_length_of_a_block(
    policy: Policy, nudge: Callable[[Policy], None]
) -> None:
    nudge(policy)
    own, chain = policy.transitions, training_chain(policy.config, policy.transitions)
    x, told = torch.randn(5, *policy.latent_shape), policy.encode(["a red circle"] * 5)
    steps = torch.arange(5)
    expected = policy.predict(x, steps, told)
    with policy.along(chain):
        assert policy.transitions is chain
        torch.testing.assert_close(policy.predict(x, 999 - own.timesteps, told), expected)
        with pytest.raises(ZeroDivisionError), policy.along(own):
            raise ZeroDivisionError
        assert policy.transitions is chain
    assert policy.transitions is own


def test_networks_of_v_have_the_same_states(policy_config: PolicyConfig, tmp_path: Path) -> None:
    scheduler = DDIMScheduler.from_config(make_scheduler().config, prediction_type="v_prediction")
    folder = make_pipeline(tmp_path / "v", scheduler=scheduler)
    own = chain_of(policy_config)
    chain = training_chain(policy_config.model_copy(update={"model": str(folder)}), own)
    assert chain.prediction == "v_prediction"
    assert chain.sigma.equal(training_chain(policy_config, own).sigma)
