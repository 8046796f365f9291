"""The exact likelihood's command: what it refuses; the likelihood itself is tested in tests/learner."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import exact_likelihood
from benchmarks.exact_likelihood import main
from cluster.config import read_config
from tests.support.tiny import write_config


@pytest.mark.parametrize("words", [["policy.eta=0"], ["policy.solver=dpm_2m"]])
def test_a_chain_without_noise_has_no_likelihood(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_config(write_config(tmp_path), words)
    monkeypatch.setattr(exact_likelihood, "find", lambda *_: SimpleNamespace(run=config, policy=config.policy))
    assert main(["run"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: No step of the run's chain adds noise")


def test_of_a_few_images_a_correlation_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--images", "3"])
    assert "--images must be at least 8" in capsys.readouterr().err
