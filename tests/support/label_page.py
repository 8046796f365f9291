"""The page where people choose, served to a client that says what a browser would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestClient, TestServer

from rewards.people.choices import Choices
from rewards.people.questions import Questions
from rewards.people.schedule import Rules
from rewards.people.server import Page

Body = dict[str, Any]


@asynccontextmanager
async def served(folder: Path, rules: Rules, **access: Any) -> AsyncIterator[TestClient]:
    """A client of the page of a folder."""
    kept = Choices(folder)
    try:
        async with TestClient(TestServer(Page(Questions(folder), kept, rules, **access).app())) as client:
            yield client
    finally:
        kept.close()


def run(test: Callable[[TestClient], Awaitable[None]], folder: Path, rules: Rules | None = None, **access: Any) -> None:
    """Run a test with a client."""

    async def whole() -> None:
        async with served(folder, rules or Rules(again=0), **access) as client:
            await test(client)

    asyncio.run(whole())


async def state(client: TestClient, rater: str = "Ada") -> Body:
    """What a rater's page is told."""
    response = await client.get("/api/next", params={"rater": rater})
    assert response.status == 200
    return await response.json()


def answer(shown: Body, choice: object = 0, rater: str = "Ada", name: str = "") -> Body:
    """What a page sends for a showing."""
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
    """The status and what is said."""
    response = await client.post(path, json=body)
    return response.status, await response.json()


async def raw(client: TestClient, request: bytes) -> bytes:
    """The answer to a request that no client would send."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer
