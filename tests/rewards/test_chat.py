"""Questions over HTTP: servers that misbehave, keys, and addresses that are none."""

from __future__ import annotations

import asyncio
import email.utils
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from rewards import make_reward
from rewards.checked import Checked
from rewards.errors import RewardUnavailable
from rewards.service.security import Insecure
from rewards.vlm_judge import VlmJudge
from tests.support.chat_server import Asked, completion, serving
from tests.support.judged import grey, judge, level, mean

KEY = "sk-a-secret-of-mine"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards.chat._PAUSES", lambda state: 0.02)


# Servers that are busy, slow, broken or away.


def failing(*failures: Callable[[Asked], Any]) -> Callable[[Asked], Any]:
    """Each failure once, then scores."""

    async def answer(asked: Asked) -> web.StreamResponse:
        if asked.number < len(failures):
            return await failures[asked.number](asked)
        return await level(asked)

    return answer


def status(number: int, **headers: str) -> Callable[[Asked], Any]:
    async def answer(asked: Asked) -> web.StreamResponse:
        return web.Response(status=number, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return answer


async def hang_up(asked: Asked) -> web.StreamResponse:
    assert asked.web.transport is not None
    asked.web.transport.close()
    return web.Response()


async def stop_halfway(asked: Asked) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(asked.web)
    await response.write(b'{"choices": ')
    assert asked.web.transport is not None
    asked.web.transport.close()
    return response


async def no_http(asked: Asked) -> web.StreamResponse:
    assert isinstance(asked.web.transport, asyncio.Transport)
    asked.web.transport.write(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
    return await hang_up(asked)


async def sleep(asked: Asked) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def drip(asked: Asked) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(asked.web)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.02)


PASSING = {
    "429": status(429),
    "500": status(500),
    "502": status(502),
    "503": status(503, Retry_After="soon"),
    "529": status(529),
    "hangs up": hang_up,
    "stops halfway": stop_halfway,
    "no HTTP": no_http,
    "slow": sleep,
    "drips": drip,
}


@pytest.mark.parametrize("failure", PASSING.values(), ids=PASSING)
def test_a_server_that_fails_for_a_while_is_asked_again(failure: Callable[[Asked], Any]) -> None:
    with serving(failing(failure, failure)) as server:
        made = judge(server, deadline=1)
        assert made.score(grey(250), ["light"]).tolist() == [mean(5)]
    assert len(server.asked) == 3
    assert server.asked[0].body == server.asked[2].body
    assert made.dropped == 0


@pytest.mark.parametrize("form", [str, lambda seconds: email.utils.formatdate(time.time() + seconds + 1, usegmt=True)])
def test_the_server_is_given_the_time_that_it_asks_for(form: Callable[[int], str]) -> None:
    times = []

    async def busy_once(asked: Asked) -> web.StreamResponse:
        times.append(time.monotonic())
        return await failing(status(429, Retry_After=form(1)))(asked)

    with serving(busy_once) as server:
        assert judge(server).score(grey(250), ["light"]).tolist() == [mean(5)]
    assert 0.9 < times[1] - times[0] < 3


def test_a_picture_that_the_server_breaks_on_is_dropped_once_others_are_answered() -> None:
    async def breaks(asked: Asked) -> web.StreamResponse:
        return web.Response(status=500, text="CUDA error") if asked.picture[0, 0, 0] == 0 else await level(asked)

    with serving(breaks) as server:
        made = judge(server, patience=0.3)
        assert made.score(grey(250, 0), ["light"] * 2).isnan().tolist() == [False, True]
        assert made.dropped == 1


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (status(503), "503 Service Unavailable"),
        (status(429, Retry_After="3600"), "429 Too Many Requests"),
        (hang_up, "Server disconnected"),
        (sleep, "nothing within the deadline of 0.1 seconds"),
    ],
    ids=["503", "in an hour", "hangs up", "slow"],
)
def test_a_server_that_answers_nothing_within_its_patience_is_gone(failure: Callable[[Asked], Any], words: str) -> None:
    began = time.monotonic()
    with serving(failing(*[failure] * 999)) as server:
        made = judge(server, patience=0.4, deadline=0.1 if failure is sleep else 9, concurrency=2)
        with pytest.raises(RewardUnavailable, match=f"does not answer, and its patience is 0.4 seconds.*{words}"):
            made.score(grey(*range(20)), ["light"] * 20)  # not one patience for each two of twenty
    assert time.monotonic() - began < 3


def test_nobody_at_the_address_is_said_in_a_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        made = VlmJudge(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", "m", patience=0.1)
        with pytest.raises(RewardUnavailable, match=r"does not answer.*Cannot connect to host 127"):
            made.score(grey(0), ["light"])


@pytest.mark.parametrize("number", [301, 307, 401, 403, 404])
def test_a_server_that_lets_nobody_in_is_not_asked_again(number: int) -> None:
    with (
        serving(status(number, Location="http://127.0.0.1:1/")) as server,
        pytest.raises(RewardUnavailable, match=f"cannot be used, it said {number}.*look at its address, model and"),
    ):
        judge(server).score(grey(0), ["light"])
    assert len(server.asked) == 1


# The key.


def test_the_key_goes_to_the_server_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)

    async def tell(asked: Asked) -> web.StreamResponse:
        text = f"wrong key {asked.headers['Authorization']}"
        if asked.number == 0:
            return web.json_response(completion(text))
        if asked.number == 1:
            return await level(asked)
        return web.Response(status=401, reason=f"no {KEY}", text=text) if asked.number == 2 else await no_http(asked)

    with serving(tell) as server:
        made = judge(server, key_variable="MY_KEY", concurrency=1, patience=0.1)
        made.score(grey(0, 250), ["light"] * 2)
        errors = []
        for _ in range(2):
            with pytest.raises(RewardUnavailable) as caught:
                made.score(grey(0), ["light"])
            errors.append("".join(traceback.format_exception(caught.value)) + repr(caught.value.__cause__))
    assert {asked.headers["Authorization"] for asked in server.asked} == {f"Bearer {KEY}"}
    assert "wrong key Bearer ***" in caplog.text
    assert "wrong key Bearer ***" in errors[0]
    assert KEY not in caplog.text + "".join(errors)


@pytest.mark.parametrize(
    ("url", "key", "words"),
    [
        ("https://api.example.org/v1", None, "The environment variable MY_KEY, which 'key_variable' names, is not set"),
        ("https://api.example.org/v1", "", "The environment variable MY_KEY holds no usable token"),
        ("https://api.example.org/v1", "two words", "The environment variable MY_KEY holds no usable token"),
        ("http://api.example.org/v1", KEY, "would cross the network in clear"),
        ("http://10.0.0.1:8000/v1", KEY, "would cross the network in clear"),
    ],
)
def test_a_key_that_is_not_there_or_would_be_overheard_is_refused(
    monkeypatch: pytest.MonkeyPatch, url: str, key: str | None, words: str
) -> None:
    if key is None:
        monkeypatch.delenv("MY_KEY", raising=False)
    else:
        monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(ValueError, match=words) as caught:
        VlmJudge(url, "m", key_variable="MY_KEY")
    assert not key or key not in str(caught.value)
    if key == KEY:
        assert isinstance(caught.value, Insecure)
        VlmJudge(url, "m", key_variable="MY_KEY", insecure=True)


# Options.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lowest": 5, "highest": 5}, "'highest' is 5; it must be a whole number from 6 to 9"),
        ({"highest": 10}, "'highest' is 10; it must be a whole number from 2 to 9"),
        ({"highest": 4.0}, "'highest' is 4.0"),
        ({"lowest": -1}, "'lowest' is -1; it must be a whole number from 0 to 8"),
        ({"lowest": True}, "'lowest' is True"),
        ({"log_probs": 21}, "'log_probs' is 21"),
        ({"concurrency": 0}, "'concurrency' is 0; it must be a whole number from 1"),
        ({"deadline": 0}, "'deadline' is 0; it must be a number from 0.001"),
        ({"patience": float("nan")}, "'patience' is nan"),
        ({"patience": "long"}, "'patience' is 'long'"),
        ({"image_format": "webp"}, "'image_format' is 'webp'; it must be 'png' or 'jpeg'"),
        ({"question": "Is it {promt}?"}, r"the field {promt} \(did you mean {prompt}\?\)"),
        ({"question": "{}{zzz}"}, r"the field {zzz}; it may have {prompt}, {lowest} and {highest}\."),
    ],
)
def test_options_that_cannot_work_are_refused_in_a_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VlmJudge("http://localhost:8000/v1", "m", **options)


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://localhost/v1", "http://", "http://localhost:port/v1", "http://localhost:99999/v1", "",
     "http://me:secret@localhost/v1", "http://localhost/v1?key=secret", "http://localhost/v1#x"],
)  # fmt: skip
def test_what_is_no_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="must be an address such as http://localhost:8000/v1") as caught:
        VlmJudge(url, "m")
    assert "secret" not in str(caught.value)


def test_without_an_address_it_cannot_be_built() -> None:
    with pytest.raises(
        RewardUnavailable, match=r"The reward 'judge' cannot be built: TypeError.*'base_url' and 'model'"
    ):
        Checked.make("judge", lambda: make_reward("vlm_judge"))
