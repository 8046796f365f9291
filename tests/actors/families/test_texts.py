"""Texts that rows share: their keys and values are made once, and again when weights, adapters or texts change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from actors.adapters import LoraShape
from actors.config import PolicyConfig
from actors.families import unet
from actors.families.texts import repeated_texts
from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import Request
from actors.transitions import log_prob
from tests.support.tiny_sdxl import make_sdxl

PROMPTS = ["a red circle"] * 3 + ["two blue squares"] * 2 + ["a red circle"]
REQUEST = Request(0, 0, tuple(PROMPTS), (0,) * 6, tuple(range(6)), stored_steps=(0, 3))
Nudge = Callable[..., None]


def predict(policy: Policy, guided: bool = True, prompts: Sequence[str] = PROMPTS) -> Tensor:
    """Of six rows."""
    x = torch.randn(6, *policy.latent_shape, generator=torch.Generator().manual_seed(3))
    return policy.predict(x, torch.arange(6) % len(policy.transitions), policy.encode(prompts), guided)


def row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every row have keys and values of its own, as without this."""
    monkeypatch.setattr(unet, "each_text_once", lambda network, text: nullcontext())


def rows_read(policy: Policy, run: Callable[[], object]) -> set[int]:
    """How many rows the layers of keys and values are given, LoRA and all."""
    seen: set[int] = set()

    def look(act: Callable[..., Tensor], given: Tensor) -> Tensor:
        seen.add(len(given))
        return act(given)

    layers = [m for name, m in policy.network.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))]
    for layer in layers:
        layer.forward = partial(look, layer.forward)  # after what is hooked before it
    run()
    for layer in layers:
        del layer.forward
    return seen


@pytest.fixture
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """A policy over the other family that has a UNet."""
    model = make_sdxl(tmp_path_factory.mktemp("sdxl") / "pipeline")
    return Policy.load(PolicyConfig(model=str(model), device="cpu", steps=5, guidance=2.0, lora_rank=2, lora_alpha=2))


@pytest.mark.parametrize("family", ["policy", "sdxl"])
def test_a_pass_reads_each_text_once_and_says_the_same(
    family: str, request: pytest.FixtureRequest, nudge: Nudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy: Policy = request.getfixturevalue(family)
    assert isinstance(policy.lora, LoraShape)
    assert {"to_k", "to_v"} <= set(policy.lora.targets)
    nudge(policy)
    with torch.no_grad(), repeated_texts():
        shared = [predict(policy) for _ in range(3)]  # what rows are handed is made for the first
        assert all(torch.equal(one, shared[0]) for one in shared)
        assert rows_read(policy, lambda: predict(policy)) == {4}  # guidance's text, and three runs of the prompts'
        assert rows_read(policy, lambda: predict(policy, guided=False)) == {3}
        row_by_row(monkeypatch)
        assert rows_read(policy, lambda: predict(policy)) == {12}
        torch.testing.assert_close(shared[0], predict(policy), rtol=0, atol=1e-6)


def test_what_rows_are_handed_follows_weights_adapters_and_texts(policy: Policy, nudge: Nudge) -> None:
    def of_keys_and_values() -> None:
        for name, parameter in policy.network.named_parameters():
            if ".attn2.to_k.lora" in name or ".attn2.to_v.lora" in name:
                parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))

    def pretrained() -> Tensor:
        with policy.using(None):
            return predict(policy)

    others = ["two blue squares"] * 4 + ["a red circle"] * 2
    looks: list[Callable[[], Tensor]] = [
        lambda: predict(policy), pretrained, lambda: predict(policy, prompts=others), lambda: predict(policy, False)
    ]  # fmt: skip
    nudge(policy)
    with torch.no_grad():
        before = [look() for look in looks]
        with repeated_texts():
            found = [look() for look in looks]
            of_keys_and_values()
            moved = [look() for look in looks]
        after = [look() for look in looks]
    for one, other in zip([*found, *moved], [*before, *after], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    differ = [float((one - other).abs().max()) > 1e-4 for one, other in zip(before, after, strict=True)]
    assert differ == [True, False, True, True]  # all but the pretrained model's


def test_a_rollout_is_of_the_weights_that_came_before_it(policy: Policy, policy_config: PolicyConfig) -> None:
    before, _ = rollout(policy, REQUEST)
    flat, index = policy.weights()
    policy.load_weights(flat + np.random.default_rng(0).standard_normal(flat.shape, np.float32) / 3, index)
    fresh = Policy.load(policy_config)
    fresh.load_weights(*policy.weights())
    (pixels, stored), (others, theirs) = rollout(policy, REQUEST), rollout(fresh, REQUEST)
    assert rows_read(policy, lambda: rollout(policy, REQUEST)) == {4}
    assert np.array_equal(pixels, others)
    for name in ("latents", "next_latents", "log_probs"):
        assert np.array_equal(getattr(stored, name), getattr(theirs, name)), name
    assert not np.array_equal(pixels, before)


def test_only_rollouts_without_a_graph_read_once(policy: Policy, tiny_pipeline: Path) -> None:
    half = PolicyConfig(model=str(tiny_pipeline), device="cpu", dtype="bfloat16", steps=5, guidance=2.0)
    with torch.no_grad():
        assert rows_read(policy, lambda: predict(policy)) == {12}
        with repeated_texts():
            assert rows_read(policy, lambda: predict(policy)) == {4}
            assert rows_read(other := Policy.load(half), lambda: predict(other)) == {12}
    with repeated_texts():
        assert rows_read(policy, lambda: predict(policy)) == {12}


def test_what_a_sampler_stores_is_what_a_learner_computes(policy: Policy, nudge: Nudge) -> None:
    nudge(policy)
    _, stored = rollout(policy, REQUEST)
    for column, step in enumerate(REQUEST.stored_steps):
        x, following = (torch.from_numpy(a[:, column]) for a in (stored.latents, stored.next_latents))
        index = torch.full((6,), step)
        mean = policy.transitions.mean(x, policy.predict(x, index, policy.encode(PROMPTS)), index)  # with a graph
        again = log_prob(following, mean, policy.transitions.std_at(index, x))
        assert again.requires_grad
        assert (again.detach() - torch.from_numpy(stored.log_probs[:, column])).abs().max() < 1e-6
