"""Methods that take next to nothing, health checks and reflection: read one at a time, and never a long message.

gRPC limits messages per server, not per method, and reads the message of an ordinary method before anybody is asked. So
these methods are served as streams, whose messages are read when we ask for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from rewards.service.admission import Admission, Full
from rewards.service.connections import drop

SMALL_BYTES = 4096  # of a message
READ_SECONDS = 1.0  # that it may take to arrive once it is its turn
MOST = 64  # calls that wait for theirs


class SmallMessages(grpc.aio.ServerInterceptor):
    """Reads the requests of unary methods and of those with streams both ways, one at a time.

    Methods that stream their requests and answer once decide themselves when to read, and are let through.
    """

    def __init__(self) -> None:
        self._waiting, self._turn = Admission(MOST), asyncio.Lock()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        found: Any = await continuation(details)
        if found is None or found.stream_unary:
            return found

        async def unary_unary(_: object, context: grpc.aio.ServicerContext) -> Any:
            return await found.unary_unary(await self._one(context, found.request_deserializer), context)

        async def unary_stream(_: object, context: grpc.aio.ServicerContext) -> None:
            await found.unary_stream(await self._one(context, found.request_deserializer), context)

        async def stream_stream(_: object, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            async for reply in found.stream_stream(self._all(context, found.request_deserializer), context):
                yield reply

        write = found.response_serializer
        if found.unary_unary:
            return grpc.stream_unary_rpc_method_handler(unary_unary, None, write)
        both = unary_stream if found.unary_stream else stream_stream
        return grpc.stream_stream_rpc_method_handler(both, None, write)

    async def _one(self, context: Any, parse: Callable[[bytes], Any]) -> Any:
        if (request := await self._read(context, parse)) is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "The call carries no request.")
        return request

    async def _all(self, context: Any, parse: Callable[[bytes], Any]) -> AsyncIterator[Any]:
        while (request := await self._read(context, parse)) is not None:
            yield request

    async def _read(self, context: Any, parse: Callable[[bytes], Any]) -> Any:
        """The next request; none if there is no other. Ends the call if it is long, slow, or one too many."""
        try:
            with self._waiting.enter():
                async with self._turn:
                    return await self._next(context, parse)
        except Full:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MOST} such calls wait already; try again.")

    async def _next(self, context: Any, parse: Callable[[bytes], Any]) -> Any:
        request, code, details = await self._taken(context, parse)
        if code is None:
            return request
        peer = context.peer()
        # Until the call has ended its message goes on arriving, so the turn ends with it.
        try:
            async with asyncio.timeout(READ_SECONDS):
                await context.abort(code, details)
        except TimeoutError:  # not even that is read
            drop(peer)
            raise

    async def _taken(self, context: Any, parse: Callable[[bytes], Any]) -> tuple[Any, grpc.StatusCode | None, str]:
        """The request, or why there is none; a long one goes with this frame, before an error keeps it alive."""
        try:
            async with asyncio.timeout(READ_SECONDS):
                message = await context.read()
        except TimeoutError:
            return None, grpc.StatusCode.DEADLINE_EXCEEDED, f"No request arrived within {READ_SECONDS:g} seconds."
        if message is grpc.aio.EOF:
            return None, None, ""
        if len(message) > SMALL_BYTES:
            return None, grpc.StatusCode.RESOURCE_EXHAUSTED, f"The request is longer than {SMALL_BYTES} bytes."
        try:
            return parse(message), None, ""
        except DecodeError:
            return None, grpc.StatusCode.INVALID_ARGUMENT, "The request is not a message of this method."
