"""Who is let in: so many requests at a time, none after closing time, a wait for the last, and room for replies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager


class Full(Exception):
    """There is no room for another request now."""


class Closed(Exception):
    """No request is let in any more."""


class Admission:
    """The bound on what the service holds at a time, and so on its memory.

    Args:
        limit: Of requests that are being read, waiting, computed or answered.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._inside, self._closed = limit, 0, False
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Holds a place.

        Raises:
            Full: If every place is taken.
            Closed: After `close`.
        """
        if self._closed:
            raise Closed
        if self._inside == self._limit:
            raise Full
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True

    async def emptied(self) -> None:
        """Wait until nobody is inside."""
        await self._empty.wait()


class Room:
    """Bytes that replies may take together; whoever comes first gets them first.

    Args:
        size: Of the room; what is larger is let in when nobody else is inside.
    """

    def __init__(self, size: int) -> None:
        self._size, self._taken = size, 0
        self._turn, self._left = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def take(self, amount: int) -> AsyncIterator[None]:
        """Holds so many bytes, once they are free."""
        async with self._turn:
            while self._taken and self._taken + amount > self._size:
                self._left.clear()
                await self._left.wait()
            self._taken += amount
        try:
            yield
        finally:
            self._taken -= amount
            self._left.set()
