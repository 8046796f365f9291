"""The page of a run that goes on: written at once, then seldom; what fails with it costs a warning, not the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import WriteError
from cluster.pages import live
from cluster.pages.live import LivePage
from cluster.records.reading import Records


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, costs: float) -> None:
        self.now, self.written = 1000.0, list[float]()
        monkeypatch.setattr(live.time, "monotonic", lambda: self.now)

        def write(run: Records) -> None:
            self.written.append(self.now)
            self.now += costs

        monkeypatch.setattr(live, "write_report", write)


@pytest.mark.parametrize("costs", [0.1, 3.0])
def test_it_is_written_at_once_and_then_takes_two_percent_at_most(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, costs: float
) -> None:
    clock, page = Clock(monkeypatch, costs), LivePage(Records(tmp_path))
    began = clock.now
    for _ in range(2000):
        page.refresh()
        clock.now += 1.0
    assert clock.written[0] == began
    gaps = [b - a for a, b in zip(clock.written, clock.written[1:], strict=False)]
    assert min(gaps) >= max(30.0, costs / 0.02)
    assert max(gaps) <= max(30.0, costs / 0.02) + costs + 2
    assert len(clock.written) * costs <= 0.02 * (clock.now - began) + costs


def test_what_goes_wrong_is_said_once_and_a_full_disk_is_not_swallowed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, page = Clock(monkeypatch, 0.0), LivePage(Records(tmp_path))
    monkeypatch.setattr(live, "write_report", lambda run: 1 / 0)
    for _ in range(3):
        page.refresh()
        clock.now += 100
    assert caplog.text.count("cannot be written while it goes on") == 1

    def full(run: Records) -> None:
        raise WriteError("the disk is full")

    monkeypatch.setattr(live, "write_report", full)
    with pytest.raises(WriteError):
        LivePage(Records(tmp_path)).refresh()
