"""Gradient checkpointing: what is computed twice is the same both times, whatever adapter acted in between."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from actors.config import PolicyConfig
from learner.ranks import ALONE
from tests.learner.rank_process import Start, gradients

# Through denoiser and decoder, and with another adapter in between.
CASES = ("residual_nabla_db", "ppod, snapshot")


@pytest.mark.parametrize(
    "dtype", ["float32", *(pytest.param(d, marks=pytest.mark.slow) for d in ("bfloat16", "float16"))]
)
def test_checkpointing_changes_no_gradient(tiny_pipeline: Path, dtype: str) -> None:
    settings = {
        "model": str(tiny_pipeline),
        "device": "cpu",
        "dtype": dtype,
        "steps": 5,
        "lora_rank": 2,
        "lora_alpha": 2,
    }
    plain, again = (Start(PolicyConfig(**settings, checkpointing=on)) for on in (False, True))
    runs = dict.fromkeys((plain, again), 0)
    for start in runs:

        def count(*_: object, start: Start = start) -> None:
            runs[start] += 1

        start.policy.network.up_blocks[-1].resnets[-1].register_forward_pre_hook(count)
    # Half precision is slow on a CPU: one sample of the first case goes through denoiser and decoder there.
    cases, kind = (CASES, "parts") if dtype == "float32" else (CASES[:1], "few")
    for case in cases:
        kept, computed = (gradients(start, case, ALONE, kind) for start in runs)
        assert kept["policy"].abs().max() > 0
        assert torch.equal(kept["policy"], computed["policy"])
        assert torch.equal(kept["flow"], computed["flow"])
    assert runs[again] > runs[plain]
