"""Prompts with metadata: strings for all who take strings, on the wire and off it."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pyarrow as pa
import pytest

from rewards.prompt import Prompt


def test_a_prompt_is_its_text() -> None:
    prompt = Prompt("a sign", {"text": "open"})
    assert prompt == "a sign"
    assert {prompt: 1}["a sign"] == 1
    assert pa.table({"prompt": [prompt]})["prompt"].to_pylist() == ["a sign"]
    assert np.array([prompt])[0] == "a sign"
    assert json.dumps([prompt]) == '["a sign"]'


@pytest.mark.parametrize("way", [lambda p: pickle.loads(pickle.dumps(p)), copy.copy, copy.deepcopy])
def test_metadata_travels(way) -> None:
    there = way(Prompt("a sign", {"text": "open", "boxes": [1, 2]}))
    assert there == "a sign"
    assert there.metadata == {"text": "open", "boxes": [1, 2]}


def test_metadata_is_read_only_and_empty_by_default() -> None:
    assert Prompt("a").metadata == {}
    given = {"n": 1}
    prompt = Prompt("a", given)
    given["n"] = 2
    assert prompt.metadata["n"] == 1
    with pytest.raises(TypeError):
        prompt.metadata["n"] = 3  # type: ignore[index]
