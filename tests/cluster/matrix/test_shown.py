"""Tables of an evaluation."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from cluster.matrix.figures import fronts
from cluster.matrix.shown import tables


def estimate(value: float | None, error: float | None = None) -> dict[str, float | None]:
    ends = (None, None) if value is None or error is None else (value - error, value + error)
    return {"value": value, "error": error, "low": ends[0], "high": ends[1]}


def record(name: str, reward: float | None, spread: float, **more: Any) -> dict[str, Any]:
    """Of a model: a reward, a diversity."""
    features = {word: estimate(spread, 0.1) for word in ("diversity", "vendi", "prompt_averaged_fid", "kid")}
    said = {"model": name, "group": name.partition("-")[0], "base": name.startswith("base"), "against": "base"}
    return {**said, "rewards": {"clip": {"mean": estimate(reward, 0.5)}}, "features": {"clip": features}, **more}


def told(result: dict[str, Any]) -> str:
    console = Console(width=120, record=True, file=StringIO())
    for table in tables(result):
        console.print(table)
    return console.export_text()


def test_what_is_known_is_shown_with_its_error_and_what_is_not_is_left_out() -> None:
    parts = {"prompt": 3.0, "noise": 0.5, "both": 0.25, "chain": 0.25, "total": 4.0}
    mine = record(
        "a-4", None, 1.0, variance={"clip": parts}, implicit_accuracy={"value": 0.7, "error": 0.02, "pairs": 9}
    )
    mine["rewards"]["clip"]["win_rate"] = estimate(0.75, 0.1)
    text = told({"trained_on": ["clip"], "models": [record("base", 0.25, 2.0, variance={"clip": None}), mine]})
    assert "clip (trained on)" in text
    assert "0.250 ± 0.500" in text
    assert "0.750 ± 0.100" in text
    assert "0.650 to 0.850" in text
    assert "75%" in text
    assert "0.700 ± 0.020" in text
    assert "nan" not in text.lower()
    assert "None" not in text


def test_fronts_are_of_each_run_with_the_base() -> None:
    records = [
        record("base", 0, 3),
        record("a-1", 1, 2),
        record("a-2", 1, 1),
        record("a-3", None, 9),
        record("b-1", -1, 4),
    ]
    found = {line["group"]: line["models"] for line in fronts(records)}
    assert found == {"a": ["base", "a-1"], "b": ["base", "b-1"]}


def test_a_front_leaves_out_the_base_of_others() -> None:
    records = [
        record("base", 0, 3),
        record("base of b", 9, 9, against="base of b"),
        record("a-1", 1, 2),
        record("b-1", 1, 10, against="base of b"),
    ]
    found = {line["group"]: line["models"] for line in fronts(records)}
    assert found == {"a": ["base", "a-1"], "b": ["base of b", "b-1"]}


def test_names_of_checkpoints_that_differ_at_their_end_are_shown_whole() -> None:
    names = [f"a-run-with-a-name-of-some-length-{number:06d}" for number in (3, 6)]
    text = told({"trained_on": [], "models": [record(name, 0.5, 1.0) for name in names]})
    for name in names:
        assert name[-6:] in text.rpartition("within a prompt")[2]


def test_brackets_of_a_name_are_shown() -> None:
    one = record("lr[x]-4", 0.5, 1.0)
    one["rewards"]["clip[/b]"] = one["rewards"].pop("clip")
    text = told({"trained_on": [], "models": [one]})
    assert text.count("lr[x]-4") == 2
    assert "clip[/b] (not trained on)" in text
