"""Runs are grouped when their seed alone differs; means and standard errors are those of the textbook."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import Config
from cluster.pages.groups import but_the_seed, flat, mean_curve, mean_of, other_secrets, read_config, siblings
from cluster.records.rundir import RunDirectory

numbers = st.floats(-1e6, 1e6)


@given(st.lists(numbers, min_size=2, max_size=6))
def test_the_standard_error_is_the_deviation_over_the_root_of_the_count(values: list[float]) -> None:
    found = mean_of([*values, math.nan, math.inf])
    assert found is not None
    assert found.runs == len(values)
    assert found.mean == pytest.approx(statistics.fmean(values), abs=1e-6)
    assert found.error == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)), rel=1e-6, abs=1e-6)


def test_one_run_has_no_error_and_none_has_no_mean() -> None:
    one = mean_of([2.0])
    assert one is not None
    assert (one.mean, math.isnan(one.error), one.runs) == (2.0, True, 1)
    assert mean_of([]) is mean_of([math.nan]) is None


def test_curves_are_averaged_where_all_have_a_point() -> None:
    found = mean_curve([[(0, 1.0), (1, 2.0), (2, 9.0)], [(0, 3.0), (1, math.nan)], []])
    assert [(x, mean.mean, mean.runs) for x, mean in found] == [(0, 2.0, 2), (1, 2.0, 1)]
    assert found[0][1].error == pytest.approx(1.0)
    assert mean_curve([]) == mean_curve([[]]) == []


def test_siblings_differ_in_their_seed_alone(make_config: Callable[..., Config]) -> None:
    made = {
        name: RunDirectory.create(make_config(f"name={name}", *words)).path
        for name, words in {
            "a": ["seed=0"],
            "b": ["seed=1"],
            "c": ["seed=2"],
            "again": ["seed=0"],
            "lr": ["seed=3", "learner.lr=1e-2"],
        }.items()
    }
    (made["a"].parent / "broken").mkdir()
    (made["a"].parent / "broken" / "config.yaml").write_text("[")
    assert [path.name for path in siblings(made["a"])] == ["b", "c"]
    assert siblings(made["lr"]) == siblings(made["a"].parent / "broken") == []
    assert siblings(made["a"], most=1) == [made["b"]]


def test_another_secret_makes_no_other_configuration() -> None:
    one, other = ({"seed": 0, "rewards": {"far": {"options": {"token": token}}}} for token in ("s3cret", "an0ther"))
    assert but_the_seed(one) == but_the_seed(other) == {"rewards.far.options.token": "***"}
    assert but_the_seed({"rewards": {"far": {"options": {"token": None}}}}) != but_the_seed(one)


def test_masked_values_that_differ_are_told_by_their_keys() -> None:
    options = {"token": "a", "passwd": "b", "inner": [{"hf_token": "c"}], "temperature": 1, "key": None}
    same = {"seed": 0, "rewards": {"far": {"options": options}}}
    other = {"seed": 1, "rewards": {"far": {"options": options | {"token": "x", "inner": [{"hf_token": "y"}]}}}}
    assert other_secrets([same, same | {"seed": 1}]) == other_secrets([same]) == []
    assert other_secrets([same, other, same]) == ["rewards.far.options.inner", "rewards.far.options.token"]


def test_what_cannot_be_read_has_no_settings(tmp_path: Path) -> None:
    assert read_config(tmp_path) == {}
    (tmp_path / "config.yaml").write_text("- a list")
    assert read_config(tmp_path) == {}
    assert flat({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}
