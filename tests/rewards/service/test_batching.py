"""Requests that come together are computed together, and each gets its own answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.service.batching import Batcher


class Reward:
    """Answers the value of each image, and notes every batch; it works only while the gate is open."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, question: str, pixels: np.ndarray, prompts: list[str]) -> list[np.ndarray]:
        assert self.gate.wait(10)
        values = pixels[:, 0]
        self.batches.append((question, values.tolist()))
        assert prompts == [str(value) for value in values]
        if 666 in values:
            raise ValueError("666")
        return [values, 2 * values]


def images(*values: int, width: int = 1) -> tuple[np.ndarray, list[str]]:
    return np.tile(np.array(values)[:, None], (1, width)), [str(value) for value in values]


def run(
    reward: Reward,
    use: Callable[[Batcher], Awaitable[Any]],
    max_images: int = 8,
    max_wait: float = 0.05,
    max_bytes: int = 2**20,
) -> Any:
    async def main() -> Any:
        batcher = Batcher(reward, max_images, max_bytes, max_wait)
        task = asyncio.create_task(batcher.run())
        try:
            return await asyncio.wait_for(use(batcher), 20)
        finally:
            reward.gate.set()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    return asyncio.run(main())


def ask(*requests: tuple[int, ...], question: str = "Score") -> Callable[[Batcher], Awaitable[list[Any]]]:
    async def all_at_once(batcher: Batcher) -> list[Any]:
        return await asyncio.gather(
            *(batcher.submit(question, *images(*request)) for request in requests), return_exceptions=True
        )

    return all_at_once


@given(
    st.lists(st.lists(st.integers(0, 600), min_size=1, max_size=8).map(tuple), min_size=1, max_size=12),
    st.integers(8, 20),
)
def test_each_request_gets_its_own_answers_whatever_it_was_computed_with(
    requests: list[tuple[int, ...]], max_images: int
) -> None:
    reward = Reward()
    answers = run(reward, ask(*requests), max_images, max_wait=0.0)
    for request, (single, double) in zip(requests, answers, strict=True):
        assert single.tolist() == list(request)
        assert double.tolist() == [2 * value for value in request]
    assert all(len(values) <= max_images for _, values in reward.batches)
    assert [value for _, values in reward.batches for value in values] == [v for request in requests for v in request]


def test_what_arrives_together_is_computed_together() -> None:
    reward = Reward()
    run(reward, ask((1, 2), (3,), (4, 5)))
    assert reward.batches == [("Score", [1, 2, 3, 4, 5])]


def test_a_full_batch_does_not_wait() -> None:
    reward = Reward()
    run(reward, ask((1, 2), (3, 4)), max_images=4, max_wait=3600)
    assert reward.batches == [("Score", [1, 2, 3, 4])]


def test_a_batch_that_the_next_request_does_not_fit_into_does_not_wait() -> None:
    async def use(batcher: Batcher) -> None:
        big = asyncio.create_task(batcher.submit("Score", *images(1, 2, 3)))
        late = asyncio.create_task(batcher.submit("Score", *images(4, 5)))
        await big
        late.cancel()

    reward = Reward()
    run(reward, use, max_images=4, max_wait=3600)
    assert reward.batches == [("Score", [1, 2, 3])]


def test_what_arrives_while_another_batch_is_computed_is_joined() -> None:
    async def use(batcher: Batcher) -> None:
        reward.gate.clear()
        first = asyncio.create_task(batcher.submit("Score", *images(1)))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(batcher.submit("Score", *images(value))) for value in (2, 3, 4)]
        await asyncio.sleep(0.05)
        reward.gate.set()
        await asyncio.gather(first, *others)

    reward = Reward()
    run(reward, use, max_wait=0.0)
    assert reward.batches == [("Score", [1]), ("Score", [2, 3, 4])]


def test_only_like_is_joined_with_like_and_the_oldest_goes_first() -> None:
    async def use(batcher: Batcher) -> None:
        await asyncio.gather(
            batcher.submit("Score", *images(1)),
            batcher.submit("ScoreAndGrad", *images(2)),
            batcher.submit("Score", *images(3, width=2)),
            batcher.submit("Score", *images(4)),
        )

    reward = Reward()
    run(reward, use)
    assert reward.batches == [("Score", [1, 4]), ("ScoreAndGrad", [2]), ("Score", [3])]


def test_a_request_that_was_given_up_is_not_computed() -> None:
    async def use(batcher: Batcher) -> None:
        reward.gate.clear()
        first = asyncio.create_task(batcher.submit("Score", *images(1)))
        await asyncio.sleep(0.05)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(batcher.submit("Score", *images(2)), 0.05)
        last = asyncio.create_task(batcher.submit("Score", *images(3)))
        await asyncio.sleep(0.05)
        reward.gate.set()
        await asyncio.gather(first, last)

    reward = Reward()
    run(reward, use, max_wait=0.0)
    assert reward.batches == [("Score", [1]), ("Score", [3])]


def test_a_request_given_up_while_it_is_computed_does_not_stop_the_next() -> None:
    async def use(batcher: Batcher) -> list[np.ndarray]:
        reward.gate.clear()
        first = asyncio.create_task(batcher.submit("Score", *images(1)))
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.sleep(0)
        reward.gate.set()
        return await batcher.submit("Score", *images(2))

    reward = Reward()
    assert run(reward, use, max_wait=0.0)[0].tolist() == [2]


def test_a_request_that_fails_costs_no_other_its_answer() -> None:
    reward = Reward()
    good, bad, also_good = run(reward, ask((1, 2), (666,), (3,)))
    assert good[0].tolist() == [1, 2]
    assert isinstance(bad, ValueError)
    assert also_good[0].tolist() == [3]
    assert reward.batches[0] == ("Score", [1, 2, 666, 3])
    assert [values for _, values in reward.batches[1:]] == [[1, 2], [666], [3]]


def test_a_batch_has_no_more_bytes_than_fit_and_what_is_larger_is_computed_alone() -> None:
    reward = Reward()
    requests = [(1,), (2,), (3,), (4, 5, 6), (7,)]  # 8 bytes each
    answers = run(reward, ask(*requests), max_bytes=16)
    assert [single.tolist() for single, _ in answers] == [list(request) for request in requests]
    assert [values for _, values in reward.batches] == [[1, 2], [3], [4, 5, 6], [7]]
