"""Where the adapter acts: which steps that are, and that at all others there is the pretrained model and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from actors.chain_kl import has_kl, kl_shares
from actors.config import PolicyConfig
from actors.model_check import check_model, partly_adapted
from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import Request
from actors.transitions import Transitions, adapted_before

Nudge = Callable[..., None]
PROMPTS = ("a red circle", "two blue squares")


def chain_of(config: PolicyConfig, **changes: object) -> Transitions:
    chain = check_model(config.model_copy(update=changes))
    assert chain is not None
    return chain


def states(count: int) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(3))


def adapted(policy: Policy, steps: int | None) -> Policy:
    policy.transitions = replace(policy.transitions, adapted=steps)
    return policy


@pytest.mark.parametrize(("steps", "percent"), [(12, 83), (20, 73), (50, 49)])
def test_the_last_step_but_one_carries_most_of_the_kl_weight(
    policy_config: PolicyConfig, steps: int, percent: int
) -> None:
    """Stable Diffusion's schedule with DDIM's noise: the figures of docs/models.md."""
    chain = chain_of(policy_config, steps=steps, adapted_steps="auto")
    shares = kl_shares(replace(chain, adapted=None))
    assert shares.sum() == pytest.approx(1)
    assert int(shares.argmax()) == steps - 2
    assert round(100 * float(shares[-2])) == percent
    assert float(shares[:-2].max()) < 0.05
    assert chain.adapted_steps == steps - 2  # which auto leaves out, with the one after it


def test_the_weights_are_what_a_change_of_the_output_costs(policy_config: PolicyConfig) -> None:
    """Against the KL of two Gaussians, and in closed form: b^2 / 2 std^2 of DDPM's posterior in predicted noise."""
    chain = chain_of(policy_config)
    alpha_bar = chain.alpha_bar.double()
    now, after = alpha_bar[:-1], alpha_bar[1:]
    alpha = now / after
    variance = (1 - alpha) * (1 - after) / (1 - now)
    expected = (1 - alpha) ** 2 / (alpha * (1 - now)) / (2 * variance)
    torch.testing.assert_close(chain.kl_weights, expected, rtol=1e-4, atol=0)
    x, first, second = states(3).double().unbind()
    for step in range(5):
        at = torch.tensor([step])
        means = [chain.mean(x[None], output[None], at) for output in (first, second)]
        of_gaussians = (means[0] - means[1]).square().sum() / (2 * chain.std[step] ** 2)
        assert float(of_gaussians) == pytest.approx(
            float(chain.kl_weights[step] * (first - second).square().sum()), rel=1e-5
        )


def test_steps_without_noise_or_never_taken_have_no_weight(policy_config: PolicyConfig) -> None:
    chain = chain_of(policy_config, noisy_steps=(1, 4), adapted_steps=3)
    assert chain.kl_weights.gt(0).tolist() == [False, True, True, True, False]
    assert chain.trainable_steps == (1, 2)
    assert replace(chain, first_step=2).trainable_steps == (2,)
    assert replace(chain, first_step=2).kl_weights.gt(0).tolist() == [False, False, True, True, False]
    assert not has_kl(replace(chain, first_step=3))
    assert not has_kl(chain_of(policy_config, solver="sde_dpm_2m"))


def test_auto_ends_before_the_first_heavy_step() -> None:
    assert adapted_before(torch.tensor([1.0, 1, 1, 1, 9, 1])) == 4
    assert adapted_before(torch.tensor([1.0, 1, 1, 1, 1])) == 5
    with pytest.raises(ValueError, match="no step adds noise"):
        adapted_before(torch.zeros(4))
    with pytest.raises(ValueError, match="already the first of 3 has more than 25%"):
        adapted_before(torch.tensor([9.0, 1, 1]))


@pytest.mark.parametrize("steps", [0, -1, "all", 1.5])
def test_what_says_no_steps_is_refused(steps: object) -> None:
    with pytest.raises(ValidationError):
        PolicyConfig.model_validate({"adapted_steps": steps})


def test_more_than_there_are_is_refused(policy_config: PolicyConfig) -> None:
    with pytest.raises(ValueError, match="is 6, but the chain has 5 steps"):
        chain_of(policy_config, adapted_steps=6)
    assert chain_of(policy_config, adapted_steps=5).adapted_steps == 5
    assert chain_of(policy_config).adapted is None


def test_whether_steps_are_left_out_is_asked_of_the_chain(
    policy_config: PolicyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(**changes: object) -> int | str | None:
        return partly_adapted(policy_config.model_copy(update=changes))

    assert [found(adapted_steps=steps) for steps in (None, 3, 5, "auto")] == [None, 3, None, 3]
    assert found(adapted_steps="auto", model="somebody/on-the-hub") == "auto"
    monkeypatch.setattr("actors.transitions._HEAVY", 1.0)  # then no step weighs too much
    assert found(adapted_steps="auto") is None


def test_a_step_without_adapter_is_the_pretrained_models_whoever_acts(policy: Policy, nudge: Nudge) -> None:
    """Bit for bit; also of named adapters."""
    nudge(policy)
    policy.snapshot("trailing")
    nudge(policy)
    x, told = states(2), policy.encode(PROMPTS)
    late, early = torch.tensor([3, 4]), torch.tensor([0, 2])
    acting, before = policy.predict(x, early, told).detach(), policy.predict(x, late, told).detach()
    with policy.using(None):
        pretrained = policy.predict(x, late, told)
    assert (before - pretrained).abs().max() > 1e-3
    adapted(policy, 3)
    assert torch.equal(policy.predict(x, late, told), pretrained)
    assert torch.equal(policy.predict(x, early, told), acting)  # and the adapter is on again
    with policy.using("trailing"):
        assert torch.equal(policy.predict(x, late, told), pretrained)
        trailing = policy.predict(x, early, told)
        assert (trailing - acting).abs().max() > 1e-4
        with policy.using(None):
            assert torch.equal(policy.predict(x, late, told), pretrained)
        assert torch.equal(policy.predict(x, early, told), trailing)  # who acted before acts again
    with policy.everywhere():
        assert torch.equal(policy.predict(x, late, told), before)


def test_rows_at_other_steps_are_as_their_halves(policy: Policy, nudge: Nudge) -> None:
    """Values, gradients to the adapter, and those to the state, in the rows' own order."""
    nudge(policy)
    adapted(policy, 3)
    x, told = states(4), policy.encode(PROMPTS * 2)
    step, weights = torch.tensor([4, 0, 3, 2]), states(4).flip(0)

    def gradients(rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        leaf = x[rows].requires_grad_()
        out = policy.predict(leaf, step[rows], told.rows(torch.tensor(rows)))
        found = torch.autograd.grad((out * weights[rows]).sum(), [leaf, *policy.parameters], allow_unused=True)
        of_adapter = torch.cat(
            [
                torch.zeros(p.numel()) if g is None else g.flatten()
                for p, g in zip(policy.parameters, found[1:], strict=True)
            ]
        )
        return out.detach(), found[0], of_adapter

    out, of_state, of_adapter = gradients([0, 1, 2, 3])
    off, on = gradients([0, 2]), gradients([1, 3])
    for number, whole in enumerate((out, of_state)):
        torch.testing.assert_close(whole[[0, 2]], off[number], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(whole[[1, 3]], on[number], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(of_adapter, on[2], rtol=1e-4, atol=1e-5)
    assert not off[2].any()
    assert on[2].abs().max() > 1e-3


@pytest.mark.parametrize("mixed", [True, False])
def test_checkpointing_and_half_precision_know_where_the_adapter_was_off(
    policy_config: PolicyConfig, mixed: bool
) -> None:
    """What is computed again on the way back would see the adapter on, and float16's way back wants a graph."""
    found = {}
    for name, changes in {"plain": {}, "again": {"checkpointing": True}, "half": {"dtype": "float16"}}.items():
        policy = adapted(Policy.load(policy_config.model_copy(update=changes)), 3)
        with torch.no_grad():
            for parameter in policy.parameters:
                parameter.copy_(torch.linspace(-0.3, 0.3, parameter.numel()).view_as(parameter))
        told, step = policy.encode(PROMPTS), torch.tensor([4, 1 if mixed else 3])
        leaf = states(2).requires_grad_()
        (found[name],) = torch.autograd.grad(policy.predict(leaf, step, told).square().sum(), leaf)
        assert policy.network.is_gradient_checkpointing == policy.config.checkpointing
        loss = policy.predict(states(2), step, told).square().sum()  # of which only the adapter has a gradient
        assert loss.requires_grad == mixed
        if mixed:
            loss.backward()
            assert any(p.grad is not None and p.grad.abs().max() > 0 for p in policy.parameters)
    torch.testing.assert_close(found["again"], found["plain"], rtol=1e-4, atol=1e-5)
    assert (found["half"] - found["plain"]).norm() / found["plain"].norm() < 0.05


def test_all_weights_are_off_alike(policy_config: PolicyConfig, nudge: Nudge) -> None:
    full = policy_config.model_copy(update={"train": "full", "lora_rank": None, "lora_alpha": None, "adapted_steps": 3})
    policy = Policy.load(full)
    nudge(policy, 0.01)
    x, told = states(2), policy.encode(PROMPTS)
    with policy.using(None):
        pretrained = policy.predict(x, torch.tensor([1, 4]), told)
    found = policy.predict(x, torch.tensor([1, 4]), told).detach()
    torch.testing.assert_close(found[1], pretrained[1], rtol=1e-5, atol=1e-6)
    assert (found[0] - pretrained[0]).abs().max() > 1e-3


def test_rollouts_and_predicted_images_leave_the_adapter_out(policy: Policy, nudge: Nudge) -> None:
    request = Request(0, 0, PROMPTS, (0, 1), (0, 0), (0, 1, 2, 3, 4), clean=True)
    untrained = rollout(policy, request)[1]
    nudge(policy)
    everywhere = rollout(policy, request)[1]
    adapted(policy, 3)
    some = rollout(policy, request)[1]
    assert (some.latents[:, :4] == everywhere.latents[:, :4]).all()  # three steps with the adapter
    assert (some.latents[:, 4] != everywhere.latents[:, 4]).any()
    begin = torch.from_numpy(some.latents[:, 3])
    told, at = policy.encode(PROMPTS), torch.tensor([3, 3])
    with torch.no_grad(), policy.using(None):
        before = policy.clean(begin, at, told)
    assert torch.equal(policy.clean(begin, at, told), before)
    exported = rollout(policy, replace(request, everywhere=True))[1]
    assert (exported.clean == everywhere.clean).all()
    adapted(policy, 5)
    assert (rollout(policy, request)[1].clean == everywhere.clean).all()
    assert (untrained.clean != some.clean).any()
