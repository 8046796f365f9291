"""The policy: its guided prediction, its adapters, and what travels of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from actors.config import PolicyConfig
from actors.policy import Policy
from actors.rollout import noise, rollout
from actors.trajectories import Request
from actors.transitions import kl, log_prob

PROMPTS = ["a red circle", "two blue squares"]
Nudge = Callable[..., None]


def states() -> tuple[Tensor, Tensor]:
    """Two states and their steps."""
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 3])


@torch.no_grad()
def predict(policy: Policy, prompts: list[str] = PROMPTS) -> Tensor:
    """The prediction for `states`."""
    return policy.predict(*states(), policy.encode(prompts))


def variant(config: PolicyConfig, seed: int = 0, **changes: object) -> Policy:
    """A policy of the same model with another config."""
    return Policy.load(config.model_copy(update=changes), seed)


def test_guidance_extrapolates_from_the_empty_prompt(policy_config: PolicyConfig) -> None:
    plain = variant(policy_config, guidance=1.0)
    conditional, unconditional = predict(plain), predict(plain, ["", ""])
    guided = predict(variant(policy_config, guidance=3.5))
    torch.testing.assert_close(guided, unconditional + 3.5 * (conditional - unconditional), atol=2e-5, rtol=1e-5)
    assert (guided - conditional).abs().max() > 1e-3


@pytest.mark.parametrize("bound", ["_KEPT", "_BYTES"])
def test_embeddings_do_not_pile_up_and_forgetting_one_changes_nothing(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    first = policy.encode(["a red circle", "a blue square"])
    size = policy.encode(["a red circle"]).bytes if bound == "_BYTES" else 1
    monkeypatch.setattr(f"actors.policy.{bound}", 10 * size)
    asked: list[str] = []
    condition = policy._family.condition
    monkeypatch.setattr(policy._family, "condition", lambda prompts: asked.extend(prompts) or condition(prompts))
    for i in range(30):
        policy.encode([f"prompt {i}", "a red circle"])
    assert asked == [f"prompt {i}" for i in range(30)]  # what was used last is kept
    assert torch.equal(policy.encode(["a red circle", "a blue square"])["text"], first["text"])
    assert asked[-1] == "a blue square"  # and what was not is encoded again
    many = [f"prompt {i}" for i in range(40)]  # more at once than are kept
    assert torch.equal(policy.encode(many)["text"][:2], policy.encode(many[:2])["text"])


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0])
def test_a_guidance_of_at_most_one_is_none(policy_config: PolicyConfig, guidance: float) -> None:
    """As in diffusers, and as turbo models are used: the prompt is followed."""
    found = predict(variant(policy_config, guidance=guidance))
    policy = variant(policy_config)
    x, step = states()
    with torch.no_grad():
        expected = policy.network(x, policy.transitions.timesteps[step], policy.encode(PROMPTS)["text"]).sample
    torch.testing.assert_close(found, expected)


def test_an_embedding_does_not_depend_on_its_neighbours(policy_config: PolicyConfig) -> None:
    together = Policy.load(policy_config).encode([*PROMPTS, PROMPTS[0]])["text"]
    alone = [Policy.load(policy_config).encode([prompt])["text"][0] for prompt in PROMPTS]
    for row, single in zip(together, [*alone, alone[0]], strict=True):
        assert torch.equal(row, single)
    assert not torch.equal(together[0], together[1])


def test_a_half_precision_base_keeps_float32_adapters(policy_config: PolicyConfig, nudge: Nudge) -> None:
    policy = variant(policy_config, dtype="bfloat16")
    pretrained = predict(policy)
    policy.snapshot("reference")
    nudge(policy)
    assert policy.network.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in policy.parameters} == {torch.float32}
    assert policy.weights("reference")[0].dtype == np.float32
    assert predict(policy).dtype == torch.float32
    assert not torch.equal(predict(policy), pretrained)


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "embeded"])
def test_a_missing_model_is_named(policy_config: PolicyConfig, model: str) -> None:
    with pytest.raises(FileNotFoundError, match=Path(model).name):
        variant(policy_config, model=model)


def test_a_fresh_adapter_is_the_pretrained_model(policy: Policy) -> None:
    """Structural: ratio exactly 1 and KL exactly 0."""
    x, step = states()
    std = policy.transitions.std_at(step, x)
    mean = policy.transitions.mean(x, predict(policy), step)
    with policy.using(None):
        reference = policy.transitions.mean(x, predict(policy), step)
    assert torch.equal(log_prob(x, mean, std), log_prob(x, reference, std))
    assert kl(mean, reference, std).tolist() == [0.0, 0.0]


def test_the_pretrained_prediction_never_changes(policy: Policy, nudge: Nudge) -> None:
    """Structural: bit for bit, with adapters off."""
    before = predict(policy)
    policy.snapshot("reference")
    nudge(policy)
    with policy.using(None):
        assert torch.equal(predict(policy), before)
    assert not torch.equal(predict(policy), before)


def test_a_snapshot_stays_while_the_policy_moves(policy: Policy, nudge: Nudge) -> None:
    nudge(policy)
    before = predict(policy)
    policy.snapshot("reference")
    nudge(policy)
    moved = predict(policy)
    with policy.using("reference"):
        assert torch.equal(predict(policy), before)
    assert torch.equal(predict(policy), moved)
    assert not torch.equal(moved, before)
    policy.snapshot("reference")
    with policy.using("reference"):
        assert torch.equal(predict(policy), moved)
    assert policy.snapshots == ["reference"]


def test_only_the_policy_adapter_is_trained(policy: Policy, nudge: Nudge) -> None:
    parameters = policy.parameters
    policy.snapshot("reference")
    nudge(policy)
    for adapter in (None, "reference"):
        with policy.using(adapter):
            pass
    assert [id(parameter) for parameter in policy.parameters] == [id(parameter) for parameter in parameters]
    trainable = {id(p) for p in policy.network.parameters() if p.requires_grad}
    assert trainable == {id(parameter) for parameter in parameters}
    policy.predict(*states(), policy.encode(PROMPTS)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in parameters)


@pytest.mark.parametrize("adapter", [None, "reference"])
def test_using_gives_the_policy_back_after_an_exception(policy: Policy, nudge: Nudge, adapter: str | None) -> None:
    policy.snapshot("reference")
    nudge(policy)
    before = predict(policy)

    def fail() -> None:
        with policy.using(adapter):
            assert not torch.equal(predict(policy), before)
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail()
    assert torch.equal(predict(policy), before)
    assert policy.predict(*states(), policy.encode(PROMPTS)).requires_grad


@pytest.mark.parametrize("adapter", [None, "reference"])
def test_whether_gradients_are_taken_is_another_thing_than_who_acts(policy: Policy, adapter: str | None) -> None:
    policy.snapshot("reference")
    x, step = states()
    x.requires_grad_()
    with policy.using(adapter):
        found = policy.predict(x, step, policy.encode(PROMPTS))
        with torch.no_grad():
            assert not policy.predict(x, step, policy.encode(PROMPTS)).requires_grad
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    assert all(p.grad is None for p in policy.network.parameters())  # another adapter is never trained


def test_the_seed_draws_the_adapter_and_nothing_else(policy_config: PolicyConfig) -> None:
    state = torch.get_rng_state()
    first, same, other = (Policy.load(policy_config, seed).weights()[0] for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_make_another_policy_the_same(policy_config: PolicyConfig, policy: Policy, nudge: Nudge) -> None:
    nudge(policy)
    flat, index = policy.weights()
    other = Policy.load(policy_config, seed=1)
    assert not torch.equal(predict(other), predict(policy))
    other.load_weights(flat, index)
    assert np.array_equal(other.weights()[0], flat)
    assert torch.equal(predict(other), predict(policy))


def test_weights_are_a_copy(policy: Policy, nudge: Nudge) -> None:
    flat, _ = policy.weights()
    before = flat.copy()
    nudge(policy)
    assert np.array_equal(flat, before)


@pytest.mark.parametrize("changes", [{"lora_rank": 4}, {"lora_targets": ("to_q",)}, {"lora_targets": ("to_q", "to_k")}])
def test_weights_of_another_adapter_are_refused(
    policy_config: PolicyConfig, policy: Policy, changes: dict[str, object]
) -> None:
    before = policy.weights()[0]
    with pytest.raises(ValueError, match="another adapter"):
        policy.load_weights(*variant(policy_config, **changes).weights())
    assert np.array_equal(policy.weights()[0], before)


def test_saved_weights_come_back_bit_for_bit(
    policy_config: PolicyConfig, policy: Policy, nudge: Nudge, tmp_path: Path
) -> None:
    policy.snapshot("reference")
    nudge(policy)
    policy.save_lora(tmp_path)
    other = Policy.load(policy_config, seed=1)
    other.load_lora(tmp_path)
    assert np.array_equal(other.weights()[0], policy.weights()[0])
    assert torch.equal(predict(other), predict(policy))


@pytest.mark.parametrize("alpha", [2, 8])
def test_diffusers_reads_the_saved_adapter(
    policy_config: PolicyConfig, nudge: Nudge, tmp_path: Path, alpha: int
) -> None:
    """The same UNet output and, without noise along the way, the same images from the stock pipeline."""
    policy = variant(policy_config, lora_alpha=alpha, eta=0.0)
    policy.snapshot("reference")  # must not end up in the file
    nudge(policy)
    policy.save_lora(tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(policy_config.model, safety_checker=None)
    pipeline.load_lora_weights(tmp_path)

    x, _ = states()
    text = policy.encode(PROMPTS)["text"]
    with torch.no_grad():
        ours, theirs = (unet(x, torch.tensor([481, 1]), text).sample for unet in (policy.network, pipeline.unet))
        pipeline.disable_lora()
        without = pipeline.unet(x, torch.tensor([481, 1]), text).sample
        pipeline.enable_lora()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert (ours - without).abs().max() > 1e-3

    request = Request(0, 0, tuple(PROMPTS), (0, 1), (0, 0))
    images, _ = rollout(policy, request)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(
        PROMPTS, latents=noise(request.keys, 0, (4, 8, 8)), num_inference_steps=5, guidance_scale=2.0, eta=0.0,
        output_type="np",
    ).images  # fmt: skip
    assert np.abs(images / 255 - drawn).max() <= 1.01 / 255
