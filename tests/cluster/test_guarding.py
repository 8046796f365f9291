"""The guard in real runs: it warns, keeps the best checkpoint and ends a run; it changes nothing of what is learned."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from actors.trajectories import EVALUATION
from cluster.config import Config, load_config
from cluster.crew.crew import Crew, dismiss, make_crew
from cluster.guarding import Guarding, stopped_by
from cluster.prompts import make_requests
from cluster.records import warned
from cluster.records.rundir import RunDirectory
from cluster.sources.rollouts import Rollout
from cluster.trained import find
from learner import checkpoint
from tests.cluster.test_end_to_end import PLACEMENT, carry_out, same

# A random network's kl rises from 0 with the first update, and no score says so little as that of random pictures.
FAR = "guard.rules.far={figure: kl, split: train, above: 1.0e-9, stop: true}"


@pytest.fixture(scope="module")
def settings(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "prompts.txt").write_text("a red circle\nfour blue stars\n")
    (folder / "config.yaml").write_text(f"""
iterations: 3
policy: {{model: {tiny_pipeline}, device: cpu, steps: 3, lora_rank: 2, lora_alpha: 2}}
prompts: {{train: {folder}/prompts.txt, samples: 2, per_iteration: null}}
rewards: {{jpeg_compressibility: {{weight: 1.0}}, brightness: {{weight: 0.0}}}}
samplers: {{request_size: 2}}
learner: {{lr: 0.01}}
evaluation: {{every: 1, samples: 2, features: null}}
checkpoints: {{every: 3}}
""")
    return folder / "config.yaml"


@pytest.fixture
def started() -> Iterator[list[Crew]]:
    crews: list[Crew] = []
    yield crews
    for crew in crews:
        dismiss(crew)


def go(config: Config, run: RunDirectory, started: list[Crew]) -> dict:
    started.append(make_crew(config, PLACEMENT))
    return carry_out(config, run, started[-1])


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_it_warns_once_keeps_the_best_and_ends_the_run(
    settings: Path, tmp_path: Path, started: list[Crew], caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(settings, [f"folder={tmp_path}", "name=run", FAR])
    run = RunDirectory.create(config)
    with caplog.at_level(logging.WARNING, "cluster.guarding"):
        go(config, run, started)
    (warning,) = warned.read(run.path)
    assert (warning.iteration, warning.rule) == (1, "far")
    assert caplog.messages.count(warning.sentence) == 1
    assert "the best checkpoint so far is that of iteration 0" in warning.sentence
    metrics = run.metrics()
    assert dict(metrics["guard/far"])[0] <= 1 < dict(metrics["guard/far"])[1]
    assert dict(metrics["guard/watched"])[0] == 0
    assert [checkpoint.verify(path) for path in checkpoint.list_all(run.checkpoints)] == [
        0,
        1,
    ]  # 1, since it ended there
    assert find(str(run.best)).checkpoint == run.best / "iteration-000000"
    assert stopped_by(config, run, 1) == "far"
    assert stopped_by(load_config(settings, [FAR.replace("true", "false")]), run, 1) is None

    # Against its advice: what was said is not said again, and nothing is lost of what came before.
    caplog.clear()
    with caplog.at_level(logging.WARNING, "cluster.guarding"):
        config = load_config(settings, [f"folder={tmp_path}", "name=run", FAR.replace("true", "false"), "iterations=2"])
        go(config, run, started)
    assert caplog.messages == []
    assert warned.read(run.path) == [warning]
    assert [iteration for iteration, _ in run.metrics()["guard/far"]] == [0, 1, 2]
    assert [checkpoint.verify(path) for path in checkpoint.list_all(run.best)] == [0]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_with_or_without_it_the_same_is_learned(settings: Path, tmp_path: Path, started: list[Crew]) -> None:
    adapters = []
    for name, word in (("with", "guard.best=trained"), ("without", "guard=null")):
        config = load_config(settings, [f"folder={tmp_path}", f"name={name}", word, "iterations=2"])
        run = RunDirectory.create(config)
        adapters.append(go(config, run, started))
        assert run.best.exists() == (name == "with")
        assert any(figure.startswith("guard/") for figure in run.metrics()) == (name == "with")
    assert same(*adapters)


def evaluate(run: RunDirectory, iteration: int, gold: float, splits: Sequence[str] = ("train",)) -> None:
    """Record an evaluation of two pictures of a prompt, the same ones for each split."""
    (request,) = make_requests(("a red circle",), 2, 2, seed=0, iteration=EVALUATION)
    scores = {"shapes_gold": np.float32([gold - 0.1, gold + 0.1])}
    rollout: Any = Rollout(request, iteration, 0.0, 1.0, None, None, scores)  # type: ignore[arg-type]
    figures = {f"eval/{split}/shapes_gold": gold for split in splits}
    run.add(iteration, figures, {split: [rollout] for split in splits})


def test_it_warns_of_every_figure_that_falls_in_one_evaluation_and_once(
    make_config: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config("name=mine", "guard.best=null")
    run = RunDirectory.create(config)
    nobody: Any = SimpleNamespace(guard=lambda used: None)
    for iteration, gold in ((0, 0.9), (1, 0.3), (2, 0.2)):
        guard = Guarding(config, run, nobody, nobody, iteration)  # of a driver that has just resumed the run
        evaluate(run, iteration, gold, ("train", "held_out"))
        with caplog.at_level(logging.WARNING, "cluster.guarding"):
            guard.look(iteration)
    said = warned.read(run.path)
    assert [(one.iteration, one.rule, one.figure) for one in said] == [
        (1, "watched", "train/shapes_gold"),
        (1, "watched", "held_out/shapes_gold"),
    ]
    assert caplog.messages == [one.sentence for one in said]
    assert "on the held-out prompts" in said[1].sentence


def test_after_the_best_was_lost_a_worse_one_never_takes_the_place_of_the_kept_one(
    make_config: Callable[..., Config],
) -> None:
    config = make_config("name=mine", "guard.rules.watched=null")
    run = RunDirectory.create(config)

    def save(version: int) -> None:
        with checkpoint.writing(run.best, version) as folder:
            (folder / "learner.pt").write_bytes(b"weights")

    def resume(version: int) -> Guarding:
        learner: Any = SimpleNamespace(save=lambda folder, keep: save(version))
        display: Any = SimpleNamespace(guard=lambda used: None)
        return Guarding(config, run, display, learner, version)

    def kept() -> int:
        return checkpoint.verify(checkpoint.newest(run.best))

    evaluate(run, 0, 0.9)  # whose checkpoint is gone
    evaluate(run, 1, 0.5)
    save(1)
    for version, gold in ((2, 0.4), (3, 0.3)):  # each of a driver that has just resumed the run
        guard = resume(version)
        evaluate(run, version, gold)
        guard.look(version)
        assert kept() == 1
    guard = resume(4)
    evaluate(run, 4, 0.6)
    guard.look(4)
    assert kept() == 4


@pytest.mark.parametrize("old", [False, True])
def test_features_alone_do_not_keep_the_best_checkpoint_from_being_kept(
    make_config: Callable[..., Config], old: bool
) -> None:
    """Where nothing else is watched; older records have figures of them, which are NaN."""
    words = ["rewards={shapes_gold: {weight: 1}, dino: {weight: 0}}", "evaluation.features=dino"]
    config = make_config("name=mine", *words)
    run, kept = RunDirectory.create(config), list[int]()
    learner: Any = SimpleNamespace(save=lambda folder, keep: kept.append(run.evaluations()[-1]))
    display: Any = SimpleNamespace(guard=lambda used: None)
    guard = Guarding(config, run, display, learner, 0)
    for iteration, gold in ((0, 0.3), (1, 0.6), (2, 0.5), (3, 0.7)):
        evaluate(run, iteration, gold)
        if old:
            run.add(iteration, {"eval/train/dino": math.nan}, {})
        guard.look(iteration)
    assert kept == [0, 1, 3]
