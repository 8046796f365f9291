"""How many of each role are enough: worked by hand, and as an invariant of any costs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.measures.roles import BUSY, LEARNER, SAMPLERS, pipelined, synchronous, turns

JUDGES = "actors of a"
WORK = {SAMPLERS: 40.0, JUDGES: 5.0, LEARNER: 10.0}
works = st.fixed_dictionaries(dict.fromkeys(WORK, st.floats(0.01, 1000)))
paces, counts, requests = st.sampled_from(list(WORK)), st.integers(1, 50), st.integers(1, 500)


def test_a_learner_that_never_waits_needs_its_own_time_of_everyone() -> None:
    found = pipelined(WORK, LEARNER, 1, 100)
    assert found.counts == {SAMPLERS: 4, JUDGES: 1, LEARNER: 1}
    assert (found.seconds, found.busy) == (10.0, 1.0)
    assert pipelined(WORK, LEARNER, 4, 100).counts == {SAMPLERS: 16, JUDGES: 2, LEARNER: 4}


def test_a_synchronous_learner_works_four_fifths_of_the_time() -> None:
    found = synchronous(WORK, LEARNER, 1, 160)
    assert found.counts == {SAMPLERS: 16, JUDGES: 2, LEARNER: 1}  # a quarter of 10 s
    assert (found.seconds, found.busy) == (12.5, 0.8)


def test_samplers_that_are_given_decide_how_many_learn() -> None:
    assert pipelined(WORK, SAMPLERS, 16, 100).counts == {SAMPLERS: 16, JUDGES: 2, LEARNER: 4}
    found = synchronous(WORK, SAMPLERS, 4, 100)  # 10 s of sampling, 2.5 s of learning
    assert found.counts == {SAMPLERS: 4, JUDGES: 1, LEARNER: 4}
    assert found.seconds == 12.5


def test_more_samplers_than_requests_have_nothing_to_do() -> None:
    found = synchronous(WORK, LEARNER, 1, 5)
    assert found.counts[SAMPLERS] == 5
    assert found.seconds == 8.0 + 10.0
    assert found.busy == pytest.approx(10 / 18)
    assert pipelined(WORK, LEARNER, 10, 5).counts[SAMPLERS] == 10  # of two iterations
    assert pipelined(WORK, LEARNER, 20, 5).busy == pytest.approx(0.125)


def test_more_reward_actors_than_requests_have_nothing_to_do() -> None:
    work = {SAMPLERS: 1.0, JUDGES: 40.0, LEARNER: 10.0}  # of two requests, so of two calls of 20 s
    found = synchronous(work, LEARNER, 1, 2)
    assert (found.counts[JUDGES], found.seconds) == (2, 20.0 + 10.0)
    assert synchronous(work, JUDGES, 16, 2) == synchronous(work, JUDGES, 2, 2)
    ahead = pipelined(work, LEARNER, 4, 2)
    assert (ahead.counts[JUDGES], ahead.seconds, ahead.busy) == (4, 10.0, 0.25)  # of two iterations
    assert pipelined(work, JUDGES, 16, 2) == pipelined(work, JUDGES, 4, 2)
    assert turns(work, {SAMPLERS: 1, JUDGES: 3, LEARNER: 1}, 4) == 20.0 + 10.0


def test_a_request_is_not_shared() -> None:
    assert turns(WORK, {SAMPLERS: 3, JUDGES: 1, LEARNER: 1}, 4) == 20.0 + 10.0


@given(works, paces, counts, requests)
def test_there_are_enough_and_one_less_would_not_do(work: dict[str, float], role: str, count: int, number: int) -> None:
    found = pipelined(work, role, count, 10**15)
    pace = work[role] / count
    assert found.seconds == pytest.approx(pace)
    for other, enough in found.counts.items():
        assert other != role or enough == count
        assert other == role or enough == 1 or work[other] / (enough - 1) > pace * (1 - 1e-6)
    assert synchronous(work, role, count, number).counts[SAMPLERS] <= max(number, 1)


@given(works, counts, requests)
def test_whoever_takes_calls_is_in_time_or_has_one_each(work: dict[str, float], count: int, number: int) -> None:
    found, within = synchronous(work, LEARNER, count, number), work[LEARNER] / count * (1 - BUSY) / BUSY

    def seconds(role: str, many: int) -> float:
        return math.ceil(number / many) * work[role] / number

    for role in (SAMPLERS, JUDGES):
        many = found.counts[role]
        assert many == number or seconds(role, many) <= within * (1 + 1e-6)
        assert many == 1 or seconds(role, many - 1) > within * (1 - 1e-6)


@given(works, counts)
def test_with_small_requests_a_synchronous_learner_is_as_busy_as_is_said(work: dict[str, float], count: int) -> None:
    found = synchronous(work, LEARNER, count, 10**15)
    assert found.busy >= BUSY * (1 - 1e-6)
    assert math.isclose(found.seconds, turns(work, found.counts, 10**15))
