"""A learner's step beside other code's: both take steps in turns, and what is no checkout is refused."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import learner_step
from benchmarks.learner_step import ROOT, Worker, checkout, compare, main
from benchmarks.plain import PlainRun
from benchmarks.step_worker import step
from cluster.config import read_config
from cluster.errors import ConfigError
from tests.support.tiny import write_config


def test_a_checkout_is_a_folder_or_the_code_of_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkout(str(ROOT), tmp_path / "unused") == ROOT
    with pytest.raises(ConfigError, match="holds no checkout; name a commit, or a folder with one"):
        checkout(str(tmp_path), tmp_path / "unused")
    repository, out = tmp_path / "repository", tmp_path / "out"
    out.mkdir()
    for words in (["init", "-q", str(repository)], ["-C", str(repository), "commit", "-q", "--allow-empty", "-m", "1"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)
    (repository / "file").write_text("text")
    for words in (["add", "file"], ["commit", "-q", "-m", "2"]):
        subprocess.run(["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)
    monkeypatch.setattr(learner_step, "ROOT", repository)
    assert (checkout("HEAD", out) / "file").read_text() == "text"
    with pytest.raises(ConfigError, match="neither a folder nor a commit nowhere"):
        checkout("nowhere", tmp_path)


@pytest.mark.slow
def test_a_process_that_ends_is_told_of() -> None:
    worker = Worker(ROOT, ["no.such=setting"])
    try:
        with pytest.raises(ConfigError, match="has ended with status 1"):
            worker.step()
    finally:
        worker.close()


@pytest.mark.slow
def test_both_take_steps_and_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewards = "rewards={jpeg_compressibility: {weight: 0}, shapes_agreement: {weight: 1}}"
    objective = "objective={name: residual_nabla_db, no_flow: true, updates: 1}"
    words = [str(write_config(tmp_path)), rewards, objective]
    compare(words, str(ROOT))
    this, other, ratio = capsys.readouterr().out.splitlines()
    assert re.search(r"images: \d+ transitions, [\d.]+ ms and 2\.00 network evaluations each", this)
    assert this.split("images:")[1].split(",")[0] == other.split("images:")[1].split(",")[0]
    assert re.fullmatch(r"this / other: [\d.]+ a step, [\d.]+ a transition", ratio)


def test_it_asks_what_to_compare_with(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks.learner_step", "--against", "nowhere"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: There is neither a folder nor a commit nowhere.\n"


def test_every_step_is_on_a_fresh_batch(tmp_path: Path) -> None:
    """It takes log-probabilities again where a run does, one network evaluation a transition."""
    config = write_config(tmp_path)
    evaluations = []
    for again in ("false", "true"):
        words = ["objective.step_fraction=1", f"learner.retake_log_probs={again}"]
        run = PlainRun(read_config(config, words))
        batch = run.collate([run.draw(request) for request in run.requests(0)])
        before = [parameter.detach().clone() for parameter in run.policy.parameters]
        evaluations.append([step(run.learner, run.policy, batch)["evaluations"] for _ in range(3)])
        assert run.learner.version == 3
        assert all(torch.equal(own, was) for own, was in zip(run.policy.parameters, before, strict=True))
    assert [more - less for less, more in zip(*evaluations, strict=True)] == [batch.log_probs.numel()] * 3
