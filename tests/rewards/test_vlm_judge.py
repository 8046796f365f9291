"""The judge over HTTP: what it asks, that answers find their pictures, and what it makes of servers that misbehave."""

from __future__ import annotations

import asyncio
import email.utils
import math
import socket
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from aiohttp import web
from torch import Tensor

from rewards import make_reward
from rewards.actor import RewardActor
from rewards.checked import Checked
from rewards.errors import RewardUnavailable
from rewards.service.security import Insecure
from rewards.vlm_judge import VlmJudge
from tests.support.chat_server import Asked, ChatServer, completion, serving

KEY = "sk-a-secret-of-mine"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards.chat._PAUSES", lambda state: 0.02)


def grey(*levels: int) -> Tensor:
    """Pictures of one grey each, `(B, 3, 8, 8)`."""
    return (torch.tensor(levels) / 255).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)


def judge(server: ChatServer, **options: Any) -> VlmJudge:
    return VlmJudge(server.url, "tiny-vlm", **options)


async def four(asked: Asked) -> web.StreamResponse:
    return web.json_response(completion("4"))


async def level(asked: Asked) -> web.StreamResponse:
    """1 to 5 by how bright the picture is, but 1 where the text asks for the dark."""
    digit = "1" if "dark" in asked.text else str(1 + asked.picture[0, 0, 0] // 60)
    return web.json_response(completion(digit, (digit, {digit: math.log(0.75), "3": math.log(0.25)})))


def mean(digit: int) -> float:
    return 0.75 * digit + 0.25 * 3 if digit != 3 else 3.0


# What is asked.


def test_a_request_is_what_chat_servers_read() -> None:
    image = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    with serving(four) as server:
        made = make_reward("vlm_judge", base_url=server.url, model="tiny-vlm", seed=7)
        assert made.score(image, ["a {lowest} owl"]).tolist() == [4]
    (asked,) = server.asked
    messages = asked.body.pop("messages")
    assert asked.body == {
        "model": "tiny-vlm", "temperature": 0, "seed": 7, "max_tokens": 16, "logprobs": True, "top_logprobs": 20,
    }  # fmt: skip
    assert [(message["role"], [part["type"] for part in message["content"]]) for message in messages] == [
        ("user", ["image_url", "text"])
    ]
    assert messages[0]["content"][1]["text"].splitlines() == [
        "How well does the picture show what this text asks for?",
        "Text: a {lowest} owl",
        "Answer with one digit from 1 (nothing of it) to 5 (all of it), and with nothing else.",
    ]
    assert "Authorization" not in asked.headers


def test_the_picture_travels_unchanged_as_png_and_nearly_so_as_jpeg() -> None:
    image = torch.rand(1, 3, 3, 5, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(image, size=(24, 40), mode="bilinear")
    pixels = (image[0].permute(1, 2, 0) * 255).round().numpy()
    found = {}

    async def keep(asked: Asked) -> web.StreamResponse:
        found[asked.address.partition(";")[0]] = asked.picture
        return web.json_response(completion("4"))

    with serving(keep) as server:
        for image_format in ("png", "jpeg"):
            judge(server, image_format=image_format).score(image, ["an owl"])
    assert np.array_equal(found["data:image/png"], pixels)
    assert np.abs(found["data:image/jpeg"] - pixels).mean() < 4


def test_options_say_what_is_asked_beside_the_picture_and_how() -> None:
    extra = {"max_tokens": None, "max_completion_tokens": 5, "chat_template_kwargs": {"enable_thinking": False}}
    question = 'Is it {prompt}? From {lowest} to {highest}, as {"score": 3}.'
    with serving(four) as server:
        made = judge(server, question=question, lowest=0, highest=9, log_probs=0, extra=extra)
        made.score(grey(0), ["{highest} art"])
    (asked,) = server.asked
    assert asked.text == 'Is it {highest} art? From 0 to 9, as {"score": 3}.'
    assert not {"logprobs", "top_logprobs", "max_tokens"} & set(asked.body)
    assert asked.body["max_completion_tokens"] == 5
    assert asked.body["chat_template_kwargs"] == {"enable_thinking": False}


# Answers find their pictures.


@pytest.mark.parametrize("concurrency", [1, 3, 12])
def test_scores_are_in_the_pictures_order_whatever_the_order_of_answers(concurrency: int) -> None:
    async def late_first(asked: Asked) -> web.StreamResponse:
        while len(server.asked) < concurrency:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01 * (12 - asked.number))
        return await level(asked)

    levels = [0, 250, 70, 130, 190, 245, 10, 200, 125, 60, 240, 0]
    prompts = ["dark" if number % 5 == 1 else "light" for number in range(12)]
    wanted = [mean(1 if prompt == "dark" else 1 + grey // 60) for grey, prompt in zip(levels, prompts, strict=True)]
    with serving(late_first) as server:
        scores = judge(server, concurrency=concurrency).score(grey(*levels), prompts)
    assert scores.dtype == torch.float32
    assert scores.tolist() == pytest.approx(wanted)
    assert server.most == concurrency


def test_it_answers_where_a_loop_is_running_and_through_an_actor() -> None:
    async def in_a_notebook(made: VlmJudge) -> list[float]:
        return made.score(grey(0, 250), ["light"] * 2).tolist()

    with serving(level) as server:
        assert asyncio.run(in_a_notebook(judge(server))) == [mean(1), mean(5)]
        actor = RewardActor({"judge": partial(make_reward, "vlm_judge", base_url=server.url, model="m")})
        found = actor.score(np.full((2, 8, 8, 3), 250, np.uint8), ["light", "dark"])
    assert found.values.tolist() == [[mean(5), mean(1)]]
    assert not found.failed


def test_no_pictures_are_no_question() -> None:
    with serving(four) as server:
        assert judge(server).score(grey(), []).shape == (0,)
    assert not server.asked


# Answers that are none.

NO_SCORES: dict[str, Callable[[], web.Response]] = {
    "garbage": lambda: web.Response(text='{"choices": [{"mess', content_type="application/json"),
    "a page": lambda: web.Response(text="<html>welcome</html>", content_type="text/html"),
    "nothing": lambda: web.Response(text=""),
    "a refusal": lambda: web.json_response(completion("I'm sorry, but I can't help with that.")),
    "no text": lambda: web.json_response(completion(None)),
    "off the scale": lambda: web.json_response(completion("9", ("9", {"9": -0.1}))),
    "two digits": lambda: web.json_response(completion("10", ("1", {"1": -0.1}), ("0", {"0": -0.1}))),
    "too much": lambda: web.json_response(completion("4" * 1_100_000)),
    "a picture it refuses": lambda: web.json_response({"error": {"message": "content policy"}}, status=400),
}


@pytest.mark.parametrize("answer", NO_SCORES.values(), ids=NO_SCORES)
def test_a_picture_without_a_score_is_dropped_counted_and_not_asked_about_again(
    answer: Callable[[], web.Response], caplog: pytest.LogCaptureFixture
) -> None:
    async def bright_only(asked: Asked) -> web.StreamResponse:
        return answer() if asked.picture[0, 0, 0] < 100 else await level(asked)

    with serving(bright_only) as server:
        made = judge(server)
        scores = made.score(grey(250, 0, 130, 0), ["light"] * 4)
        assert scores.isnan().tolist() == [False, True, False, True]
        assert scores[[0, 2]].tolist() == [mean(5), mean(3)]
        assert made.dropped == 2
        assert "gave 2 of 4 pictures no score" in caplog.text
        made.score(grey(250, 0), ["light"] * 2)
        assert made.dropped == 3
        assert "(3 pictures so far)" in caplog.text
    assert len(server.asked) == 6


def test_a_call_without_any_score_says_why_and_costs_the_same() -> None:
    async def refuse(asked: Asked) -> web.StreamResponse:
        return web.json_response({"error": {"message": "logprobs are not\n supported"}}, status=400)

    with serving(refuse) as server:
        actor = RewardActor({"judge": partial(make_reward, "vlm_judge", base_url=server.url, model="m")})
        found = actor.score(np.zeros((3, 8, 8, 3), np.uint8), ["light"] * 3)
    assert np.isnan(found.values).all()
    assert found.failed["judge"].startswith("The reward 'judge' (rewards.vlm_judge:VlmJudge) raised ValueError: ")
    assert 'gave 3 of 3 pictures no score, the first: 400 Bad Request {"error"' in found.failed["judge"]
    assert "logprobs are not\\n supported" in found.failed["judge"]


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
