"""The page's server: what it hands out, keeps, and never says."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from aiohttp.test_utils import TestClient

from rewards.people import choices
from rewards.people.questions import FILE, Question, keep_picture, offer
from rewards.people.schedule import Rules
from tests.support.label_page import Body, answer, post, run, state
from tests.support.taste import picture

Ask = Callable[..., list[Question]]


def test_a_choice_is_on_the_disk_before_the_next_is_handed_out(tmp_path: Path, ask: Ask) -> None:
    asked = {question.id: question for question in ask(6)}

    async def test(client: TestClient) -> None:
        now = await state(client)
        assert (now["done"], now["left"], now["last"]) == (0, 6, None)
        for number, verdict in enumerate([0, 1, "tie", "both_bad", 1, 0]):
            shown, *after = now["showings"]
            status, then = await post(client, answer(shown, verdict))
            made = choices.read(tmp_path)[-1]
            question = asked[shown["question"]]
            assert status == 200
            assert len(choices.read(tmp_path)) == then["done"] == number + 1
            assert then["showings"][:1] == after
            assert (made.prompt, made.sets, made.choice, made.rater) == (question.prompt, question.sets, verdict, "Ada")
            assert [list(made.sets[index]) for index in made.order] == shown["places"]
            assert made.seconds == 1.25
            now = then
        assert (now["showings"], now["left"]) == ([], 0)

    run(test, tmp_path)


def test_what_is_handed_out_does_not_say_which_is_which(tmp_path: Path, ask: Ask) -> None:
    ask(3, models=("secret one", "secret two"), scores=(0.1, 0.2))

    async def test(client: TestClient) -> None:
        text = await (await client.get("/api/next", params={"rater": "Ada"})).text()
        assert "secret" not in text
        assert "0.1" not in text
        assert set((await state(client))["showings"][0]) == {"question", "round", "prompt", "words", "places"}

    run(test, tmp_path)


def test_a_post_that_comes_twice_counts_once(tmp_path: Path, ask: Ask) -> None:
    ask(4)

    async def test(client: TestClient) -> None:
        shown = (await state(client))["showings"][0]
        answers = await asyncio.gather(*(post(client, answer(shown)) for _ in range(5)))
        assert [status for status, _ in answers] == [200] * 5
        assert {body["done"] for _, body in answers} == {1}
        assert len(choices.read(tmp_path)) == 1

    run(test, tmp_path)


def test_two_windows_of_one_rater_double_nothing(tmp_path: Path, ask: Ask) -> None:
    ask(4)

    async def test(client: TestClient) -> None:
        one, other = await state(client), await state(client)
        assert one == other
        first = one["showings"][0]
        assert (await post(client, answer(first, 0, name="window0one")))[0] == 200
        status, body = await post(client, answer(first, 1, name="window0two"))
        assert status == 409
        assert "in another window" in body["error"]
        assert [choice.choice for choice in choices.read(tmp_path)] == [0]
        assert (await state(client))["showings"][0] == one["showings"][1]

    run(test, tmp_path)


def test_two_raters_share_some_and_lose_nothing(tmp_path: Path, ask: Ask) -> None:
    ask(20)

    async def rate(client: TestClient, rater: str) -> None:
        now = await state(client, rater)
        while now["showings"]:
            _, now = await post(client, answer(now["showings"][0], rater=rater))

    async def test(client: TestClient) -> None:
        await asyncio.gather(rate(client, "Ada"), rate(client, "Bo"))
        made = choices.read(tmp_path)
        by_rater = [{choice.question for choice in made if choice.rater == rater} for rater in ("Ada", "Bo")]
        assert len(set.union(*by_rater)) == 20
        assert 0 < len(set.intersection(*by_rater)) < 12
        assert len(made) == sum(map(len, by_rater))

    run(test, tmp_path, rules=Rules(again=0, shared=0.2))


def test_what_was_answered_comes_again_and_is_kept_as_such(tmp_path: Path, ask: Ask) -> None:
    ask(3)

    async def test(client: TestClient) -> None:
        now = await state(client)
        while now["showings"]:
            status, now = await post(client, answer(now["showings"][0]))
            assert status == 200
        assert [choice.round for choice in choices.read(tmp_path)] == [0, 0, 0, 1, 1, 1]

    run(test, tmp_path, rules=Rules(again=1.0))


def test_undo_takes_back_one_and_shows_it_again(tmp_path: Path, ask: Ask) -> None:
    ask(4)

    async def test(client: TestClient) -> None:
        first = (await state(client))["showings"][0]
        _, now = await post(client, answer(first))
        undo = {"id": now["last"], "rater": "Ada"}
        answers = await asyncio.gather(*(post(client, undo, "/api/undo") for _ in range(3)))
        assert [status for status, _ in answers] == [200] * 3
        assert answers[0][1]["showings"][0] == first
        assert answers[0][1]["last"] is None
        assert choices.read(tmp_path) == []
        assert (await post(client, answer(first, 1, name="another1")))[1]["done"] == 1
        assert (await post(client, {"id": "unknown99", "rater": "Ada"}, "/api/undo"))[0] == 404
        assert (await post(client, {"id": "another1", "rater": "Bo"}, "/api/undo"))[0] == 404

    run(test, tmp_path)


def test_a_full_disk_is_said_and_nothing_counts(tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(4)
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 20:
            return write(descriptor, data[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def test(client: TestClient) -> None:
        before = await state(client)
        shown = before["showings"][0]
        with monkeypatch.context() as broken:
            broken.setattr("rewards.people.lines.os.write", full)
            status, body = await post(client, answer(shown))
        assert status == 507
        assert body["error"].startswith("Your choice was not saved and does not count: ")
        assert "No space left on device" in body["error"]
        assert choices.read(tmp_path) == []
        assert await state(client) == before
        assert (await post(client, answer(shown, 1)))[1]["done"] == 1
        assert [choice.choice for choice in choices.read(tmp_path)] == [1]

    run(test, tmp_path)


def test_a_restart_goes_on_behind_a_torn_line(tmp_path: Path, ask: Ask) -> None:
    ask(5)
    seen: list[Body] = []

    async def first(client: TestClient) -> None:
        seen.append(await state(client))
        seen.append((await post(client, answer(seen[0]["showings"][0])))[1])

    async def second(client: TestClient) -> None:
        assert await state(client) == seen[1]
        _, now = await post(client, answer(seen[0]["showings"][0]))  # whose answer was lost on the way
        assert now["done"] == 1
        _, now = await post(client, answer(now["showings"][0]))
        assert now["done"] == 2

    run(first, tmp_path)
    with (tmp_path / choices.FILE).open("a") as file:
        file.write('{"id":"half of a li')
    run(second, tmp_path)
    assert len(choices.read(tmp_path)) == 2


def test_questions_of_another_process_come_onto_the_open_page(tmp_path: Path, ask: Ask) -> None:
    async def test(client: TestClient) -> None:
        assert (await state(client))["showings"] == []
        (new,) = ask(1)
        (shown,) = (await state(client))["showings"]
        assert shown["question"] == new.id
        picture = await client.get(f"/pictures/{shown['places'][0][0]}")
        assert picture.status == 200
        assert "immutable" in picture.headers["Cache-Control"]
        assert await picture.read() == (tmp_path / "pictures" / shown["places"][0][0]).read_bytes()

    run(test, tmp_path)


@pytest.mark.parametrize(
    "line", ['{"prompt": "a", "sets": []}', "no JSON", "[" * 100_000, '{"scores": [1' + "0" * 400 + "]}"]
)
def test_a_line_that_is_no_question_stops_nobody_and_is_said_once(
    tmp_path: Path, ask: Ask, caplog: pytest.LogCaptureFixture, line: str
) -> None:
    ask(3)

    async def test(client: TestClient) -> None:
        now = await state(client)
        with (tmp_path / FILE).open("a") as file:
            file.write(f"{line}\n")
        for _ in range(3):
            status, now = await post(client, answer(now["showings"][0]))
            assert status == 200
        assert (await state(client))["done"] == 3
        (said,) = caplog.messages
        assert said.startswith(f"warning: No more questions come: {tmp_path / FILE} ")
        (tmp_path / FILE).write_text("".join((tmp_path / FILE).read_text().splitlines(keepends=True)[:3]))
        ask(1, start=3)
        assert len((await state(client))["showings"]) == 1

    run(test, tmp_path)


def test_prompts_travel_as_they_are(tmp_path: Path, ask: Ask) -> None:
    prompt = "<script>alert('a & b')</script> \u2028 \u202e 😀 \x07"
    (question,) = ask(1)
    offer(tmp_path, [Question(prompt, question.sets)])

    async def test(client: TestClient) -> None:
        assert prompt in {shown["prompt"] for shown in (await state(client))["showings"]}
        assert "<script>alert" not in await (await client.get("/")).text()

    run(test, tmp_path)


def test_the_page_leads_no_rater_to_the_results(tmp_path: Path) -> None:
    """They name the models, and say which wins."""

    async def test(client: TestClient) -> None:
        for path in ("/", "/page/page.js"):
            assert "results" not in (await (await client.get(path)).text()).lower()

    run(test, tmp_path)


def test_results_are_those_of_the_choices(tmp_path: Path) -> None:
    names = [keep_picture(tmp_path, picture(np.random.default_rng(seed), 16)) for seed in range(2)]
    offer(tmp_path, [Question("a", ((names[0],), (names[1],)), ("new", "old"))])

    async def test(client: TestClient) -> None:
        before = await (await client.get("/api/results")).json()
        assert (before["choices"], before["win_rates"]) == (0, [])
        shown = (await state(client))["showings"][0]
        await post(client, answer(shown, shown["places"].index([names[0]])))
        found = await (await client.get("/api/results")).json()
        assert found["choices"] == 1
        assert found["win_rates"][0]["models"][0]["model"] == "new"

    run(test, tmp_path)
