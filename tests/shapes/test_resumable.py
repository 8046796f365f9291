"""A training loop that is stopped and goes on ends with the very weights of one that was not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from shapes.resumable import Keep, resumable

STEPS = 8


class StoppedError(Exception):
    pass


def train(keep: Keep | None, rng: random.Random, stop: int | None = None) -> tuple[list[Tensor], int]:
    """Weights and averages after all steps, and how many steps were made."""
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=STEPS)
    average = EMAModel(network.parameters(), decay=0.9)
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule, "average": average}
    made = 0
    for bar in resumable("test", STEPS, keep, **parts):
        if bar.n == stop:
            raise StoppedError
        loss = (network(torch.randn(4, 3)) - rng.random()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.step(network.parameters())
        made += 1
    return [*(p.detach().clone() for p in network.parameters()), *average.shadow_params], made


@pytest.mark.parametrize("stop", [1, 5, STEPS - 1])
def test_a_loop_that_goes_on_ends_as_one_that_was_never_stopped(tmp_path: Path, stop: int) -> None:
    whole, _ = train(None, random.Random(0))
    keep = Keep(tmp_path / "state" / "loop.pt", random.Random(0), every=0)
    with pytest.raises(StoppedError):
        train(keep, keep.rng, stop)
    again = Keep(keep.file, random.Random(99), every=0)
    resumed, made = train(again, again.rng)
    assert made == STEPS - stop
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_keeping_changes_nothing_and_leaves_one_file(tmp_path: Path) -> None:
    keep = Keep(tmp_path / "loop.pt", random.Random(0), every=0)
    kept, _ = train(keep, keep.rng)
    whole, _ = train(None, random.Random(0))
    assert all(torch.equal(a, b) for a, b in zip(whole, kept, strict=True))
    assert list(tmp_path.iterdir()) == [keep.file]


def test_nothing_is_written_before_it_is_time(tmp_path: Path) -> None:
    keep = Keep(tmp_path / "loop.pt", random.Random(0))
    train(keep, keep.rng)
    assert list(tmp_path.iterdir()) == []
