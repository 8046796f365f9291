"""Who is let in: so many requests at a time, none after closing time, and a way to wait until the last has left."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Full(Exception):
    """There is no room for another request now."""


class Closed(Exception):
    """No request is let in any more."""


class Admission:
    """The bound on what the service holds at a time, and so on its memory.

    Args:
        limit: Of requests that are being read, waiting or computed.
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
