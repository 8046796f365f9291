"""Secrets are in a run's own configuration and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.config import yaml_text
from cluster.records.masking import masked
from cluster.records.origin import NAME, note_start

SECRET = "s3cret,b"
OPTIONS = {"token": SECRET, "token_file": "here", "password": None, "inner": [{"api_key": SECRET}]}


def test_only_secrets_are_masked() -> None:
    assert masked({"token": {"options": OPTIONS}, "seed": 1}) == {
        "token": {"options": {"token": "***", "token_file": "here", "password": None, "inner": [{"api_key": "***"}]}},
        "seed": 1,
    }


@pytest.mark.parametrize("secret", [SECRET, "a: b", "'", "1", 'a"b'])
def test_a_text_of_yaml_has_none_and_is_read_as_before(secret: str) -> None:
    text = yaml_text.write({"a": {"token": secret, "password": None, "token_file": "here"}, "b": 1})
    assert yaml_text.read(masked(text).replace("***", "'***'")) == {
        "a": {"token": "***", "password": None, "token_file": "here"},
        "b": 1,
    }


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("rewards.far.options.token=a,b c", "rewards.far.options.token=***"),
        ("rewards={a: {b: {token: abc, api_key: 'd, e'}}}", "rewards={a: {b: {token: ***, api_key: ***}}}"),
        ("rewards.far.options.token_file=x", "rewards.far.options.token_file=x"),
        ("name=token", "name=token"),
    ],
)
def test_words_of_a_command_are_masked(word: str, said: str, tmp_path: Path) -> None:
    note_start(tmp_path, ["python", word], [])
    assert json.loads((tmp_path / NAME).read_text())["command"] == ["python", said]
