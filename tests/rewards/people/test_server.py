"""The page's server: what it hands out, keeps, refuses, and never says."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer

from rewards.people import choices
from rewards.people.choices import Choices
from rewards.people.questions import FILE, Question, Questions, keep_picture, offer
from rewards.people.schedule import Rules
from rewards.people.server import Page, serve
from tests.support.taste import picture

Ask = Callable[..., list[Question]]
Body = dict[str, Any]


@asynccontextmanager
async def served(folder: Path, rules: Rules, **access: Any) -> AsyncIterator[TestClient]:
    kept = Choices(folder)
    try:
        async with TestClient(TestServer(Page(Questions(folder), kept, rules, **access).app())) as client:
            yield client
    finally:
        kept.close()


def run(test: Callable[[TestClient], Awaitable[None]], folder: Path, rules: Rules | None = None, **access: Any) -> None:
    async def whole() -> None:
        async with served(folder, rules or Rules(again=0), **access) as client:
            await test(client)

    asyncio.run(whole())


async def state(client: TestClient, rater: str = "Ada") -> Body:
    response = await client.get("/api/next", params={"rater": rater})
    assert response.status == 200
    return await response.json()


def answer(shown: Body, choice: object = 0, rater: str = "Ada", name: str = "") -> Body:
    return {
        "id": name or f"{rater}{shown['question']}{shown['round']}",
        "rater": rater,
        "question": shown["question"],
        "round": shown["round"],
        "places": shown["places"],
        "choice": choice,
        "seconds": 1.25,
    }


async def post(client: TestClient, body: object, path: str = "/api/choose") -> tuple[int, Body]:
    response = await client.post(path, json=body)
    return response.status, await response.json()


async def raw(client: TestClient, request: bytes) -> bytes:
    """The answer to a request that no client would send."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


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


def test_only_what_is_asked_about_can_be_fetched(tmp_path: Path, ask: Ask) -> None:
    ask(1)
    (tmp_path / "pictures" / "secret.png").write_bytes(b"x")
    (tmp_path.parent / "secret.txt").write_text("x")

    async def test(client: TestClient) -> None:
        for path in (
            "/pictures/secret.png",
            "/pictures/..%2Fchoices.jsonl",
            "/pictures/%2e%2e/choices.jsonl",
            "/pictures/..%2F..%2Fsecret.txt",
            "/page/..%2Fserver.py",
            "/page/%2Fetc%2Fpasswd",
            "/choices.jsonl",
        ):
            assert (await client.get(path)).status == 404, path
        for path, kind in (("/", "text/html"), ("/results", "text/html"), ("/page/page.css", "text/css")):
            response = await client.get(path)
            assert response.content_type == kind
            assert "default-src 'self'" in response.headers["Content-Security-Policy"]

    run(test, tmp_path)


def test_prompts_travel_as_they_are(tmp_path: Path, ask: Ask) -> None:
    prompt = "<script>alert('a & b')</script> \u2028 \u202e 😀 \x07"
    (question,) = ask(1)
    offer(tmp_path, [Question(prompt, question.sets)])

    async def test(client: TestClient) -> None:
        assert prompt in {shown["prompt"] for shown in (await state(client))["showings"]}
        assert "<script>alert" not in await (await client.get("/")).text()

    run(test, tmp_path)


def test_what_is_no_choice_is_refused_in_a_sentence(tmp_path: Path, ask: Ask) -> None:
    ask(2)
    changes: list[tuple[Body, int]] = [
        ({"rater": ""}, 400),
        ({"rater": "x" * 61}, 400),
        ({"rater": "a\x00b"}, 400),
        ({"rater": 3}, 400),
        ({"id": "short"}, 400),
        ({"id": None}, 400),
        ({"question": "unknown"}, 404),
        ({"question": ["x"]}, 404),
        ({"choice": 2}, 400),
        ({"choice": "left"}, 400),
        ({"choice": None}, 400),
        ({"choice": [0]}, 400),
        ({"choice": True}, 400),
        ({"round": 2}, 400),
        ({"round": 0.0}, 400),
        ({"round": False}, 400),
        ({"round": 1}, 409),
        ({"seconds": 10**400}, 400),
        ({"seconds": float("nan")}, 400),
        ({"seconds": True}, 400),
        ({"seconds": "1"}, 400),
        ({"places": [["x.png"], ["y.png"]]}, 400),
        ({"places": None}, 400),
        ({"places": 7}, 400),
    ]

    async def test(client: TestClient) -> None:
        shown = (await state(client))["showings"][0]
        for change, status in changes:
            found, body = await post(client, {**answer(shown), **change})
            assert found == status, change
            assert body["error"].endswith(".")
        assert choices.read(tmp_path) == []
        for other in ([1], "x"):
            assert (await post(client, other))[0] == 400
        for data, kind in (
            (b"[" * 100_000, ""),
            (b"{}", "; charset=nonsense"),
            (b"{}", "; charset=hex"),
            (b"\xff", ""),
        ):
            headers = {"Content-Type": f"application/json{kind}"}
            response = await client.post("/api/choose", data=data, headers=headers)
            assert (response.status, await response.json()) == (400, {"error": "The request is no JSON object."})
        form = await client.post("/api/choose", data={"id": "x"})
        assert form.status == 415

    run(test, tmp_path)


def test_in_a_study_none_is_bad(tmp_path: Path, ask: Ask) -> None:
    ask(1, words="Which set is the most diverse?")

    async def test(client: TestClient) -> None:
        shown = (await state(client))["showings"][0]
        assert (await post(client, answer(shown, "both_bad")))[0] == 400
        assert (await post(client, answer(shown, "tie")))[0] == 200

    run(test, tmp_path)


def test_a_token_lets_in_and_nothing_else_does(tmp_path: Path, ask: Ask) -> None:
    (question,) = ask(1)

    async def test(client: TestClient) -> None:
        paths = ("/api/next?rater=Ada", "/api/results", "/results", f"/pictures/{question.sets[0][0]}", "/page/page.js")
        for path in paths:
            assert (await client.get(path)).status == 401
        assert (await client.post("/api/choose", json={})).status == 401
        assert (await client.get("/?token=wrong")).status == 401
        assert (await client.get("/api/next?rater=Ada", cookies={"reinoise-label": "wrong"})).status == 401
        for name in (b"\xff", "caf\u00e9".encode()):
            answer = await raw(client, b"GET /api/results HTTP/1.0\r\nCookie: reinoise-label=" + name + b"\r\n\r\n")
            assert b" 401 " in answer.split(b"\r\n")[0]
            assert b"Open the page once" in answer
        response = await client.get("/?token=right", allow_redirects=False)
        assert (response.status, response.headers["Location"]) == (302, "/")
        cookie = response.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        for path in ("/", *paths):
            assert (await client.get(path)).status == 200

    run(test, tmp_path, token="right")


@pytest.mark.parametrize("token", ["a+b&c#d%20", 'a;b,c"d\\e=?/'])
def test_any_token_that_may_be_is_remembered(tmp_path: Path, ask: Ask, token: str) -> None:
    ask(1)

    async def test(client: TestClient) -> None:
        assert (await client.get("/", params={"token": token}, allow_redirects=False)).status == 302
        assert (await client.get("/api/next?rater=Ada")).status == 200

    run(test, tmp_path, token=token)


def test_other_sites_cannot_pass_for_this_machine(tmp_path: Path, ask: Ask) -> None:
    ask(1)

    async def test(client: TestClient) -> None:
        assert (await client.get("/", headers={"Host": "evil.example:8080"})).status == 403
        assert (await client.get("/", headers={"Host": "localhost:8080"})).status == 200
        assert (await client.get("/")).status == 200

    run(test, tmp_path, local=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "x" * 99])
def test_an_address_that_is_taken_or_none_is_said(tmp_path: Path, host: str) -> None:
    kept = Choices(tmp_path)
    page = Page(Questions(tmp_path), kept, Rules())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = rf"^Nothing can listen on {host}, port {port} \(.+\); name another --listen\.$"
        with pytest.raises(OSError, match=said):
            asyncio.run(serve(page, host, port, None, print))
    kept.close()


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
