"""A server that speaks OpenAI's chat format, and does whatever a test wants of it."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from aiohttp import web
from PIL import Image


@dataclass
class Asked:
    """One request.

    Attributes:
        number: Of the request, from 0.
        body: Its JSON.
        headers: Of HTTP.
        web: The request itself, to misbehave with.
    """

    number: int
    body: dict[str, Any]
    headers: Mapping[str, str]
    web: web.Request

    @property
    def address(self) -> str:
        """The picture's data URL."""
        return self.body["messages"][0]["content"][0]["image_url"]["url"]

    @property
    def picture(self) -> np.ndarray:
        """`(H, W, 3)` uint8."""
        return np.asarray(Image.open(BytesIO(base64.b64decode(self.address.partition(",")[2]))))

    @property
    def text(self) -> str:
        """What is asked beside the picture."""
        return self.body["messages"][0]["content"][1]["text"]


Answer = Callable[[Asked], Awaitable[web.StreamResponse]]


@dataclass
class ChatServer:
    """What a test sees of the server.

    Attributes:
        url: Its `base_url`.
        asked: All requests so far, in order of arrival.
        most: How many have been under way at the same time.
    """

    answer: Answer
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    most: int = 0
    under_way: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        asked = Asked(len(self.asked), await request.json(), request.headers, request)
        self.asked.append(asked)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            return await self.answer(asked)
        finally:
            self.under_way -= 1


@contextmanager
def serving(answer: Answer) -> Iterator[ChatServer]:
    """A server on a free port of this machine, in a thread of its own."""
    server, loop, port = ChatServer(answer), asyncio.new_event_loop(), 0

    async def start() -> web.AppRunner:
        nonlocal port
        application = web.Application(client_max_size=2**26)
        application.router.add_post("/v1/chat/completions", server.handle)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        return runner

    async def stop() -> None:
        await runner.cleanup()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    runner = loop.run_until_complete(start())
    server.url = f"http://127.0.0.1:{port}/v1"
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def completion(text: str | None, *places: tuple[str, Mapping[str, float]]) -> dict[str, Any]:
    """A chat completion as OpenAI writes it, with log-probabilities if `places` are given.

    Args:
        text: Of the answer.
        places: For each token of the answer, the token and log-probabilities of what might have stood there.
    """

    def entry(token: str, value: float) -> dict[str, Any]:
        return {"token": token, "logprob": value, "bytes": list(token.encode())}

    content = [
        {**entry(token, told.get(token, -9999.0)), "top_logprobs": [entry(*pair) for pair in told.items()]}
        for token, told in places
    ]
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": {"content": content, "refusal": None} if places else None,
    }
    usage = {"prompt_tokens": 300, "completion_tokens": 1, "total_tokens": 301}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }
