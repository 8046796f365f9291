"""Who sees what, when, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rewards.people.choices import Choice, Choices
from rewards.people.questions import Question, Questions, close
from rewards.people.schedule import Rules, Schedule, Showing

Ask, Choose = Callable[..., list[Question]], Callable[..., Choice]


@pytest.fixture
def choices(tmp_path: Path) -> Iterator[Choices]:
    kept = Choices(tmp_path)
    yield kept
    kept.close()


def answer(choices: Choices, choose: Choose, rater: str, shown: Showing) -> None:
    assert asyncio.run(choices.add(choose(shown.question, 0, rater, shown.round, shown.order)))


def answer_all(schedule: Schedule, choices: Choices, choose: Choose, rater: str) -> list[Showing]:
    seen = []
    while shown := schedule.next(rater):
        left = schedule.left(rater)
        answer(choices, choose, rater, shown[0])
        assert schedule.left(rater) == left - 1
        seen.append(shown[0])
    assert schedule.left(rater) == 0
    return seen


def test_a_rater_sees_everything_once_and_a_tenth_again(
    tmp_path: Path, ask: Ask, choose: Choose, choices: Choices
) -> None:
    asked = ask(40)
    schedule = Schedule(Questions(tmp_path), choices, Rules())
    assert schedule.left("Ada") == 44
    seen = answer_all(schedule, choices, choose, "Ada")
    first = [shown.question.id for shown in seen if shown.round == 0]
    again = [shown.question.id for shown in seen if shown.round == 1]
    assert sorted(first) == sorted(question.id for question in asked)
    assert first != [question.id for question in asked]
    assert len(again) == len(set(again)) == 4
    places = {(shown.question.id, shown.round): place for place, shown in enumerate(seen)}
    assert all(places[name, 1] - places[name, 0] > 10 or places[name, 1] >= 40 for name in again)


def test_without_a_share_nothing_comes_again(tmp_path: Path, ask: Ask, choose: Choose, choices: Choices) -> None:
    ask(12)
    schedule = Schedule(Questions(tmp_path), choices, Rules(again=0))
    assert len(answer_all(schedule, choices, choose, "Ada")) == 12


def test_left_and_right_are_drawn_by_the_seed(tmp_path: Path, ask: Ask, choose: Choose, choices: Choices) -> None:
    ask(200)
    questions = Questions(tmp_path)
    drawn = {
        (seed, rater): {
            shown.question.id: shown.order
            for question in questions
            for shown in [Schedule(questions, choices, Rules(seed))._showing(rater, question.id, 0)]
        }
        for seed, rater in ((0, "Ada"), (1, "Ada"), (0, "Bo"))
    }
    for orders in drawn.values():
        assert 70 < sum(order == (1, 0) for order in orders.values()) < 130
    assert len({str(orders) for orders in drawn.values()}) == 3
    again = Schedule(questions, choices, Rules(0))
    assert all(again._showing("Ada", name, 0).order == order for name, order in drawn[0, "Ada"].items())
    assert any(again._showing("Ada", name, 1).order != order for name, order in drawn[0, "Ada"].items())


def test_some_come_to_everybody_and_the_others_to_one(
    tmp_path: Path, ask: Ask, choose: Choose, choices: Choices
) -> None:
    ask(100)
    schedule = Schedule(Questions(tmp_path), choices, Rules(again=0, shared=0.2))
    seen: dict[str, set[str]] = {"Ada": set(), "Bo": set(), "Cem": set()}
    busy = True
    while busy:  # in turns, so that each holds what the others must not get
        busy = False
        for rater, own in seen.items():
            if shown := schedule.next(rater):
                answer(choices, choose, rater, shown[0])
                own.add(shown[0].question.id)
                busy = True
    everybody = set.intersection(*seen.values())
    assert 8 <= len(everybody) <= 35
    assert set.union(*seen.values()) == {question.id for question in Questions(tmp_path)}
    assert sum(map(len, seen.values())) == 100 + 2 * len(everybody)
    assert min(len(own - everybody) for own in seen.values()) > 15


def test_what_nobody_answers_is_free_again_after_a_while(
    tmp_path: Path, ask: Ask, choose: Choose, choices: Choices
) -> None:
    ask(1)
    now = [0.0]
    schedule = Schedule(Questions(tmp_path), choices, Rules(shared=0), lambda: now[0])
    (shown,) = schedule.next("Ada")
    assert schedule.next("Bo") == []
    now[0] = 1000.0
    assert [other.question for other in schedule.next("Bo")] == [shown.question]
    answer(choices, choose, "Bo", schedule.next("Bo")[0])
    answer(choices, choose, "Ada", shown)  # who comes back is not turned away
    assert schedule.next("Ada") == []


def test_what_is_on_the_screen_stays_there(tmp_path: Path, ask: Ask, choose: Choose, choices: Choices) -> None:
    ask(30)
    questions = Questions(tmp_path)
    schedule = Schedule(questions, choices, Rules())
    first, second = schedule.next("Ada")
    assert schedule.next("Ada") == [first, second]  # another window, or a reload
    answer(choices, choose, "Ada", first)
    ask(30, start=100)
    questions.refresh()
    assert schedule.next("Ada")[0] == second


def test_what_is_withdrawn_comes_next(tmp_path: Path, ask: Ask, choose: Choose, choices: Choices) -> None:
    ask(5)
    schedule = Schedule(Questions(tmp_path), choices, Rules())
    shown, after = schedule.next("Ada")
    answer(choices, choose, "Ada", shown)
    schedule.next("Ada")
    (made,) = choices
    asyncio.run(choices.withdraw(made.id, "Ada", 0.0))
    schedule.put_back(made)
    assert schedule.next("Ada") == [shown, after]


def test_the_least_sure_come_first_where_that_is_wanted(
    tmp_path: Path, ask: Ask, choose: Choose, choices: Choices
) -> None:
    ask(3)  # nobody scored these
    for number, gap in enumerate((3.0, 0.5, -0.1, 2.0)):
        ask(1, start=10 + number, scores=(gap, 0.0))
    schedule = Schedule(Questions(tmp_path), choices, Rules(pick="unsure", again=0))
    gaps = [shown.question.gap for shown in answer_all(schedule, choices, choose, "Ada")]
    assert gaps == [0.1, 0.5, 2.0, 3.0, *[float("inf")] * 3]


def test_nobody_is_asked_what_is_closed_but_for_what_comes_again(
    tmp_path: Path, ask: Ask, choose: Choose, choices: Choices
) -> None:
    asked = ask(6)
    questions = Questions(tmp_path)
    schedule = Schedule(questions, choices, Rules(again=1.0))
    held = schedule.next("Ada")
    answer(choices, choose, "Ada", held[0])
    fresh = next(question for question in asked if question not in [shown.question for shown in held])
    close(tmp_path, [question.id for question in asked if question != fresh])
    questions.refresh()
    assert schedule.left("Bo") == 2
    shown = schedule.next("Ada")
    assert [(one.question, one.round) for one in shown] == [(fresh, 0), (held[0].question, 1)]
