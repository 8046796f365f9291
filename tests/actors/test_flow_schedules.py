"""Noise levels of flow matching are those that the pipelines make of the same scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from actors.config import PolicyConfig
from actors.flow_schedules import dynamic_mu, even_sigmas, flow_matching, read_flow_scheduler


def saved(folder: Path, **values: Any) -> Path:
    FlowMatchEulerDiscreteScheduler(**values).save_pretrained(folder / "scheduler")
    return folder


def read(folder: Path, **config: Any) -> FlowMatchEulerDiscreteScheduler:
    return read_flow_scheduler(folder, PolicyConfig(model=str(folder), **config))


def test_stable_diffusion_3_shifts_its_ends_twice(tmp_path: Path) -> None:
    levels = flow_matching(read(saved(tmp_path, shift=3.0)), 6)
    assert levels.timesteps[0] == 1000
    assert levels.timesteps[-1].item() == pytest.approx(8.9286, abs=1e-3)  # once would be 2.99
    assert levels.sigma[-1] == 0
    torch.testing.assert_close(levels.signal + levels.sigma, torch.ones(7, dtype=torch.float64))
    assert levels.prediction == "velocity"


@given(shift=st.floats(0.2, 20), steps=st.integers(1, 60))
def test_a_shift_is_that_of_the_paper(shift: float, steps: int) -> None:
    """And between the same ends as before it: 1, and what it makes of 1 / T."""
    even = torch.from_numpy(even_sigmas(steps))
    levels = flow_matching(FlowMatchEulerDiscreteScheduler(shift=shift), steps, sigmas=even_sigmas(steps))
    torch.testing.assert_close(levels.sigma[:-1], shift * even / (1 + (shift - 1) * even), atol=1e-6, rtol=1e-5)


def test_the_config_replaces_the_shift_and_the_ends_with_it(tmp_path: Path) -> None:
    asked = flow_matching(read(saved(tmp_path / "a", shift=3.0), shift=1.7), 8)
    made = flow_matching(read(saved(tmp_path / "b", shift=1.7)), 8)
    assert torch.equal(asked.sigma, made.sigma)


def test_a_shift_takes_the_place_of_dynamic_shifting(tmp_path: Path) -> None:
    """Shifting by e^mu is dynamic shifting by mu, so a number is as good."""
    folder = saved(tmp_path, use_dynamic_shifting=True)
    mu = dynamic_mu(read(folder), tokens=1024, most=1.15)
    assert mu == pytest.approx(0.5 + 0.65 * (1024 - 256) / (4096 - 256))
    dynamic = flow_matching(read(folder), 7, sigmas=even_sigmas(7), mu=mu)
    static = flow_matching(read(folder, shift=float(torch.tensor(mu).exp())), 7, sigmas=even_sigmas(7), mu=mu)
    torch.testing.assert_close(dynamic.sigma, static.sigma, atol=1e-6, rtol=1e-6)


def test_what_is_no_chain_of_flow_matching_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not fall from at most 1"):
        flow_matching(read(saved(tmp_path / "inverted", invert_sigmas=True)), 5)
    with pytest.raises(ValueError, match=r"policy\.spacing=trailing .* policy\.shift"):
        read(saved(tmp_path / "spaced"), spacing="trailing")
    EulerDiscreteScheduler().save_pretrained(tmp_path / "other" / "scheduler")
    with pytest.raises(ValueError, match="EulerDiscreteScheduler"):
        read(tmp_path / "other")
