"""Compiled denoisers: the same predictions, gradients and adapters as uncompiled ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor.exc import InvalidCxxCompiler

from actors import compiling
from actors.compiling import check_compiler
from actors.config import PolicyConfig
from actors.policy import Policy
from learner.likelihood import REFERENCE_ADAPTER
from learner.ranks import ALONE
from tests.learner.rank_process import Start, draw, gradients

CPU = torch.device("cpu")


def no_compiler() -> str:
    raise InvalidCxxCompiler


def test_a_cpu_without_a_compiler_is_refused(policy_config: PolicyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "get_cpp_compiler", no_compiler)
    with pytest.raises(ValueError, match=r"policy\.compile needs a C\+\+ compiler on a CPU, and none is found"):
        Policy.load(policy_config.model_copy(update={"compile": True}))
    Policy.load(policy_config)


def test_a_gpu_without_triton_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "has_triton", lambda: False)
    with pytest.raises(ValueError, match=r"policy\.compile needs Triton, .* the device cuda:1; set"):
        check_compiler(torch.device("cuda:1"), torch.float32)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_on_a_cpu_is_refused(policy_config: PolicyConfig, dtype: str) -> None:
    with pytest.raises(ValueError, match=r"policy\.compile on a CPU is for float32 alone, .*; set policy\.dtype"):
        Policy.load(policy_config.model_copy(update={"compile": True, "dtype": dtype}))


def has_compiler() -> bool:
    try:
        check_compiler(CPU, torch.float32)
    except ValueError:
        return False
    return True


compiles = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")


def predictions(policy: Policy, size: int) -> dict[str | None, Tensor]:
    """Of whoever can act."""
    x = torch.randn(size, *policy.latent_shape, generator=torch.Generator().manual_seed(size))
    step, told = torch.arange(size), policy.encode(["a red circle"] * size)
    found: dict[str | None, Tensor] = {}
    for adapter in ("policy", None, REFERENCE_ADAPTER):
        with torch.no_grad(), policy.using(adapter):
            found[adapter] = policy.predict(x, step, told)
    return found


@pytest.mark.slow
@compiles
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_and_uncompiled_are_the_same(tiny_pipeline: Path, checkpointing: bool) -> None:
    """Adapters on, off and another, in batches of several sizes; and the gradients of PPOD with both references."""
    settings: dict[str, Any] = {
        "model": str(tiny_pipeline), "device": "cpu", "steps": 5, "lora_rank": 2, "lora_alpha": 2,
        "checkpointing": checkpointing,
    }  # fmt: skip
    plain = Start(PolicyConfig(**settings))
    torch._dynamo.reset()
    counters.clear()
    kept = gradients(plain, "ppod, snapshot", ALONE, "parts")
    assert not counters["frames"]
    compiled = Start(PolicyConfig(**settings, compile=True))
    found = gradients(compiled, "ppod, snapshot", ALONE, "parts")
    assert counters["frames"]["ok"] > 0
    assert kept["policy"].norm() > 0
    assert (found["policy"] - kept["policy"]).norm() <= 1e-4 * kept["policy"].norm()
    assert plain.policy.weights()[1] == compiled.policy.weights()[1]
    for size in (1, 3):
        one, other = predictions(plain.policy, size), predictions(compiled.policy, size)
        for adapter, prediction in one.items():
            torch.testing.assert_close(other[adapter], prediction, rtol=1e-5, atol=1e-5)
        assert len({float(prediction.sum()) for prediction in other.values()}) == 3
    learner = compiled.learner("ppod")  # with the ratio check of a float32 base: 1e-5
    assert learner.step(draw(compiled.policy)).metrics["ratio/first"] < 1e-5
