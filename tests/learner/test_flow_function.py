"""Flow functions: shapes, the zero start, their own optimizer."""

from __future__ import annotations

import pytest
import torch

from actors.policy import Policy
from learner.flow_function import FlowConfig, make_flow

SMALL = FlowConfig(widths=(8, 16), heads=2, groups=4)


@pytest.mark.parametrize(("kind", "shape"), [("vector", (3, 4, 8, 8)), ("scalar", (3,))])
def test_a_flow_function_starts_at_zero_and_has_its_shape(policy: Policy, kind: str, shape: tuple[int, ...]) -> None:
    flow = make_flow(SMALL, policy, kind)
    x, conditioning = torch.randn(3, *policy.latent_shape), policy.encode(["a red circle", "two blue squares", ""])
    out = flow(x, torch.tensor([0, 3, 5]), conditioning)  # state 5 is the image
    assert out.shape == shape
    assert out.abs().max() == 0


def test_with_only_its_bias_at_zero_it_does_not_start_at_zero(policy: Policy) -> None:
    flow = make_flow(SMALL.model_copy(update={"zero": "bias"}), policy, "vector")
    out = flow(torch.randn(3, *policy.latent_shape), torch.tensor([0, 3, 5]), policy.encode(["a red circle"] * 3))
    assert out.abs().mean() > 0.01


def test_it_sees_state_prompt_and_step_and_no_guidance(policy: Policy) -> None:
    flow = make_flow(SMALL.model_copy(update={"zero": "bias"}), policy, "vector")
    x, step, conditioning = torch.randn(1, *policy.latent_shape), torch.tensor([2]), policy.encode(["a red circle"])
    base = flow(x, step, conditioning)
    assert (flow(x + 0.1, step, conditioning) - base).abs().max() > 1e-5
    assert (flow(x, step + 1, conditioning) - base).abs().max() > 1e-5
    assert (flow(x, step, policy.encode(["two blue squares"])) - base).abs().max() > 1e-7


def test_a_step_clips_and_a_gradient_that_is_not_finite_is_refused(policy: Policy) -> None:
    flow = make_flow(SMALL, policy, "vector")
    weight = flow.network.unet.conv_out.weight
    for parameter in flow.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert flow.step("flow") > (SMALL.max_grad_norm or 0)
    assert weight.abs().max() > 0
    before = weight.detach().clone()
    weight.grad = torch.full_like(weight, float("inf"))
    with pytest.raises(FloatingPointError, match=r"objective\.flow\.lr"):
        flow.step("flow")
    torch.testing.assert_close(weight.detach(), before, rtol=0, atol=0)


def test_its_start_is_drawn_from_the_seed_and_leaves_the_global_state_alone(policy: Policy) -> None:
    state = torch.random.get_rng_state()
    one, two, other = (make_flow(SMALL, policy, "vector", seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one.network.unet.conv_in.weight, two.network.unet.conv_in.weight)
    assert not torch.equal(one.network.unet.conv_in.weight, other.network.unet.conv_in.weight)
