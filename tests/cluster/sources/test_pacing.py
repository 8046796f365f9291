"""Pacing under any interleaving: nothing trained on is staler than allowed, nothing is wasted, nothing gets stuck."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.sources.pacing import Pacing


class PacedRun(RuleBasedStateMachine):
    """A run that submits whenever there is room, gets results in any order, and trains on batches in request order."""

    @initialize(
        request=st.integers(1, 3),
        per_batch=st.integers(1, 4),
        staleness=st.integers(0, 3),
        spare=st.integers(0, 30),
        version=st.integers(0, 5),
    )
    def start(self, request: int, per_batch: int, staleness: int, spare: int, version: int) -> None:
        self.request, self.per_batch, self.staleness = request, per_batch, staleness
        self.max_in_flight = request + spare
        self.first = self.version = version
        self.admitted: dict[int, int] = {}  # request number -> version when it was submitted
        self.next = version * per_batch
        self.running: list[int] = []
        self.arrived: set[int] = set()
        self.pacing = Pacing(request * per_batch, staleness, self.max_in_flight, version)

    @property
    def batch(self) -> range:
        return range(self.version * self.per_batch, (self.version + 1) * self.per_batch)

    @precondition(lambda self: self.pacing.room >= self.request)
    @rule()
    def submit(self) -> None:
        self.pacing.submit(self.request)
        self.admitted[self.next] = self.version
        self.running.append(self.next)
        self.next += 1

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.running))
        self.running.remove(number)
        self.arrived.add(number)
        self.pacing.accept(self.request)

    @precondition(lambda self: self.arrived.issuperset(self.batch))
    @rule()
    def train(self) -> None:
        assert all(self.version - self.admitted[number] <= self.staleness for number in self.batch)
        self.arrived -= set(self.batch)
        self.version += 1
        self.pacing.version = self.version

    @invariant()
    def nothing_is_stuck(self) -> None:
        if not self.running and not self.arrived.issuperset(self.batch):
            assert self.pacing.room >= self.request

    @invariant()
    def limits_hold(self) -> None:
        assert self.pacing.running == len(self.running) * self.request <= self.max_in_flight
        ahead = self.next - self.version * self.per_batch
        assert ahead <= (self.staleness + 1) * self.per_batch

    @invariant()
    def every_accepted_sample_was_trained_on_or_waits(self) -> None:
        assert self.pacing.accepted == (self.version * self.per_batch + len(self.arrived)) * self.request

    def teardown(self) -> None:
        """Every sample that was admitted reaches a batch."""
        if not hasattr(self, "pacing"):
            return
        while self.version * self.per_batch < self.next:
            while self.pacing.room >= self.request and self.next in self.batch:
                self.submit()
            for number in list(self.running):
                self.running.remove(number)
                self.arrived.add(number)
                self.pacing.accept(self.request)
            if self.arrived.issuperset(self.batch):
                self.train()
        assert not self.arrived


PacedRun.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
test_paced_run = PacedRun.TestCase


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_room_is_the_whole_allowance_and_comes_back_a_batch_a_version(staleness: int) -> None:
    pacing = Pacing(batch=12, max_staleness=staleness, max_in_flight=1000, version=4)
    assert pacing.room == (staleness + 1) * 12
    pacing.submit(pacing.room)
    pacing.accept(12)
    assert pacing.room == 0
    pacing.version += 1
    assert pacing.room == 12


def test_running_samples_are_limited_even_when_staleness_would_allow_more() -> None:
    pacing = Pacing(batch=12, max_staleness=3, max_in_flight=18)
    pacing.submit(12)
    assert pacing.room == 6
    pacing.accept(4)
    assert pacing.room == 10
