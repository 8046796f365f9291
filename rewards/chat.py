"""A server that speaks OpenAI's chat format, asked side by side and again: it may be busy, slow, broken or away."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_before_delay, wait_random_exponential

from rewards.errors import RewardUnavailable
from rewards.service.security import Insecure, check_token, is_loopback

LARGEST = 2**20  # bytes of an answer
_BUSY = {408, 425, 429}  # and all from 500: another attempt may succeed
_CLOSED = {401, 402, 403, 404, 405, 407}  # to any request, and so is a redirection
_PAUSES = wait_random_exponential(multiplier=0.5, max=20)  # seconds between attempts

T = TypeVar("T")


class Refused(Exception):
    """An answer without a completion; asking again would bring the same. The message says what it is."""


class Chat:
    """Asks `/chat/completions`; a server that is busy, slow or broken is asked again, after the pause that it asks for.

    Args:
        base_url: What the path hangs on, such as `http://localhost:8000/v1`.
        key: To be sent as a bearer token.
        concurrency: Requests under way at the same time.
        deadline: Seconds that one attempt may take.
        patience: Seconds for which a request is repeated.
    """

    def __init__(self, base_url: str, key: str | None, concurrency: int, deadline: float, patience: float) -> None:
        self.url, self._key = f"{base_url.rstrip('/')}/chat/completions", key
        self._concurrency, self._deadline, self._patience = concurrency, deadline, patience
        self._answered = -math.inf  # when the server last did

    async def ask(self, requests: Sequence[Callable[[], bytes]], read: Callable[[bytes], T]) -> list[T | Refused]:
        """What is read of each answer, in the order of the requests, or why there is none.

        Args:
            requests: Each makes its JSON, in another thread and when its turn has come.
            read: From the body of a response; whatever `ValueError` it raises means that there is nothing to read.

        Raises:
            RewardUnavailable: If the server lets nobody in, or none of the requests is answered at all.
        """
        began = time.monotonic()
        free = asyncio.Semaphore(self._concurrency)
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {self._key}"} if self._key is not None else {}
        )
        timeout, connector = aiohttp.ClientTimeout(total=self._deadline), aiohttp.TCPConnector(limit=self._concurrency)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:

            async def turn(request: Callable[[], bytes]) -> T | Refused:
                async with free:
                    body = await asyncio.to_thread(request)
                    try:
                        return read(await self._repeat(session, body, began))
                    except (Refused, ValueError) as error:
                        return Refused(self._clean(str(error)))

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(turn(request)) for request in requests]
            except ExceptionGroup as several:
                raise several.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _repeat(self, session: aiohttp.ClientSession, body: bytes, began: float) -> bytes:
        attempts = AsyncRetrying(
            retry=retry_if_exception(_may_pass), wait=_pause, stop=stop_before_delay(self._patience), reraise=True
        )
        try:
            return await attempts(self._post, session, body)
        except (_Busy, aiohttp.ClientError, TimeoutError) as error:
            words = self._clean(str(error)) or f"nothing within the deadline of {self._deadline:g} seconds"
            if self._answered >= began:
                raise Refused(f"for {self._patience:g} seconds nothing but errors, at last {words}") from None
            # From nothing: aiohttp's errors hold the headers of the request, and so the key.
            raise RewardUnavailable(
                f"{self.url} does not answer, and its patience is {self._patience:g} seconds; the last attempt ended "
                f"with {words}."
            ) from None

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> bytes:
        async with session.post(self.url, data=body, allow_redirects=False) as response:
            said = bytearray()
            async for piece in response.content.iter_chunked(2**16):
                said += piece
                if len(said) > LARGEST:
                    break  # to leave the block closes the connection
            status = response.status
            words = self._clean(f"{status} {response.reason or ''} {said.decode(errors='replace')}")
            if status in _BUSY or status >= 500:
                raise _Busy(words, response.headers.get("Retry-After"))
        self._answered = time.monotonic()
        if status in _CLOSED or 300 <= status < 400:
            raise RewardUnavailable(f"{self.url} cannot be used, it said {words}; look at its address, model and key.")
        if status != 200:
            raise Refused(words)
        if len(said) > LARGEST:
            raise Refused(f"an answer of more than {LARGEST // 2**20} MiB")
        return bytes(said)

    def _clean(self, words: str) -> str:
        """On one line, short, and without the key, which a server may repeat."""
        return " ".join(words.replace(self._key, "***").split() if self._key else words.split())[:300]


def check_url(base_url: str) -> None:
    """Refuse what is no address of a server, or holds a secret; it is not repeated.

    Raises:
        ValueError: If so.
    """
    try:
        url = urlsplit(base_url)
        usable = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        usable = False
    if not usable or url.username or url.password or url.query or url.fragment:
        raise ValueError(
            "The option 'base_url' must be an address such as http://localhost:8000/v1, without name, password, query "
            "or fragment; a key comes from the environment variable that 'key_variable' names."
        )


def read_key(variable: str, base_url: str, insecure: bool) -> str:
    """The API key in an environment variable.

    Args:
        variable: Its name.
        base_url: Where it would go.
        insecure: Whether it may go to another machine without TLS.

    Raises:
        ValueError: If there is none, or it could not travel as a header.
        Insecure: If it would cross the network in clear.
    """
    key = os.environ.get(variable)
    if key is None:
        raise ValueError(
            f"The environment variable {variable}, which 'key_variable' names, is not set here; set it on the machines "
            "of the reward actors."
        )
    check_token(key, f"The environment variable {variable}")
    url = urlsplit(base_url)
    if url.scheme == "http" and not insecure and not is_loopback(str(url.hostname)):
        raise Insecure(
            f"The key would cross the network in clear to {base_url}; use https://, or say insecure=true on a network "
            "where everybody is trusted."
        )
    return key


class _Busy(Exception):
    def __init__(self, words: str, retry_after: str | None) -> None:
        super().__init__(words)
        self.pause = _seconds(retry_after)


def _may_pass(error: BaseException) -> bool:
    passing = (_Busy, aiohttp.ClientError, TimeoutError)
    return isinstance(error, passing) and not isinstance(error, aiohttp.ClientSSLError)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return max(_PAUSES(state), error.pause if isinstance(error, _Busy) else 0.0)


def _seconds(retry_after: str | None) -> float:
    """Of a Retry-After header, which is a number of them or a date."""
    try:
        seconds = float(retry_after or 0)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(str(retry_after)).timestamp() - time.time()
        except ValueError:
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0
