"""What is shown of a run: on something that is not a terminal, plain lines; on a terminal, a bar below them."""

from __future__ import annotations

import io
from unittest.mock import Mock, call

import pytest
from rich.console import Console

from cluster.display import Display
from cluster.telemetry import Telemetry

FIGURES = {
    "reward/mean": 0.1234,
    "score/shapes_gold": 0.5,
    "margin/accuracy": 0.75,
    "images_per_second": 12.34,
    "loss": 7.0,
}


def shown(figures: dict[str, float], iterations: int = 3, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
    with Display(console, iterations) as display:
        display.status("sampling")
        for iteration in range(iterations - 2, iterations + 1):
            display.iteration(iteration, figures)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("iterations", [3, 1000])
def test_what_is_not_a_terminal_gets_one_line_an_iteration(iterations: int) -> None:
    lines = shown(FIGURES, iterations).splitlines()
    assert len(lines) == 3
    for number, line in zip(range(iterations - 2, iterations + 1), lines, strict=True):
        assert line.split() == (
            f"iteration {number}/{iterations} reward +0.123 gold 0.500 accuracy 0.75 images/s 12.3".split()
        )


def test_large_figures_do_not_break_the_line() -> None:
    figures = FIGURES | {"reward/mean": -12345.678, "images_per_second": 12345.6}
    assert len(shown(figures, 1000).splitlines()) == 3


def test_figures_that_a_run_lacks_are_left_out() -> None:
    assert shown({"reward/mean": -1.0}).splitlines()[-1].split() == ["iteration", "3/3", "reward", "-1.000"]


def test_a_terminal_also_gets_the_status_and_the_count() -> None:
    text = shown(FIGURES, terminal=True)
    assert "sampling" in text
    assert "3/3" in text.rsplit("images/s", 1)[1]


def test_an_evaluation_is_a_line_for_each_split() -> None:
    console = Console(file=io.StringIO(), width=80)
    figures = {f"eval/{split}/{name}": 0.25 for split in ("train", "held_out") for name in ("gold", "x" * 60)}
    Display(console, 3).evaluation(0, figures)
    lines = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert lines == [[split, "gold", "0.250", "x" * 60, "0.250"] for split in ("train", "held_out")]


def test_all_that_is_shown_goes_to_telemetry_too() -> None:
    telemetry = Mock(spec=Telemetry)
    with Display(Console(file=io.StringIO()), 3, telemetry=telemetry) as display:
        display.status("learning")
        display.iteration(2, FIGURES)
        display.evaluation(2, {"eval/train/gold": 0.5})
        display.lost("learner", 1)
    assert telemetry.mock_calls == [
        call.phase("learning"),
        call.record({"iteration": 2, **FIGURES}),
        call.record({"eval/train/gold": 0.5}),
        call.record({"restarts/learner": 1}),
        call.phase(None),
    ]
