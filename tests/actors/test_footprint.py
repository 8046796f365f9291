"""Memory by going through a computation without numbers, against what is known and what is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from actors.config import PolicyConfig
from actors.footprint import peak, size
from actors.policy import Policy
from tests.support.tiny import make_pipeline

META = torch.device("meta")
KB = 4 * 256  # bytes of a row of 256 float32


def test_what_is_freed_is_not_counted_twice() -> None:
    x = torch.empty(10, 256, device=META)

    def run() -> None:
        y = x + 1
        del y
        y = x + 1
        y.view(-1).mul_(2)  # neither a view nor an operation in place needs more
        x + y

    assert peak(run) == 2 * 10 * KB


def test_the_way_back_keeps_what_it_needs_and_gives_gradients_room() -> None:
    weights = [torch.empty(256, 256, device=META, requires_grad=True) for _ in range(4)]

    def run() -> None:
        x = torch.empty(10, 256, device=META)
        for weight in weights:
            x = torch.tanh(x @ weight)
        x.sum().backward()
        for weight in weights:
            weight.grad = None

    kept = peak(run)
    assert kept >= (4 * 10 + 256) * KB  # an activation of each layer, and the gradients one after the other
    assert kept <= (12 * 10 + 5 * 256) * KB


def test_what_is_computed_again_is_kept_of_one_layer_alone() -> None:
    """Four layers of three activations each, or four inputs and one layer's; on the way back two more at a time."""
    x = torch.empty(1000, 256, device=META, requires_grad=True)

    def layer(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.tanh(torch.tanh(x)))

    def run(again: bool) -> None:
        y = x
        for _ in range(4):
            y = checkpoint(layer, y, use_reentrant=False) if again else layer(y)
        y.sum().backward()
        x.grad = None

    assert 12 <= peak(lambda: run(False)) / (1000 * KB) < 15
    assert 4 + 2 <= peak(lambda: run(True)) / (1000 * KB) < 4 + 3 + 3


def test_attention_never_makes_the_whole_matrix_also_where_it_is_computed_again() -> None:
    query = torch.empty(1, 1, 4096, 16, device=META, requires_grad=True)

    def attend(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)

    def run() -> None:
        checkpoint(attend, query + 0, use_reentrant=False).sum().backward()

    assert peak(run) < 4096 * 4096


@pytest.mark.parametrize(("dtype", "checkpointing"), [("float32", False), ("float32", True), ("bfloat16", False)])
def test_an_update_of_a_unet_is_estimated_to_a_tenth_of_what_is_allocated(
    tmp_path: Path, dtype: str, checkpointing: bool
) -> None:
    unet = {"sample_size": 16, "block_out_channels": (64, 128), "norm_num_groups": 8, "attention_head_dim": 4}
    config = PolicyConfig(
        model=str(make_pipeline(tmp_path / "pipeline", unet=unet)),
        device="cpu",
        dtype=dtype,
        checkpointing=checkpointing,
    )
    outline, policy = Policy.outline(config, tmp_path / "pipeline", getattr(torch, dtype)), Policy.load(config)
    assert size(outline.network) == size(policy.network)

    def update(policy: Policy, x: torch.Tensor) -> None:
        policy.predict(x, torch.zeros(8, dtype=torch.int64), policy.conditions(8)).sum().backward()

    estimated = peak(lambda: update(outline, torch.empty(8, 4, 16, 16, device=META)))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        update(policy, torch.zeros(8, 4, 16, 16))
    now = measured = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            measured = max(measured, now)
    assert estimated == pytest.approx(measured, rel=0.1)
