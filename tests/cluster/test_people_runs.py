"""Runs that train on the choices of a rater who answers over HTTP, with real actors: on these alone, exactly once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cluster.config import load_config
from cluster.crew.crew import dismiss, make_crew
from cluster.errors import NobodyChose
from cluster.loop import train
from cluster.records.display import Display
from cluster.records.rundir import RunDirectory
from cluster.sources.people import Asked
from learner import checkpoint
from rewards.people import choices
from rewards.people.choices import Choices
from rewards.people.live import Batches
from rewards.people.questions import Questions
from rewards.people.schedule import Rules
from rewards.people.server import Page, serve
from tests.cluster.test_end_to_end import PLACEMENT, adapter, same
from tests.support.documented import undocumented
from tests.support.rater import Rater

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]
ITERATIONS, PAIRS = 3, 4


def redness(picture: np.ndarray) -> float:
    """A taste that tells any two pictures apart."""
    return 1.0 + float(picture[..., 0].astype(float).sum())


@pytest.fixture(scope="module")
def settings(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    (folder / "prompts.txt").write_text("a red circle\nfour blue stars\n")
    (folder / "config.yaml").write_text(f"""
iterations: {ITERATIONS}
policy: {{model: {tiny_pipeline}, device: cpu, steps: 4, lora_rank: 2, lora_alpha: 2}}
prompts: {{train: {folder}/prompts.txt, samples: 2, per_iteration: {PAIRS}}}
rewards: {{people: {{}}, shapes_gold: {{weight: 0}}}}
samplers: {{request_size: 4}}
learner: {{lr: 0.01}}
evaluation: {{every: 0, samples: 2, features: null}}
checkpoints: {{every: 2}}
""")
    return folder / "config.yaml"


@contextmanager
def page(folder: Path) -> Iterator[str]:
    """The address of the page of a run, as the command serves it."""
    folder.mkdir(exist_ok=True)
    ports, loop = list[int](), asyncio.new_event_loop()
    up = threading.Event()
    kept = Choices(folder)

    def started(port: int) -> None:
        ports.append(port)
        up.set()

    task = loop.create_task(
        serve(Page(Questions(folder), kept, Rules(again=0), local=True), "127.0.0.1", 0, None, started)
    )

    def work() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        assert up.wait(30)
        yield f"http://127.0.0.1:{ports[0]}"
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(timeout=30)
        kept.close()
        loop.close()


def make_run(settings: Path, folder: Path, *overrides: str) -> RunDirectory:
    return RunDirectory.create(load_config(settings, [f"folder={folder}", "name=run", *overrides]))


def go_on(run: RunDirectory) -> None:
    crew = make_crew(run.config, PLACEMENT)
    try:
        with Display(Console(quiet=True), run.config.iterations) as display:
            train(run.config, crew, run, display)
    finally:
        dismiss(crew)


def check_choices(run: RunDirectory) -> None:
    """Every pair of every batch was asked about once, and trained on as it was chosen."""
    folder = run.path / "people"
    asked, made, batches = list(Questions(folder)), choices.read(folder), Batches(folder)
    assert len(asked) == ITERATIONS * PAIRS
    assert sorted(choice.question for choice in made) == sorted(question.id for question in asked)
    by_question = {choice.question: float(choice.winner == 0) for choice in made}
    for batch in range(ITERATIONS):
        pairs, labels = batches.asked(batch), batches.labels(batch)
        assert pairs is not None
        assert labels == {number: by_question[question.id] for number, question in pairs.items()}


@pytest.fixture(scope="module")
def undisturbed(settings: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    run = make_run(settings, tmp_path_factory.mktemp("undisturbed"))
    with page(run.path / "people") as address, Rater(address, likes=redness):
        go_on(run)
    return run


def test_it_trains_on_what_the_rater_chose(undisturbed: RunDirectory) -> None:
    check_choices(undisturbed)
    assert undocumented(undisturbed.metrics()) == []
    metrics = {name: [value for _, value in values] for name, values in undisturbed.metrics().items()}
    assert metrics["people/chosen"] == metrics["people/asked"] == metrics["pairs"] == [PAIRS] * ITERATIONS
    assert metrics["score/people"] == [0.5] * ITERATIONS
    assert metrics["dropped"] == metrics["people/ties"] == metrics["people/both_bad"] == [0] * ITERATIONS
    assert "eval/train/people" not in metrics
    assert len(metrics["eval/train/shapes_gold"]) == 2
    assert any(np.abs(values).max() > 0 for name, values in adapter(undisturbed).items() if "lora_B" in name)


def test_killed_while_it_waits_it_uses_what_was_chosen_meanwhile_and_asks_nothing_twice(
    settings: Path, tmp_path: Path, undisturbed: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(settings, tmp_path)
    wait = Asked._wait

    def killed(source: Asked, version: int) -> object:
        if version == 2:  # after the questions are out, and past the last checkpoint
            raise SystemExit("killed")
        return wait(source, version)

    monkeypatch.setattr(Asked, "_wait", killed)
    with page(run.path / "people") as address, Rater(address, likes=redness), pytest.raises(SystemExit, match="killed"):
        go_on(run)
    monkeypatch.setattr(Asked, "_wait", wait)
    assert len(Questions(run.path / "people")) == ITERATIONS * PAIRS
    # The page is another process, and comes back on another port; everything is answered before the run is back.
    with page(run.path / "people") as address, Rater(address, likes=redness) as rater:
        while len(choices.read(run.path / "people")) < ITERATIONS * PAIRS:
            assert rater.made <= ITERATIONS * PAIRS
    go_on(run)
    check_choices(run)
    assert same(adapter(run), adapter(undisturbed))


def test_when_nobody_comes_the_run_ends_with_a_checkpoint_and_can_go_on(
    settings: Path, tmp_path: Path, undisturbed: RunDirectory
) -> None:
    run = make_run(settings, tmp_path, "rewards.people.options.patience=3", "checkpoints.every=10")
    with (
        page(run.path / "people") as address,
        Rater(address, likes=redness, most=PAIRS),
        pytest.raises(NobodyChose, match=r"any of the 4 pairs of iteration 2 in 3 s .*python -m cluster\.label"),
    ):
        go_on(run)
    assert checkpoint.verify(checkpoint.newest(run.checkpoints)) == 1
    with page(run.path / "people") as address, Rater(address, likes=redness):
        go_on(run)
    check_choices(run)
    assert same(adapter(run), adapter(undisturbed))


def test_a_round_without_a_decisive_answer_is_warned_of(settings: Path, tmp_path: Path) -> None:
    run = make_run(settings, tmp_path, "iterations=2")
    with page(run.path / "people") as address, Rater(address, likes=lambda picture: 1.0):
        go_on(run)
    metrics = {name: [value for _, value in values] for name, values in run.metrics().items()}
    assert (metrics["people/ties"], metrics["people/chosen"]) == ([PAIRS] * 2, [0] * 2)
    warned = [warning for warning in run.warnings() if warning["rule"] == "people"]
    assert [warning["iteration"] for warning in warned] == [1, 2]
    assert all("(4 ties, 0 pairs with both bad)" in warning["sentence"] for warning in warned)


def test_diffusion_dpo_learns_online_from_as_many_pairs_as_are_wanted(settings: Path, tmp_path: Path) -> None:
    objective = "objective={name: diffusion_dpo, reference: round}"
    run = make_run(settings, tmp_path, objective, "iterations=1", "rewards.people.options.pairs=3")
    with page(run.path / "people") as address, Rater(address, likes=redness, most=3):
        go_on(run)
    metrics = {name: [value for _, value in values] for name, values in run.metrics().items()}
    assert (metrics["people/chosen"], metrics["people/asked"]) == ([3], [4])
    assert (metrics["pairs"], metrics["updates"]) == ([3], [1])
