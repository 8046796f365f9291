"""The rows of `cluster.list sizing`, from a small run; and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster import list as listing
from cluster import yaml_text
from cluster.config import Config
from cluster.records.reading import CONFIG
from cluster.records.rundir import RunDirectory
from cluster.records.timeline import Span
from cluster.sizing import DRIVER, sizing


@pytest.fixture
def run(make_config: Callable[..., Config]) -> Path:
    """Of 12 images in 6 requests: 12 s of sampling, 1.2 s of scoring and 3 s of learning, one actor each."""
    made = RunDirectory.create(make_config("samplers.request_size=2"))
    for iteration in (1, 2):
        figures = {"samples": 12.0, "time/sample": 12.0, "time/learn": 3.0, "time/iteration": 16.0}
        made.record(iteration, figures, {}, [Span("a+b 0", "score", 1.0, 1.2)])
    made.release()
    return made.path


def rows(run: Path, *words: str) -> dict[str, dict]:
    return {row["name"]: row for row in sizing(str(run), words)}


def test_every_role_has_what_it_costs_and_how_many_are_enough(run: Path) -> None:
    found = rows(run)
    assert found["samplers"] == {
        "name": "samplers",
        "busy_seconds": 12.0,
        "images_per_second": 1.0,
        "run": 1,
        "synchronous": 6,
        "max_staleness=1": 4,
    }
    assert found["actors of a+b"]["images_per_second"] == pytest.approx(10)
    assert found["learner ranks"]["images_per_second"] == 4.0
    assert found["seconds an iteration"] == {
        "name": "seconds an iteration",
        "run": 16.0,
        "synchronous": 5.0,  # six samplers have a request each, of two seconds; the learner takes three
        "max_staleness=1": 3.0,
    }
    assert found["images a second"]["max_staleness=1"] == 4.0
    assert found["share of it that the driver works"]["max_staleness=1"] == pytest.approx(6 * DRIVER / 3)


def test_iterations_of_another_size_cost_in_proportion(run: Path) -> None:
    found = rows(run, "prompts.per_iteration=30", "prompts.samples=8")  # 240 images, not 12
    assert found["samplers"]["busy_seconds"] == pytest.approx(240)
    assert found["learner ranks"]["busy_seconds"] == pytest.approx(60)
    assert found["seconds an iteration"]["run"] == 16.0  # as it was
    assert found["samplers"]["synchronous"] == 18  # of 120 requests of 2 s there is time for 7 each in 15 s
    assert found["share of it that what sets the pace works"]["synchronous"] >= 0.8


@pytest.mark.parametrize(
    ("word", "numbers"),
    [("learner.ranks=2", (8, 1, 2)), ("samplers.count=8", (8, 1, 2)), ("reward_actors.count=1", (10, 1, 3))],
)
def test_the_role_whose_number_is_given_sets_the_pace(run: Path, word: str, numbers: tuple[int, ...]) -> None:
    found = rows(run, word)
    ahead = [found[role]["max_staleness=1"] for role in ("samplers", "actors of a+b", "learner ranks")]
    assert tuple(ahead) == numbers


def test_the_command_prints_a_table_and_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert listing.main(["sizing", str(run)]) == 0
    said = capsys.readouterr().out
    for word in ("samplers", "actors of a+b", "learner ranks", "synchronous", "max_staleness=1"):
        assert word in said
    assert listing.main(["sizing", str(run / "config.yaml"), "learner.ranks=2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == sizing(str(run), ["learner.ranks=2"])


@pytest.mark.parametrize("place", range(5))
def test_json_may_be_asked_for_anywhere(run: Path, place: int, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sizing", str(run), "learner.ranks=2", "prompts.samples=8"]
    assert listing.main([*words[:place], "--json", *words[place:]]) == 0
    assert json.loads(capsys.readouterr().out) == sizing(str(run), words[2:])


def test_a_dataset_is_sized_by_its_pairs(run: Path) -> None:
    config = yaml_text.read((run / CONFIG).read_text())
    (run / CONFIG).write_text(yaml_text.write(config | {"data": {"path": "pairs.parquet", "pairs": 6}}))
    assert rows(run)["samplers"]["busy_seconds"] == 12.0
    assert rows(run, "data.pairs=15")["samplers"]["busy_seconds"] == pytest.approx(30)
    for word in ("prompts.per_iteration=2", "prompts.samples=2"):
        with pytest.raises(LookupError, match=r"only data\.pairs, learner\.ranks, .* may be other here"):
            sizing(str(run), [word])


def test_a_dataset_reads_the_pairs_that_it_leaves_out(run: Path) -> None:
    """Nine pairs are asked for in nine requests, of which six are kept."""
    config = yaml_text.read((run / CONFIG).read_text())
    (run / CONFIG).write_text(yaml_text.write(config | {"data": {"path": "pairs.parquet", "pairs": 9}}))
    for words, requests in ([], 9), (["data.pairs=18"], 18):
        found = rows(run, *words)
        assert found["share of it that the driver works"]["busy_seconds"] == pytest.approx(requests * DRIVER)
        assert found["share of it that the driver works"]["run"] == pytest.approx(9 * DRIVER / 16)
    assert rows(run)["samplers"]["busy_seconds"] == 12.0
    assert rows(run, "samplers.count=99")["samplers"]["synchronous"] == 9


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "There is no run in 'nowhere'"),
        (["RUN", "policy.steps=5"], "'policy.steps=5' changes what the run was measured with"),
        (["RUN", "data.pairs=5"], "only prompts.per_iteration, prompts.samples, learner.ranks, samplers.count"),
        (["RUN", "samplers.count=0"], "'samplers.count=0' is no number of at least 1"),
        (["RUN", "samplers.count=2", "learner.ranks=2"], "Only one role sets the pace"),
        (["FILE"], "is a configuration and no run"),
    ],
)
def test_what_cannot_be_sized_is_one_sentence(
    run: Path, words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("iterations: 2\n")
    names = {"RUN": str(run), "FILE": str(tmp_path / "mine.yaml")}
    assert listing.main(["sizing", *(names.get(word, word) for word in words)]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert said in printed
    assert printed.count("\n") == 1


def test_a_run_without_reward_actors_is_not_paced_by_them(make_config: Callable[..., Config]) -> None:
    made = RunDirectory.create(make_config())
    made.record(1, {"samples": 12.0, "time/sample": 12.0, "time/learn": 3.0, "time/iteration": 16.0}, {})
    made.release()
    assert {row["name"] for row in sizing(str(made.path))} >= {"samplers", "learner ranks"}
    with pytest.raises(LookupError, match="asked no reward actor"):
        sizing(str(made.path), ["reward_actors.count=2"])


@pytest.mark.parametrize("words", [["sizing"], ["runs", "runs", "learner.ranks=2"]])
def test_words_that_do_not_belong_together_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        listing.main(words)
    assert capsys.readouterr().err.startswith("error: ")
