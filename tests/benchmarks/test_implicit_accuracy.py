"""Implicit accuracy: of a bare model one half, of one that learned better, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from actors.policy import Policy
from benchmarks.implicit_accuracy import main
from cluster.measures.implicit import accuracy, implicit_rewards, read_pairs
from rewards.people.shapes_pairs import main as write_pairs


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pairs to train on and six held out, some tied, some that cannot be read."""
    folder = tmp_path_factory.mktemp("pairs")
    assert write_pairs([str(folder), "--rows", "6", "--held-out", "6", "--ties", "0.2", "--corrupt", "0.2"]) == 0
    return folder


def test_a_share_of_pairs() -> None:
    rewards, labels = torch.tensor([0.3, 0.1, 0.2, 0.5, 0.4, 0.4]), torch.tensor([1.0, 0, 1, 0, 0, 1])
    assert accuracy(rewards, labels) == pytest.approx(0.5)  # right, wrong, equal
    assert accuracy(-rewards, labels) == pytest.approx(0.5)
    assert accuracy(rewards[:2], labels[:2]) == 1


def test_a_bare_model_prefers_nothing(tiny_pipeline: Path, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tiny_pipeline), str(dataset), "--split", "validation", "--states", "2"]) == 0
    assert "implicit accuracy 0.500" in capsys.readouterr().out


def test_pictures_of_a_pair_are_neighbours_and_their_rewards_the_adapters(
    policy: Policy, nudge: Callable[[Policy], None], dataset: Path
) -> None:
    batch = read_pairs(policy, dataset, "train", 6)
    assert 0 < len(batch.prompts) <= 12
    assert batch.groups[::2].equal(batch.groups[1::2])
    assert (batch.rewards[::2] + batch.rewards[1::2] == 1).all()
    assert not implicit_rewards(policy, batch, 2).any()
    nudge(policy)
    found = implicit_rewards(policy, batch, 3)
    assert found.shape == (len(batch.prompts), 3)
    assert found.any(dim=0).all()
    assert found.equal(implicit_rewards(policy, batch, 3))


def test_where_there_is_no_dataset_it_says_so(
    tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tiny_pipeline), str(tmp_path)]) == 1
    assert "error: " in capsys.readouterr().err
