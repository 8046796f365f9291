"""Secrets are in a run's own configuration and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster import yaml_text
from cluster.config import Config
from cluster.pages import report
from cluster.records import rundir
from cluster.records.masking import masked, masked_text, masked_word
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
    assert yaml_text.read(masked_text(yaml_text.write(settings))) == masked(settings)
    assert masked({f"far.{name}": "x"}) == {f"far.{name}": "***"}
    assert masked_word(f"rewards.far.options.{name}=a b") == f"rewards.far.options.{name}=***"
    assert masked_word(f"--{name}=a b") == f"--{name}=***"


SECRETS = (
    SECRET, "a: b", "'", "1", 'a"b', "\t" + "a b" * 40, "two\nlines: 3", "of many words " * 9, "a\n\nb",
    ["-----\n\nMII\n\nbbb\n", "c"], [["a"], {"b": ["c"]}],
)  # fmt: skip


@pytest.mark.parametrize("secret", SECRETS)
def test_a_text_of_yaml_has_none_and_is_read_as_before(secret: object) -> None:
    plain = {"password": None, "token_file": "here", "question": "Is there a door, key: gold?", "list": ["token: x"]}
    settings = {"a": [[{"token": secret, **plain}]], "b": {"api_key": secret, **plain}, "c": 1}
    text = masked_text(yaml_text.write(settings))
    assert yaml_text.read(text) == {"a": [[{"token": "***", **plain}]], "b": {"api_key": "***", **plain}, "c": 1}


def test_what_has_no_secret_or_is_no_yaml_stays_or_is_masked_whole() -> None:
    assert masked_text("# mine\nkind: a,\ntoken:\nseed: 1\n") == "# mine\nkind: a,\ntoken:\nseed: 1\n"
    assert masked_text("a: [1\ntoken: s3cret") == "***"
    assert masked_text("a: [1\n") == "a: [1\n"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("rewards.far.options.token=a,b c", "rewards.far.options.token=***"),
        ("rewards={a: {b: {token: abc, api_key: 'd, e'}}}", "rewards={a: {b: {token: '***', api_key: '***'}}}"),
        ("rewards.far.options={token: [a, b], seed: 1}", "rewards.far.options={token: '***', seed: 1}"),
        ("rewards.far.options={token: [[a], b], seed: 1}", "rewards.far.options={token: '***', seed: 1}"),
        ("rewards.far.options={token: ['a]b'], seed: 1}", "rewards.far.options={token: '***', seed: 1}"),
        ("rewards.far.options={'token' : a b, seed: 1}", "rewards.far.options={token: '***', seed: 1}"),
        ("rewards.far.options={token : a b, seed: 1}", "rewards.far.options={token: '***', seed: 1}"),
        ("rewards.far.options={token: null, seed: 1}", "rewards.far.options={token: null, seed: 1}"),
        ("rewards.far.options= {token: a}", "rewards.far.options={token: '***'}"),
        ("rewards.far.options=&a {token: a}", "rewards.far.options={token: '***'}"),
        ("rewards.far.options=# b\ntoken: a\nseed: 1", "rewards.far.options={token: '***', seed: 1}"),
        ("rewards.far.options=token: a", "rewards.far.options={token: '***'}"),
        ("rewards.far.options={token: x", "rewards.far.options=***"),
        ("rewards.far.options={note: x", "rewards.far.options={note: x"),
        ("rewards.far.options.token=[a, b]", "rewards.far.options.token=***"),
        ("rewards.far.options.token={a: b}", "rewards.far.options.token={a: b}"),
        ("rewards.far.options.token=null", "rewards.far.options.token=null"),
        ("rewards.far.options.token_file=x", "rewards.far.options.token_file=x"),
        ("name=token", "name=token"),
        ("Is there a key=gold?", "Is there a key=gold?"),
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
