"""The page's server: what it refuses, and to whom."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient

from rewards.people import choices
from rewards.people.choices import Choices
from rewards.people.questions import Question, Questions
from rewards.people.schedule import Rules
from rewards.people.server import Page, serve
from tests.support.label_page import Body, answer, post, raw, run, state

Ask = Callable[..., list[Question]]


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
