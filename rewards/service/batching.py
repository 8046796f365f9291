"""Dynamic batching: requests that arrive close together are computed together, in the order of their arrival."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

Compute = Callable[[str, np.ndarray, list[str]], Sequence[np.ndarray]]


@dataclass(eq=False)
class _Job:
    """A request that waits."""

    question: str
    pixels: np.ndarray
    prompts: list[str]
    arrived: float = field(default_factory=time.monotonic)
    answer: asyncio.Future[list[np.ndarray]] = field(default_factory=asyncio.Future)

    @property
    def kind(self) -> Hashable:
        """What jobs must share to be computed together."""
        return self.question, self.pixels.dtype, self.pixels.shape[1:]


class Batcher:
    """Joins requests into batches; one batch is computed at a time, in a thread of its own.

    Args:
        compute: Answers a question about a batch `(B, ...)` and its prompts with arrays of length B.
        max_images: Of a batch.
        max_bytes: Of a batch's images; a request that has more is computed alone.
        max_wait: Seconds that a request waits for company while there is nothing else to do.
    """

    def __init__(self, compute: Compute, max_images: int, max_bytes: int, max_wait: float) -> None:
        self._compute, self._max_images, self._max_bytes, self._max_wait = compute, max_images, max_bytes, max_wait
        self._waiting: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reward")

    async def submit(self, question: str, pixels: np.ndarray, prompts: list[str]) -> list[np.ndarray]:
        """Answer a question about images; a caller that gives up (is cancelled) while it waits costs nothing.

        Args:
            question: Passed on to `compute`.
            pixels: `(B, ...)`, at most `max_images` of them.
            prompts: One an image, or none.

        Raises:
            Exception: What `compute` raised about these images; those of others do not matter.
        """
        job = _Job(question, pixels, prompts)
        self._waiting.append(job)
        self._arrived.set()
        try:
            return await job.answer
        finally:
            del job  # or an error, whose traceback has this frame, would keep itself and the images alive

    async def run(self) -> None:
        """Compute whatever is submitted, until cancelled."""
        while True:
            await self._settle(await self._next())  # kept in no variable: a batch holds its images and its answers

    async def _settle(self, batch: list[_Job]) -> None:
        """Answer a batch, or each of its requests alone: one bad image must not cost the others their scores."""
        if not await self._answer(batch):
            for job in batch:
                if not job.answer.done():
                    await self._answer([job])

    async def _next(self) -> list[_Job]:
        """The oldest request and those that can join it, once they fill a batch or have waited long enough."""
        while True:
            self._arrived.clear()
            batch, full = self._together()
            left = batch[0].arrived + self._max_wait - time.monotonic() if batch else None
            if full or (left is not None and left <= 0):
                self._waiting = deque(job for job in self._waiting if job not in batch)
                return batch
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._arrived.wait()

    def _together(self) -> tuple[list[_Job], bool]:
        """What would be computed now, and whether waiting could not add to it."""
        self._waiting = deque(job for job in self._waiting if not job.answer.done())  # done: cancelled or expired
        batch: list[_Job] = []
        room, space = self._max_images, self._max_bytes
        for job in self._waiting:
            if batch and job.kind != batch[0].kind:
                continue
            if len(job.pixels) > room or (batch and job.pixels.nbytes > space):
                return batch, True
            batch.append(job)
            room -= len(job.pixels)
            space -= job.pixels.nbytes
        return batch, bool(batch) and not room

    async def _answer(self, batch: Sequence[_Job]) -> bool:
        """Compute a batch and hand the answers out; false if that failed and the requests should be tried alone."""
        pixels = np.concatenate([job.pixels for job in batch])
        prompts = [prompt for job in batch for prompt in job.prompts]
        try:
            answers = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._compute, batch[0].question, pixels, prompts
            )
        except Exception as error:
            if len(batch) > 1:
                return False
            if not batch[0].answer.done():
                batch[0].answer.set_exception(error.with_traceback(None))
            return True
        ends = np.cumsum([len(job.pixels) for job in batch])[:-1]
        for job, *parts in zip(batch, *(np.split(answer, ends) for answer in answers), strict=True):
            if not job.answer.done():
                job.answer.set_result(parts)
        return True
