"""Secrets are in a run's own configuration and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.config import Config, yaml_text
from cluster.pages import report
from cluster.records import rundir
from cluster.records.masking import masked
from cluster.records.origin import NAME, note_start
from cluster.records.reading import CONFIG
from tests.support.made_up_run import make_up

SECRET = "s3cret,b"
OPTIONS = {"token": SECRET, "token_file": "here", "password": None, "inner": [{"api_key": SECRET}]}


def test_only_secrets_are_masked() -> None:
    assert masked({"token": {"options": OPTIONS}, "seed": 1}) == {
        "token": {"options": {"token": "***", "token_file": "here", "password": None, "inner": [{"api_key": "***"}]}},
        "seed": 1,
    }


@pytest.mark.parametrize(
    "name", ["hf_token", "access-token", "API_KEY", "apikey", "key", "secret", "client_secret", "passwd"]
)
def test_the_last_word_of_a_name_says_that_it_is_a_secret(name: str) -> None:
    near = {f"{name}_file": "here", f"{name}_variable": "HERE", f"{name}s": "plain", "monkey": "plain"}
    settings = {
        "a": [{name: SECRET, **near}],
        "b": {name: {"kind": "x"}},
        "c": {name: [SECRET, {"d": SECRET}], **near},
        "e": [{name: [SECRET, {"d": SECRET}], **near}, {name: [SECRET]}],
    }
    assert masked(settings) == {
        "a": [{name: "***", **near}],
        "b": {name: {"kind": "x"}},
        "c": {name: "***", **near},
        "e": [{name: "***", **near}, {name: "***"}],
    }
    assert yaml_text.read(masked(yaml_text.write(settings)).replace("***", "'***'")) == masked(settings)
    assert masked(f"rewards.far.options.{name}=a b") == f"rewards.far.options.{name}=***"


@pytest.mark.parametrize("secret", [SECRET, "a: b", "'", "1", 'a"b', "\t" + "a b" * 40, "two\nlines: 3"])
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
        ("rewards.far.options={token: [a, b], seed: 1}", "rewards.far.options={token: ***, seed: 1}"),
        ("rewards.far.options={seed: 1, token: {a: b, c: d}}", "rewards.far.options={seed: 1, token: ***}"),
        ("rewards.far.options={token: a b, seed: 1}", "rewards.far.options={token: ***, seed: 1}"),
        ("rewards.far.options.token_file=x", "rewards.far.options.token_file=x"),
        ("name=token", "name=token"),
    ],
)
def test_words_of_a_command_are_masked(word: str, said: str, tmp_path: Path) -> None:
    note_start(tmp_path, ["python", word], [])
    assert json.loads((tmp_path / NAME).read_text())["command"] == ["python", said]


def test_loggers_and_the_report_have_none_and_the_run_has(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_up(make_config("name=mine", "iterations=4"), (0, 4))
    config = yaml_text.read((run.path / CONFIG).read_text())
    config["rewards"]["shapes_gold"]["options"] = {"token": "s3cret"}
    (run.path / CONFIG).write_text(yaml_text.write(config))
    page = report.write_report(run).read_text()
    assert "s3cret" not in page
    assert page.count("***") >= 2  # the whole configuration, and what differs from the default
    assert "s3cret" in (run.path / CONFIG).read_text()
    given: list[Mapping[str, Any]] = []
    monkeypatch.setattr(rundir, "Loggers", lambda names, path, settings: given.append(settings))
    gold = run.config.rewards["shapes_gold"].model_copy(update={"options": {"token": "s3cret"}})
    writer = rundir.RunDirectory(run.path)
    writer.config = run.config.model_copy(update={"rewards": {"shapes_gold": gold}})
    _ = writer._loggers
    assert given[-1]["rewards"]["shapes_gold"]["options"] == {"token": "***"}
