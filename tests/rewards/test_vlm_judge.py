"""The judge over HTTP: what it asks, and that answers find their pictures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from aiohttp import web

from rewards import make_reward
from rewards.actor import RewardActor
from rewards.vlm_judge import VlmJudge
from tests.support.chat_server import Asked, completion, serving
from tests.support.judged import four, grey, judge, level, mean


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards.chat._PAUSES", lambda state: 0.02)


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
