"""How far a command is: a line a minute where there is no terminal, a bar where there is one."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

import cluster.counting
from cluster.counting import counting


def shown(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> str:
    """What is said of 300 pictures, one in a second."""
    out, now = StringIO(), [0.0]
    monkeypatch.setattr(cluster.counting.time, "monotonic", lambda: now[0])
    with counting(Console(file=out, force_terminal=terminal, width=100), "pictures") as count:
        for done in range(301):
            now[0] = done
            count(done, 300)
    return out.getvalue()


def test_in_a_file_there_is_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, terminal=False).splitlines() == [
        f"{done} of 300 pictures" for done in (60, 120, 180, 240, 300)
    ]


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    said = shown(monkeypatch, terminal=True)
    assert "300/300" in said
    assert "of 300 pictures" not in said
