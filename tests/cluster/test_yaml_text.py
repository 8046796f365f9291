"""YAML: what is written is read back as the same value, and what can do harm is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import load_config, read_config
from cluster.yaml_text import read, write

ODD = "1e3 5e-4 1_000 0x1f 010 1:30 on no null ~ .inf nan 2024-01-01 << = ${a} \\${a} a:b a: # 1. .5 +1 1e - &a *a !a"
TEXTS = st.text(max_size=12) | st.sampled_from([*ODD.split(), "", " ", "a: b", "- a", "\n", "\x85", "\u2028"])
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(1 - 2**63, 2**63 - 1) | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(PLAIN)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert repr(read(write(value))) == repr(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e3", 1000.0), ("5e-4", 5e-4), ("-1E+2", -100.0), ("1e-4", 1e-4), ("2024-01-01", "2024-01-01")],
)  # fmt: skip
def test_numbers_are_what_people_take_for_numbers(text: str, value: Any) -> None:
    assert read(text) == value
    assert type(read(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "'a' is there twice (line 2"),
        ("a: !!int 3", "explicit tag"),
        ("a: !mine 3", "explicit tag"),
        ("[" * 40 + "]" * 40, "nested more than 32 deep"),
        ("&a [*a]", "without end"),
        ("[1]: 2", "unhashable key"),
        ("a: [", "line 1"),
        ("\x1b", "not allowed"),
        ("9" * 5000, "digits"),
    ],
)
def test_what_can_do_harm_is_refused_on_one_line(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        read(text)
    assert words in str(caught.value)


def test_merge_keys_and_aliases_are_as_in_yaml() -> None:
    assert read("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a") == {
        "a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2},
    }  # fmt: skip


@given(st.dictionaries(TEXTS, PLAIN, max_size=3))
def test_a_saved_config_is_the_same_config(tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any]) -> None:
    config = load_config(None, ["name='1e3'"])
    rewards = {"mine": config.rewards["shapes_gold"].model_copy(update={"options": options, "kind": "my:${HOME}"})}
    config = config.model_copy(update={"rewards": rewards})
    path = Path(tmp_path_factory.getbasetemp()) / "saved.yaml"
    config.save(path)
    assert read_config(path) == config
