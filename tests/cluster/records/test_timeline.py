"""Who worked when: the driver's phases follow one another without a gap, and what is recorded is read back."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import pytest

from cluster.config import Config
from cluster.records.rundir import RunDirectory
from cluster.records.timeline import DRIVER, Phases, Span


def test_phases_fill_the_time_whenever_they_are_asked_for() -> None:
    began = time.monotonic()
    phases, taken = Phases(), []
    for name in ("sampling", "learning", "sampling", "checkpoint"):
        phases.begin(name)
        time.sleep(0.002)
        taken += phases.take() if name != "sampling" else []
    passed = time.monotonic() - began
    whole = [what for what, _ in itertools.groupby(span.what for span in taken)]  # one that goes on was cut in two
    assert whole == ["starting", "sampling", "learning", "sampling", "checkpoint"]
    assert {span.who for span in taken} == {DRIVER}
    for span, after in itertools.pairwise(taken):
        assert span.started + span.seconds == pytest.approx(after.started, abs=1e-6)
    assert sum(span.seconds for span in taken) == pytest.approx(passed, abs=1e-3)


def test_the_last_iterations_are_read_and_a_resumed_run_forgets_what_it_does_again(
    make_config: Callable[..., Config],
) -> None:
    run = RunDirectory.create(make_config("name=mine"))
    spans = [Span("learner", "update", 10.0 * number, 1.5) for number in range(4)]
    for number, span in enumerate(spans):
        run.record(number, {"loss": 1.0}, {}, [span])
    run.add(3, {"eval/train/gold": 1.0}, {}, [Span(DRIVER, "evaluation", 33.0, 2.0)])
    assert run.timeline(2) == [(2, spans[2]), (3, spans[3]), (3, Span(DRIVER, "evaluation", 33.0, 2.0))]
    run.rewind(1)
    assert run.timeline(10) == [(0, spans[0]), (1, spans[1])]
