"""One sentence, whoever raised: on one line, with nothing that a terminal obeys, and a traceback where one helps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayTaskError

from cluster.errors import ConfigError, sentence
from learner.learner import RatioError


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def in_an_actor(error: Exception) -> RayTaskError:
    return RayTaskError("LearnerActor.update", f"\x1b[36mray::LearnerActor\x1b[39m\n  File x\n{error}", error)


@pytest.mark.parametrize("wrap", [lambda e: e, in_an_actor])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConfigError("The setting is wrong."), "The setting is wrong."),
        (RatioError("no sentence, but ours"), "no sentence, but ours"),
        (FloatingPointError("The gradient is nan; lower it."), "The gradient is nan; lower it."),
        (ValueError("policy.height is 17; give 16."), "policy.height is 17; give 16."),
    ],
)
def test_sentences_are_said_as_they_are(error: Exception, said: str, wrap) -> None:  # type: ignore[no-untyped-def]
    assert sentence(wrap(error)) == said


@pytest.mark.parametrize("wrap", [raised, in_an_actor])
def test_of_anything_else_the_type_is_named_and_the_traceback_kept(tmp_path: Path, wrap) -> None:  # type: ignore[no-untyped-def]
    said = sentence(wrap(KeyError("my_key")), tmp_path)
    assert said == f"KeyError: 'my_key' (traceback: {tmp_path / 'error.log'})"
    kept = (tmp_path / "error.log").read_text()
    assert "my_key" in kept
    assert "Traceback" in kept or "File x" in kept
    assert "\x1b" not in kept


def test_without_a_run_the_traceback_is_kept_elsewhere() -> None:
    (path,) = re.findall(r"\(traceback: (.*)\)$", sentence(raised(ValueError("x"))))
    assert "ValueError: x" in Path(path).read_text()


def test_a_full_disk_does_not_hide_the_error(tmp_path: Path) -> None:
    assert sentence(raised(KeyError("k")), tmp_path / "gone") == "KeyError: 'k' (traceback: it could not be written)"


@pytest.mark.parametrize("code", [0, None, "bye"])
def test_an_exit_that_others_ask_for_is_no_success(code: object) -> None:
    assert f"sys.exit({code!r})" in sentence(SystemExit(code))


@given(st.text())
def test_whatever_a_message_holds_it_is_one_line_that_a_terminal_shows(message: str) -> None:
    said = sentence(ConfigError(message))
    assert len(said.splitlines()) <= 1
    assert "\x1b" not in said
    assert len(said) < 2000


def test_colours_are_left_out_and_novels_cut() -> None:
    assert sentence(RatioError("\x1b[31mred\x1b[0m\nnext\tline")) == "red next line"
    assert len(sentence(RatioError("long " * 10_000))) < 2000
