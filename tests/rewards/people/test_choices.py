"""Choices: kept once, withdrawn by those who made them, read by others as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rewards.people import choices
from rewards.people.choices import AlreadyChosen, Choice, Choices
from rewards.people.lines import Damaged, InUse
from rewards.people.questions import Question

Ask, Choose = Callable[..., list[Question]], Callable[..., Choice]


def test_choices_are_there_for_others_and_after_a_restart(tmp_path: Path, ask: Ask, choose: Choose) -> None:
    one, other = ask(2)
    made = [choose(one, 1, order=(1, 0)), choose(other, "tie"), choose(one, "both_bad", rater="Bo")]
    kept = Choices(tmp_path)
    for number, choice in enumerate(made, 1):
        assert asyncio.run(kept.add(choice))
        assert choices.read(tmp_path) == made[:number]
    with pytest.raises(InUse):
        Choices(tmp_path)
    kept.close()
    again = Choices(tmp_path)
    assert list(again) == made
    assert again.of("Ada") == made[:2]
    assert again.answered("Bo", one.id, 0)
    assert not again.answered("Bo", one.id, 1)
    again.close()


def test_the_winner_is_a_set_and_not_a_place(ask: Ask, choose: Choose) -> None:
    (one,) = ask(1)
    assert choose(one, 0, order=(1, 0)).winner == 1
    assert choose(one, 0).winner == 0
    assert choose(one, "tie").winner is None


def test_what_is_sent_twice_counts_once(tmp_path: Path, ask: Ask, choose: Choose) -> None:
    (one,) = ask(1)
    kept = Choices(tmp_path)
    assert asyncio.run(kept.add(choose(one)))
    assert not asyncio.run(kept.add(choose(one)))
    with pytest.raises(AlreadyChosen):
        asyncio.run(kept.add(replace(choose(one, 1), id="another")))
    assert choices.read(tmp_path) == [choose(one)]

    async def at_once() -> list[bool | BaseException]:
        again = [replace(choose(one, 1, round=1), id=name) for name in "xxyz"]
        return await asyncio.gather(*map(kept.add, again), return_exceptions=True)

    answers = asyncio.run(at_once())
    assert [answer for answer in answers if isinstance(answer, bool)] == [True, False]
    assert sum(isinstance(answer, AlreadyChosen) for answer in answers) == 2
    assert len(choices.read(tmp_path)) == 2
    kept.close()


def test_the_last_choice_can_be_withdrawn_and_made_anew(tmp_path: Path, ask: Ask, choose: Choose) -> None:
    one, other = ask(2)
    kept = Choices(tmp_path)
    first, second = choose(one), choose(other)
    for choice in (first, second, choose(one, rater="Bo")):
        asyncio.run(kept.add(choice))
    with pytest.raises(AlreadyChosen):
        asyncio.run(kept.withdraw(first.id, "Ada", 2.0))
    with pytest.raises(KeyError):
        asyncio.run(kept.withdraw(second.id, "Bo", 2.0))
    assert asyncio.run(kept.withdraw(second.id, "Ada", 2.0)) == second
    assert asyncio.run(kept.withdraw(second.id, "Ada", 2.0)) is None
    assert not kept.answered("Ada", other.id, 0)
    assert not asyncio.run(kept.add(second))  # sent late, after it was withdrawn
    anew = replace(choose(other, "tie"), id="anew")
    assert asyncio.run(kept.add(anew))
    assert choices.read(tmp_path) == [first, choose(one, rater="Bo"), anew]
    kept.close()
    reopened = Choices(tmp_path)
    assert list(reopened) == [first, choose(one, rater="Bo"), anew]
    assert asyncio.run(reopened.withdraw(second.id, "Ada", 2.0)) is None
    reopened.close()


@pytest.mark.parametrize("change", ['"choice":0|"choice":2', '"order":[0,1]|"order":[0,0]', '"rater"|"who"'])
def test_what_is_no_choice_is_refused(tmp_path: Path, ask: Ask, choose: Choose, change: str) -> None:
    kept = Choices(tmp_path)
    asyncio.run(kept.add(choose(ask(1)[0])))
    kept.close()
    path = tmp_path / choices.FILE
    old, new = change.split("|")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(Damaged, match="a line that is no choice"):
        choices.read(tmp_path)
    with pytest.raises(Damaged):
        Choices(tmp_path)


def test_the_order_is_read_off_what_was_shown(ask: Ask) -> None:
    (question,) = ask(1)
    one, other = question.sets
    assert choices.orders(question, [one, other]) == (0, 1)
    assert choices.orders(question, [other, one]) == (1, 0)
    for wrong in ([one], [one, one], [one, other, other], [("x.png",), one]):
        with pytest.raises(ValueError, match="pictures of the question"):
            choices.orders(question, wrong)
