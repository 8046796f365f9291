"""What a run asks of people: votes become labels, and a batch's questions and labels stay what they were."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
import torch

from rewards.people.choices import BOTH_BAD, TIE, Choice
from rewards.people.lines import Damaged
from rewards.people.live import FILE, Batches, settle
from rewards.people.questions import Question, Questions
from rewards.people.reward import People

FIRST, SECOND = 1, 0  # the places of the first and the second picture, with the second one left
ids = count()


def vote(said: int | str, rater: str = "Ada", question: str = "q", round: int = 0) -> Choice:
    return Choice(str(next(ids)), question, "a disc", (("a.png",), ("b.png",)), (1, 0), said, rater, round, 0.0)


@pytest.mark.parametrize(
    ("votes", "label"),
    [
        ([FIRST], 1.0),
        ([SECOND], 0.0),
        ([TIE], 0.5),
        ([BOTH_BAD], BOTH_BAD),
        ([FIRST, FIRST, SECOND], 2 / 3),
        ([FIRST, SECOND], 0.5),
        ([FIRST, TIE], 0.75),
        ([FIRST, BOTH_BAD], BOTH_BAD),
        ([FIRST, FIRST, BOTH_BAD], 1.0),
        ([TIE, BOTH_BAD, BOTH_BAD], BOTH_BAD),
    ],
)
def test_a_label_is_the_share_of_the_votes(votes: list[int | str], label: float | str) -> None:
    assert settle(vote(said, f"rater {number}") for number, said in enumerate(votes)) == {"q": label}


def test_what_comes_again_is_no_second_vote_and_what_nobody_answered_has_no_label() -> None:
    votes = [vote(FIRST), vote(SECOND, round=1), vote(SECOND, question="r")]
    assert settle(votes) == {"q": 1.0, "r": 0.0}
    assert settle([]) == {}


def pair(name: str) -> Question:
    return Question("a disc", ((f"{name}1.png",), (f"{name}2.png",)))


def test_a_batch_is_asked_about_once_and_settled_once(tmp_path: Path) -> None:
    batches = Batches(tmp_path)
    assert batches.asked(0) is batches.labels(0) is None
    batches.ask(0, {0: pair("a"), 3: pair("b")})
    assert [question.id for question in Questions(tmp_path)] == [pair("a").id, pair("b").id]
    # After a restart other pictures may have been drawn; those that are out stay.
    again = Batches(tmp_path)
    again.ask(0, {0: pair("c")})
    assert again.asked(0) == {0: pair("a"), 3: pair("b")}
    assert len(Questions(tmp_path)) == 2
    again.settle(0, {0: 1.0, 3: BOTH_BAD})
    found = Questions(tmp_path)
    assert all(found.closed(question.id) for question in found)
    assert Batches(tmp_path).labels(0) == {0: 1.0, 3: BOTH_BAD}


def test_other_pictures_take_the_places_of_those_that_were_asked_about(tmp_path: Path) -> None:
    """And give them back, where a third machine draws as the first."""
    old = {0: pair("a"), 3: pair("b"), 4: pair("c")}
    new = {0: pair("d"), 3: pair("e"), 5: pair("f")}
    Batches(tmp_path).ask(0, old)
    for drawn, now in ((new, new | {3: pair("b")}), (old, old)):
        batches = Batches(tmp_path)
        asked = batches.asked(0)
        assert asked is not None
        batches.ask(0, drawn, others=asked.keys() - {3})
        assert batches.asked(0) == Batches(tmp_path).asked(0) == now
        found = Questions(tmp_path)
        assert {question for question in found if not found.closed(question.id)} == set(now.values())
    batches.ask(0, {})
    assert batches.asked(0) == now


def test_a_pair_that_had_one_picture_twice_and_now_has_two_is_asked_about(tmp_path: Path) -> None:
    Batches(tmp_path).ask(0, {0: pair("a")})
    batches = Batches(tmp_path)
    batches.ask(0, {0: pair("a"), 1: pair("b")})
    assert batches.asked(0) == {0: pair("a"), 1: pair("b")}
    assert len(Questions(tmp_path)) == 2


def test_a_driver_that_is_killed_between_its_two_files_asks_all_the_same(tmp_path: Path) -> None:
    batches = Batches(tmp_path)
    batches.ask(0, {0: pair("a")})
    (tmp_path / "questions.jsonl").unlink()
    Batches(tmp_path).ask(0, {})
    assert [question.id for question in Questions(tmp_path)] == [pair("a").id]


def test_one_choice_counts_for_one_pair(tmp_path: Path) -> None:
    batches = Batches(tmp_path)
    batches.ask(0, {0: pair("a"), 1: pair("a")})
    batches.ask(1, {0: pair("a"), 1: pair("b")})
    assert batches.asked(0) == {0: pair("a")}
    assert batches.asked(1) == {1: pair("b")}


def test_a_file_that_says_something_else_is_named(tmp_path: Path) -> None:
    for line in ('{"batch": 0}', '{"batch": 0, "labels": {"0": "good"}}', '{"batch": 0, "asked": {"0": {}}}'):
        (tmp_path / FILE).write_text(line + "\n")
        with pytest.raises(Damaged, match="has a line that is no batch"):
            Batches(tmp_path)


@pytest.mark.parametrize(
    "options", [{"pairs": 0}, {"pairs": 2.5}, {"pairs": True}, {"patience": 0}, {"patience": "an hour"}]
)
def test_options_that_cannot_be_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="people are"):
        People(**options)  # type: ignore[arg-type]


def test_people_answer_nobody_at_once() -> None:
    assert People().score(torch.zeros(3, 3, 8, 8), [""] * 3).isnan().tolist() == [True] * 3
