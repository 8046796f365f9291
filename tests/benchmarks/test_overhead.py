"""What the actors cost: the plain loop makes the whole loop's passes, and a timeline tells where the time went."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pytest

from benchmarks import overhead
from benchmarks.overhead import plain_loop, short_run, where_it_went, whole_loop
from benchmarks.plain import PlainRun
from cluster.config import Config
from cluster.records.timeline import Span, table
from cluster.sources.source import RequestMaker
from tests.support.tiny import write_config


def test_the_plain_loop_draws_what_samplers_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = short_run("benchmarks.overhead", None, [str(write_config(tmp_path))], overhead.ITERATIONS)
    drawn, draw = [], PlainRun.draw
    monkeypatch.setattr(PlainRun, "draw", lambda run, request: drawn.append(request) or draw(run, request))
    assert plain_loop(config) > 0
    run = PlainRun(config)
    plans = [run.objective.plan(run.policy.transitions, version) for version in range(config.iterations)]
    maker = RequestMaker(config, plans)
    assert drawn == [maker[number] for number in range(overhead.ITERATIONS * maker.per_batch)]
    assert all(request.kl for request in drawn)


def test_a_plain_runs_batch_is_what_the_learner_is_given(tmp_path: Path) -> None:
    run = PlainRun(short_run("benchmarks.overhead", None, [str(write_config(tmp_path))], 1))
    drawn = [run.draw(request) for request in run.requests(0)]
    batch = run.collate(drawn)
    assert batch.prompts == tuple(prompt for one in drawn for prompt in one.trajectories.prompts)
    assert batch.kl is not None
    assert batch.scores["jpeg_compressibility"].tolist() == [v for one in drawn for v in one.scores.values[0].tolist()]
    assert run.learner.step(batch).version == 1


def test_an_iterations_time_goes_where_the_timeline_says() -> None:
    def of(iteration: int, began: float) -> list[Span]:
        return [
            Span("driver", "sampling", began - 1, 30),
            Span("sampler-0", "rollout", began, 4),
            Span("sampler-0", "rollout", began + 4, 2),
            Span("reward 0", "score", began + 4, 1),  # while the second is drawn
            Span("reward 0", "score", began + 6, 1),
            Span("learner", "update", began + 7.5, 2),
        ]

    parts = [table(number, of(number, 100.0 + 10 * number)) for number in range(5)]
    shares = where_it_went(pa.concat_tables(parts))
    assert shares == pytest.approx({"rollout": 0.6, "update": 0.2, "score": 0.1, "rest": 0.1})
    late = [span._replace(seconds=2 * span.seconds) for span in of(1, 100.0)]
    assert where_it_went(pa.concat_tables([parts[0], table(1, late), *parts[2:]])) == shares  # the first says nothing


def test_rays_processes_have_this_ones_niceness_while_the_loop_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def place(_: Config) -> NoReturn:
        assert os.environ[niceness] == "0"
        raise InterruptedError

    niceness = "RAY_worker_niceness"
    monkeypatch.setenv(niceness, "7")
    monkeypatch.setattr(overhead, "place", place)
    with pytest.raises(InterruptedError):
        whole_loop(short_run("benchmarks.overhead", None, [str(write_config(tmp_path))], 1))
    assert os.environ[niceness] == "7"
