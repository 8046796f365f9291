"""An iteration's metrics, computed by hand for six samples."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cluster.crew.pool import Pool
from cluster.prompts import make_requests
from cluster.records.metrics import iteration_metrics, pool_metrics, span_metrics
from cluster.sources.rollouts import Rollout
from cluster.sources.spans import Spans
from learner.learner import Update

NAN = float("nan")


def metrics(
    scores: dict[str, list[float]],
    versions: tuple[int, int] = (4, 3),
    lags: tuple[float | None, ...] = (0.25, None),
) -> dict[str, float]:
    requests = make_requests(("a", "b"), 3, 3, seed=0)
    batch = [
        Rollout(r, v, 0.0, 1.5, None, None, {}, actor=f"sampler-{i}", lag=lag)  # type: ignore[arg-type]
        for i, (r, v, lag) in enumerate(zip(requests, versions, lags, strict=True))
    ]
    arrays = {name: np.array(values, np.float32) for name, values in scores.items()}
    return iteration_metrics(Update(5, {"loss": 0.5, "reward/mean": 3.5}, 0.0, 2.0), batch, arrays, 0.25, 12.0)


def test_an_iteration_is_summed_up() -> None:
    found = metrics({"gold": [0, 1, 0, 1, 0, 1]})
    assert found == pytest.approx(
        {
            "loss": 0.5,
            "reward/mean": 3.5,
            "score/gold": 0.5,
            "samples": 6,
            "dropped": 0.25,
            "staleness": 1,
            "time/sample": 3.0,
            "time/learn": 2.0,
            "time/iteration": 12.0,
            "images_per_second": 0.5,
            "sampler/sampler-0/images": 3,
            "sampler/sampler-0/seconds": 1.5,
            "sampler/sampler-0/version": 4,
            "sampler/sampler-1/images": 3,
            "sampler/sampler-1/seconds": 1.5,
            "sampler/sampler-1/version": 3,
            "publish_to_applied": 0.25,
        }
    )


def test_weights_that_nobody_had_to_fetch_have_no_lag() -> None:
    found = metrics({}, lags=(None, None))
    assert "publish_to_applied" not in found
    assert metrics({}, lags=(0.5, 2.0))["publish_to_applied"] == 2.0


class _Pool(Pool):
    """A pool of which only the counts matter."""

    def __init__(self, waiting: int, running: int, deaths: int) -> None:
        self.deaths, self._counts = deaths, (waiting, running)

    @property
    def depths(self) -> tuple[int, int]:
        return self._counts


def test_pools_say_what_they_have_to_do_and_whom_they_lost() -> None:
    assert pool_metrics(sampler=_Pool(3, 2, 1), reward=_Pool(0, 1, 0)) == {
        "queue/sampler/waiting": 3,
        "queue/sampler/running": 2,
        "restarts/sampler": 1,
        "queue/reward/waiting": 0,
        "queue/reward/running": 1,
        "restarts/reward": 0,
    }


def test_dropped_samples_spoil_no_mean() -> None:
    found = metrics({"gold": [0, NAN, 1, 1, NAN, 0], "jpeg": [NAN] * 6})
    assert found["score/gold"] == pytest.approx(0.5)
    assert math.isnan(found["score/jpeg"])


def test_an_infinite_score_spoils_no_mean() -> None:
    found = metrics({"gold": [0, float("inf"), 1, 1, 0, 0.5]})
    assert found["score/gold"] == pytest.approx(0.5)


@pytest.mark.parametrize(("versions", "staleness"), [((4, 4), 0), ((4, 2), 2), ((0, 4), 4)])
def test_staleness_is_that_of_the_stalest_sample(versions: tuple[int, int], staleness: int) -> None:
    # The update made version 5, so what was sampled under version 4 is fresh.
    assert metrics({}, versions)["staleness"] == staleness


def test_spans_concern_the_update_before_because_its_rollouts_have_ended() -> None:
    spans = Spans()
    spans.add("sampler", 8.0, 4.0)
    assert span_metrics(spans, Update(1, {}, started=10.0, seconds=4.0)) == {}
    spans.add("sampler", 13.0, 3.0)  # runs beside the first update and after it
    assert span_metrics(spans, Update(2, {}, started=18.0, seconds=1.0)) == {
        "busy/samplers": pytest.approx(5 / 8),  # 10-12 and 13-16 of 10-18
        "busy/learner": pytest.approx(4 / 8),
        "overlap": pytest.approx(3 / 4),  # 10-12 and 13-14 of 10-14
    }


def test_spans_of_a_run_that_went_back_in_time_say_nothing() -> None:
    spans = Spans()
    span_metrics(spans, Update(5, {}, started=10.0, seconds=4.0))
    assert span_metrics(spans, Update(6, {}, started=12.0, seconds=1.0)) == {}
