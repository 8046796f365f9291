"""What is shown of a run: on something that is not a terminal, plain lines; on a terminal, a bar below them."""

from __future__ import annotations

import io
from unittest.mock import Mock, call

import pytest
from rich.console import Console

import cluster.records.display
from cluster.records.display import Display
from cluster.records.telemetry import Telemetry

FIGURES = {
    "reward/mean": 0.1234,
    "score/my_own": 0.5,
    "score/watched": 0.00012,
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
    figures = "reward +0.123 my_own 0.500 watched 0.00012 accuracy 0.75 images/s 12.3"
    assert [line.split() for line in lines] == [
        f"iteration {number}/{iterations} {figures}".split() for number in range(iterations - 2, iterations + 1)
    ]


def test_samples_without_a_reward_are_on_the_line_once_there_are_any() -> None:
    assert "dropped" not in shown(FIGURES | {"dropped": 0.0})
    assert "dropped 12.5%" in shown(FIGURES | {"dropped": 0.125})


def test_how_many_answers_of_people_were_decisive_is_on_the_line() -> None:
    asked = {"people/chosen": 3.0, "people/ties": 2.0, "people/both_bad": 1.0}
    assert "decisive 3 of 6 answers" in shown(FIGURES | asked)
    assert "decisive 0 of 1 answer   " in shown(FIGURES | dict.fromkeys(asked, 0.0) | {"people/ties": 1.0})
    assert "decisive" not in shown(FIGURES)


def test_large_figures_do_not_break_the_line() -> None:
    figures = FIGURES | {"reward/mean": -12345.678, "images_per_second": 12345.6}
    assert len(shown(figures, 1000).splitlines()) == 3


def test_figures_that_a_run_lacks_are_left_out() -> None:
    assert shown({"reward/mean": -1.0}).splitlines()[-1].split() == ["iteration", "3/3", "reward", "-1.000"]


def test_a_batch_without_samples_says_so_instead_of_figures_that_are_none() -> None:
    nothing = FIGURES | {name: float("nan") for name in ("reward/mean", "score/my_own", "score/watched")}
    del nothing["margin/accuracy"]
    line = shown(nothing | {"samples": 0.0}).splitlines()[-1]
    assert line.split() == ["iteration", "3/3", "no", "samples", "images/s", "12.3"]
    assert "samples" not in shown(FIGURES | {"samples": 12.0})


def test_a_terminal_also_gets_the_status_and_the_count() -> None:
    text = shown(FIGURES, terminal=True)
    assert "sampling" in text
    assert "3/3" in text.rsplit("images/s", 1)[1]


@pytest.mark.parametrize("splits", [("train", "held_out"), ("train",), ("somewhere_else",)])
def test_an_evaluation_is_a_line_for_each_split(splits: tuple[str, ...]) -> None:
    console = Console(file=io.StringIO(), width=80)
    figures = {f"eval/{split}/{name}": 0.25 for split in splits for name in ("my/own", "x" * 60)}
    Display(console, 3).evaluation(0, figures)
    lines = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert lines == [[split, "my/own", "0.250", "x" * 60, "0.250"] for split in splits]


@pytest.mark.parametrize("name", ["[bold]x[/]", "[/]", ":smile:", "\x1b[31mred", "a\nb", "[link=http://x]y[/link]"])
@pytest.mark.parametrize("terminal", [False, True])
def test_names_are_shown_and_not_obeyed(name: str, terminal: bool) -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=terminal)
    Display(console, 3).iteration(1, {f"score/{name}": 1.0})
    Display(console, 3).evaluation(1, {f"eval/train/{name}": 1.0})
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count(name.replace("\x1b", "\\x1b").replace("\n", "\\n")) == 2
    assert "\x1b[31m" not in text
    assert len(text.splitlines()) == 2


class Clock:
    """A clock that a test turns, in place of `time.monotonic`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(cluster.records.display.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def bars(display: Display) -> list[list[str]]:
    """The words of each bar that is shown, without the bar itself."""
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    console.print(display._progress.make_tasks_table([t for t in display._progress.tasks if t.visible]))
    return [[word for word in line.split() if set(word) - set("━╸╺ ")] for line in
            console.file.getvalue().splitlines()]  # type: ignore[attr-defined]  # fmt: skip


def test_a_phase_says_how_many_images_are_there_and_how_long_the_others_take(clock: Clock) -> None:
    display = Display(Console(file=io.StringIO(), force_terminal=True), 4)
    display.status("sampling")
    display.images(0, 120)
    clock.now += 30
    assert bars(display)[0][:3] == ["sampling", "0/120", "images"]
    assert "left" not in bars(display)[0]
    display.images(40, 120)
    assert bars(display)[0][-2:] == ["0:01:00", "left"]
    clock.now += 10  # it runs between two reports too
    assert bars(display)[0][-2:] == ["0:00:50", "left"]
    clock.now += 500
    assert bars(display)[0][-2:] == ["0:00:00", "left"]
    display.images(120, 120)
    assert "left" not in bars(display)[0]
    display.status("evaluation")
    assert "120" not in " ".join(bars(display)[0])
    assert display._progress.tasks[0].total is None  # the bar moves, and claims nothing


def test_the_learner_is_expected_to_take_as_long_as_before(clock: Clock) -> None:
    display = Display(Console(file=io.StringIO(), force_terminal=True), 4)
    for expected in (None, ["0:00:25", "left"]):
        display.status("learning")
        assert ("left" in bars(display)[0]) == bool(expected)
        assert not expected or bars(display)[0][-2:] == expected
        clock.now += 25
        display.status("sampling")


def test_the_run_has_a_time_left_from_its_own_iterations(clock: Clock) -> None:
    display = Display(Console(file=io.StringIO(), force_terminal=True), 10)
    clock.now += 1000  # starting and the first evaluation count for nothing
    display.going_on(4)
    assert bars(display)[1][:3] == ["run", "4/10", "iterations"]
    clock.now += 60
    display.iteration(5, {})
    assert bars(display)[1][-2:] == ["0:05:00", "left"]
    clock.now += 120
    display.iteration(6, {})
    assert bars(display)[1][-2:] == ["0:06:00", "left"]
    display.going_on(5)  # a lost learner came back from an earlier checkpoint
    assert bars(display)[1][:3] == ["run", "5/10", "iterations"]
    assert "left" not in bars(display)[1]


def test_without_a_terminal_a_long_phase_speaks_once_a_minute(clock: Clock) -> None:
    console = Console(file=io.StringIO(), width=200)
    with Display(console, 4) as display:
        display.status("evaluation")
        for done in range(0, 300, 2):  # one image a second
            display.images(done, 300)
            clock.now += 2
    lines = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert lines == [
        ["evaluation", f"{done}/300", "images", f"0:0{(300 - done) // 60}:00", "left"] for done in (60, 120, 180, 240)
    ]


def test_pairs_that_are_waited_for_are_a_phase_of_their_own(clock: Clock) -> None:
    console = Console(file=io.StringIO(), width=200)
    with Display(console, 4) as display:
        display.images(40, 40)
        for done in (0, 1, 2):
            display.pairs(done, 4)
            clock.now += 59
        display.pairs(2, 4)
    (line,) = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert line.split() == ["choosing", "2/4", "pairs", "0:01:58", "left"]


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
