"""What objectives make of chains: the noising kernel and every loss are the same in any scale of the states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from actors.conditioning import Conditioning
from actors.noise_levels import NoiseLevels
from actors.policy import Policy
from actors.schedules import variance_preserving
from actors.transitions import Transitions, log_prob, make_transitions
from learner.batch import Batch
from learner.flow_function import FlowConfig
from learner.objectives.d3po import D3POConfig
from learner.objectives.dag_db import DAGDB, DAGDBConfig
from learner.objectives.ddpo import DDPOConfig
from learner.objectives.dpok import DPOKConfig
from learner.objectives.grpo import GRPOConfig
from learner.objectives.nabla_db import NablaDB, NablaDBConfig, Piece
from learner.objectives.objective import Part
from learner.objectives.ppod import PPODConfig
from learner.objectives.refl import ReFLConfig
from learner.objectives.residual_db import ResidualDBConfig
from learner.objectives.residual_nabla_db import ResidualNablaDBConfig

SMALL = FlowConfig(widths=(8,), heads=2, groups=4)


def flow_levels(*sigma: float) -> NoiseLevels:
    """States of flow matching."""
    noise = torch.tensor(sigma, dtype=torch.float64)
    return NoiseLevels(1000 * noise[:-1].float(), 1 - noise, noise, "velocity")


def preserving(steps: int = 4, **values: Any) -> NoiseLevels:
    """States of a model that preserves variance."""
    return variance_preserving(DDIMScheduler(clip_sample=False, steps_offset=1, **values), steps)


# ---------------------------------------------------------------------- the noising chain


class OneImage:
    """A flow model that knows the only image there is; `Policy` as far as scores ask."""

    def __init__(self, transitions: Transitions, image: float) -> None:
        self.transitions, self.image = transitions, image

    def predict(self, x: Tensor, step: Tensor) -> Tensor:
        """The velocity (x - image) / sigma."""
        return (x - self.image) / self.transitions.sigma.float()[step].view(-1, 1)

    def log_density(self, x: Tensor, state: Tensor) -> Tensor:
        """log N(x; signal image, sigma^2) `(n,)`, nats per dimension: where there is one image, this is the flow."""
        signal, sigma = (t.float()[state].view(-1, 1) for t in (self.transitions.signal, self.transitions.sigma))
        return log_prob(x, signal * self.image, sigma)


@pytest.fixture
def one_image() -> OneImage:
    return OneImage(make_transitions(flow_levels(1.0, 0.8, 0.5, 0.2, 0.05), "ddpm"), image=0.7)


@pytest.fixture
def transition(one_image: OneImage) -> Piece:
    """Any states and any next ones of a flow chain: the balance of an exact model holds at all of them."""
    step = torch.arange(4)
    x, x_next = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    prediction = one_image.predict(x, step)
    mean = one_image.transitions.mean(x, prediction, step)
    std = one_image.transitions.std_at(step, x)
    return Piece(x, x_next.requires_grad_(), step, std, [""] * 4, Conditioning(), prediction, mean)


def test_the_noising_kernel_of_nabla_db_balances_a_flow_chain(one_image: OneImage, transition: Piece) -> None:
    """F_t P_F = F_next P_B with F the law of the states, so both score differences are its scores, sample by sample."""
    forward, reverse = NablaDB(NablaDBConfig(expected_scores=False)).scores(one_image, transition)  # type: ignore[arg-type]
    signal, sigma = (t.float().view(-1, 1) for t in (one_image.transitions.signal, one_image.transitions.sigma))
    of_next = (signal[1:] * one_image.image - transition.x_next.detach()) / sigma[1:] ** 2
    of_state = (signal[:-1] * one_image.image - transition.x.detach()) / sigma[:-1] ** 2
    assert reverse is not None
    torch.testing.assert_close(forward.detach(), of_next, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(reverse, of_state, rtol=1e-3, atol=1e-3)


def test_the_noising_kernel_of_dag_db_balances_a_flow_chain(one_image: OneImage, transition: Piece) -> None:
    step, x, x_next = transition.step, transition.x.detach(), transition.x_next.detach()
    forward = log_prob(x_next, transition.mean, transition.std)
    back = DAGDB(DAGDBConfig()).other_log_prob(one_image, x, x_next, step, transition.conditioning)  # type: ignore[arg-type]
    left = one_image.log_density(x, step) + forward
    torch.testing.assert_close(left.detach(), one_image.log_density(x_next, step + 1) + back, rtol=1e-4, atol=1e-3)


def test_what_noises_a_flow_chain_leads_to_its_own_states() -> None:
    """From any state on, whatever the image: the mean and the variance of the state before come out."""
    chain = make_transitions(flow_levels(1.0, 0.8, 0.5, 0.2, 0.0), "ddpm")
    weight, variance = (table.flatten() for table in chain.noising(torch.arange(4), torch.zeros(4, 1)))
    torch.testing.assert_close(weight * chain.signal[1:].float(), chain.signal[:-1].float())
    torch.testing.assert_close(weight**2 * chain.sigma[1:].float() ** 2 + variance, chain.sigma[:-1].float() ** 2)


# ---------------------------------------------------------------------- any scale


class Curved:
    """A reward whose gradient depends on the image."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.sin(3 * images).flatten(1).sum(dim=1)

    def score_and_grad(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return self.score(images, prompts), 3 * torch.cos(3 * images)


def rescale(policy: Policy, batch: Batch, size: Tensor) -> Batch:
    """Let a policy see states x / size, and give the batch as it then is.

    Args:
        policy: Its network is still told x.
        batch: Of the policy.
        size: `(T + 1,)`, of every state.
    """
    chain, sizes = policy.transitions, size.float()
    levels = NoiseLevels(chain.timesteps, chain.signal / size, chain.sigma / size, chain.prediction)
    policy.transitions = make_transitions(levels)

    def rescaled(inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def predict(x: Tensor, step: Tensor, conditioning: Conditioning, guided: bool = True) -> Tensor:
            return inner(x * sizes[step].view(-1, 1, 1, 1), step, conditioning, guided)

        return predict

    policy.predict, policy.pretrained = rescaled(policy.predict), rescaled(policy.pretrained)  # type: ignore[method-assign]
    now, then = sizes[batch.steps], sizes[batch.steps + 1]
    return replace(
        batch,
        latents=batch.latents / now.view(1, -1, 1, 1, 1),
        next_latents=batch.next_latents / then.view(1, -1, 1, 1, 1),
        log_probs=batch.log_probs + then.log(),
    )


OBJECTIVES = [
    (PPODConfig(clip="pessimistic", kl_weight=0.1), True),
    (D3POConfig(), True),
    (ResidualNablaDBConfig(flow=SMALL, step_fraction=1.0, max_drift=0.5), True),
    (NablaDBConfig(flow=SMALL, step_fraction=1.0, expected_scores=False), True),
    (NablaDBConfig(flow=SMALL, step_fraction=1.0, weighting="none"), False),  # squares of scores, which have a unit
    (ResidualDBConfig(flow=SMALL), True),
    (DAGDBConfig(flow=SMALL), True),
    (ReFLConfig(step_fraction=1.0), True),
]  # fmt: skip


@pytest.mark.parametrize(("config", "same"), OBJECTIVES, ids=lambda value: getattr(value, "name", value))
def test_a_loss_does_not_depend_on_the_scale_of_the_states(
    config: Any, same: bool, policy: Policy, draw: Callable[..., Batch], nudge: Callable[[Policy], None]
) -> None:
    """The chain of a Stable Diffusion in flow coordinates, x / (signal + sigma), up to the image, which stays."""
    nudge(policy)
    batch = draw(policy, steps=(0, 1, 2, 3, 4))
    nudge(policy)
    objective = config.build()
    if config.asks.reward != "scores":
        objective.attach(policy, Curved())
    if flow := getattr(objective, "flow", None):
        torch.manual_seed(0)
        torch.nn.init.normal_(flow.network.unet.conv_out.weight, std=0.1)
    columns = torch.arange(5) if config.asks.reward == "scores" else torch.arange(5).expand(6, 5)
    if config.name == "refl":
        columns = torch.tensor([[0], [1], [2], [3], [4], [2]])
    part = Part(torch.arange(6), columns)
    found = [gradients(objective, policy, batch, part)]
    size = policy.transitions.signal + policy.transitions.sigma
    size[-1] = 1.0
    batch = rescale(policy, batch, size)
    if flow:

        def rescaled(x: Tensor, state: Tensor, conditioning: Conditioning) -> Tensor:
            of_state = size.float()[state].view(-1, 1, 1, 1)
            value = flow(x * of_state, state, conditioning)
            if (
                flow.network.scalar
            ):  # a log-density, nats per dimension; relative to the pretrained chain it has no unit
                return value + (of_state.flatten().log() if config.name == "dag_db" else 0.0)
            return value * of_state

        objective.flow = rescaled
    found.append(gradients(objective, policy, batch, part))
    (loss, gradient), (again, gradient_again) = found
    assert gradient.abs().max() > 0
    if same:
        assert again == pytest.approx(loss, rel=1e-3, abs=1e-5)
        torch.testing.assert_close(gradient_again, gradient, rtol=1e-2, atol=1e-3 * float(gradient.abs().max()))
    else:
        assert again != pytest.approx(loss, rel=1e-2)


def gradients(objective: Any, policy: Policy, batch: Batch, part: Part) -> tuple[float, Tensor]:
    """Loss of a part and its gradient, as one flat vector; of nabla-DB the part that trains the policy.

    Its reverse loss trains the flow function alone, and weighs scores of a state with the variance of the next one.
    """
    for parameter in policy.parameters:
        parameter.grad = None
    metrics = objective.backward(policy, batch, part, 99)
    return metrics.get("loss/forward", metrics["loss"]), torch.cat(
        [p.grad.flatten() for p in policy.parameters if p.grad is not None]
    )


# ---------------------------------------------------------------------- what is refused

EVERYONE = tuple(
    kind()
    for kind in (DDPOConfig, DPOKConfig, GRPOConfig, PPODConfig, D3POConfig, ReFLConfig,
                 ResidualNablaDBConfig, NablaDBConfig, ResidualDBConfig, DAGDBConfig)
)  # fmt: skip
BALANCED = EVERYONE[6:]


def check(config: Any, chain: Transitions) -> None:
    """What a run does before it starts."""
    config.asks.check(config.name, chain)


@pytest.mark.parametrize("config", EVERYONE)
@pytest.mark.parametrize("levels", [preserving(), flow_levels(1.0, 0.8, 0.5, 0.2, 0.0)])
@pytest.mark.parametrize("solver", ["dpm_2m", "sde_dpm_2m"])
def test_second_order_has_no_density_and_the_sentence_names_what_has(
    config: Any, levels: NoiseLevels, solver: str
) -> None:
    with pytest.raises(ValueError, match=r"second order .* set policy\.solver to one of first order: ddpm"):
        check(config, make_transitions(levels, solver))


@pytest.mark.parametrize("config", EVERYONE)
def test_a_chain_without_noise_is_refused(config: Any) -> None:
    with pytest.raises(ValueError, match=r"No step of the chain adds noise.*policy\.eta above 0"):
        check(config, make_transitions(preserving(), "ddim", 0.0))


@pytest.mark.parametrize("config", BALANCED)
def test_balance_needs_noise_in_every_step(config: Any) -> None:
    ending, noisy = preserving(set_alpha_to_one=True), preserving(set_alpha_to_one=False)
    with pytest.raises(ValueError, match=r"needs noise in the last step .* policy\.final_sigma"):
        check(config, make_transitions(ending))
    check(config, make_transitions(ending, final_sigma=0.005))
    with pytest.raises(ValueError, match=r"step 0 of 4 .* leave policy\.noisy_steps out"):
        check(config, make_transitions(noisy, noisy=(1, 4)))
    check(config, make_transitions(noisy))
    check(config, replace(make_transitions(noisy), first_step=2))  # which begins with a picture


@pytest.mark.parametrize(("solver", "eta"), [("ddim", 0.5), ("flow_sde", None), ("dance_sde", None), ("cps", None)])
def test_only_ddpm_is_balanced_against_the_noising_chain(solver: str, eta: float | None) -> None:
    chain = make_transitions(preserving(set_alpha_to_one=False), solver, eta)
    for config in (NablaDBConfig(), DAGDBConfig()):
        with pytest.raises(ValueError, match=r"only DDPM's noise reverses; set policy\.solver=ddpm, or .*=residual_"):
            check(config, chain)
    for config in (ResidualNablaDBConfig(), ResidualDBConfig()):
        check(config, chain)
