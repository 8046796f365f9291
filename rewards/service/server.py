"""The server: one reward behind gRPC, with health checking and reflection, until it is told to stop.

A request is let in before it is read, and leaves once its reply has been taken: what is in memory is bounded by the
number of those inside and their size.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_reflection.v1alpha import reflection

from rewards.reward import Reward
from rewards.service import reward_pb2
from rewards.service.admission import Admission, Closed, Full, Room
from rewards.service.answering import Failed, answer, has_features
from rewards.service.batching import Batcher
from rewards.service.codec import QUESTIONS, SERVICE, Malformed, decode_images, encode_answers
from rewards.service.connections import drop, unsent
from rewards.service.limits import Limits
from rewards.service.security import authorises
from rewards.service.small import SmallMessages

log = logging.getLogger(__name__)
DEFAULTS = Limits()
READ_SECONDS = 60.0  # that a request may take to arrive
CONNECTIONS, STREAMS = 512, 256  # at a time; streams of one connection
LARGE = 2**16  # bytes of a reply that may stay with us for want of a reader


class RewardServer:
    """Answers for one reward.

    Args:
        reward: What is served.
        name: What it is called.
        limits: What is taken on at a time.
        token: Bearer token that every call but health checks must carry.
    """

    def __init__(self, reward: Reward, name: str, limits: Limits = DEFAULTS, token: str | None = None) -> None:
        self._reward, self._name, self._limits, self._token = reward, name, limits, token

    async def run(
        self, address: str, credentials: grpc.ServerCredentials | None, started: Callable[[int], None]
    ) -> bool:
        """Serve until SIGTERM or SIGINT, then finish what is under way; a second signal ends that too.

        Args:
            address: `host:port`; port 0 takes a free one.
            credentials: TLS, or none.
            started: Is told the port.

        Returns:
            Whether everything was finished.

        Raises:
            OSError: If the address cannot be listened on.
        """
        self._admission = Admission(self._limits.max_requests)
        self._room, self._replies = Room(self._limits.reply_bytes), set[asyncio.Task[None]]()
        self._batcher = Batcher(
            partial(answer, self._reward),
            self._limits.max_images,
            self._limits.max_message_bytes,
            self._limits.max_wait,
        )
        self._health = health.aio.HealthServicer()
        server = self._make()
        try:
            port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"{address} cannot be listened on; another process may have it. ({error})") from None
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        await server.start()
        signals: asyncio.Queue[None] = asyncio.Queue()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, None)
        started(port)
        batching = asyncio.create_task(self._batcher.run())
        stop = asyncio.create_task(signals.get())
        await asyncio.wait([batching, stop], return_when=asyncio.FIRST_COMPLETED)
        self._admission.close()
        # Not awaited: a watcher that does not read would hold it up.
        unhealthy = asyncio.create_task(self._health.enter_graceful_shutdown())
        emptied, hurry = asyncio.create_task(self._admission.emptied()), asyncio.create_task(signals.get())
        tasks = [batching, emptied, hurry]
        await asyncio.wait(tasks, timeout=self._limits.drain_seconds, return_when=asyncio.FIRST_COMPLETED)
        finished = emptied.done()  # before the rest is cancelled, which empties it too
        batching.cancel()
        unhealthy.cancel()
        await server.stop(grace=1)
        with suppress(asyncio.CancelledError):
            await batching  # raises what ended it, if that was not us
        return finished

    def _make(self) -> grpc.aio.Server:
        size = self._limits.max_message_bytes
        server = grpc.aio.server(
            interceptors=[*([_TokenCheck(self._token)] if self._token else []), SmallMessages()],
            options=[
                ("grpc.max_receive_message_length", size),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # or a second server on the port would silently share it
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),  # clients watch over their connections
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.keepalive_time_ms", 10_000),  # a client that reads nothing any more does not answer
                ("grpc.keepalive_timeout_ms", 10_000),
                # What nobody reads here fills a window of 64 KiB; guessing larger ones would hold megabytes a call.
                ("grpc.http2.bdp_probe", 0),
                ("grpc.max_concurrent_streams", STREAMS),
                ("grpc.max_allowed_incoming_connections", CONNECTIONS),
            ],
        )
        handlers: dict[str, grpc.RpcMethodHandler] = {
            # The same on the wire as one request, but it is read when the handler asks for it; Describe never does.
            "Describe": grpc.stream_unary_rpc_method_handler(self._describe),
            **{q: grpc.stream_unary_rpc_method_handler(partial(self._judge, q)) for q in QUESTIONS},
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection([SERVICE, HEALTH, reflection.SERVICE_NAME], server)
        return server

    async def _describe(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
        return reward_pb2.Description(
            reward=self._name,
            differentiable=self._reward.differentiable,
            features=has_features(self._reward),
            max_images=self._limits.max_images,
            max_message_bytes=self._limits.max_message_bytes,
        ).SerializeToString()

    async def _judge(self, question: str, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
        able = {"ScoreAndGrad": self._reward.differentiable, "Embed": has_features(self._reward)}
        if not able.get(question, True):
            lacking = "gradient with respect to the image" if question == "ScoreAndGrad" else "image features"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"The reward {self._name} has no {lacking}.")
        # Refused outside of the handlers: an error within an error keeps a refused message alive until the next
        # collection of garbage, which may be hundreds of messages away.
        try:
            return await self._answer(question, context)
        except Malformed as error:
            code, details = grpc.StatusCode.INVALID_ARGUMENT, str(error)
        except Failed as error:
            log.warning("%s", error, exc_info=error.__cause__)
            code, details = grpc.StatusCode.INTERNAL, str(error)
        except Full:
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            details = f"{self._limits.max_requests} requests are under way, which is as many as fit; try again."
        except Closed:
            code, details = grpc.StatusCode.UNAVAILABLE, "The service is shutting down."
        except TimeoutError:
            code = grpc.StatusCode.DEADLINE_EXCEEDED
            details = f"The request did not arrive within {READ_SECONDS:g} seconds."
        return await context.abort(code, details)

    async def _answer(self, question: str, context: grpc.aio.ServicerContext) -> bytes:
        async with AsyncExitStack() as held:
            held.enter_context(self._admission.enter())
            pixels, prompts = decode_images(
                await self._read(context), self._limits.max_images, prompted=question != "Embed"
            )
            if question == "ScoreAndGrad":
                gradients = pixels.size * np.dtype(np.float32).itemsize
                await held.enter_async_context(self._room.take(2 * gradients))
            answers = await self._batcher.submit(question, pixels, prompts)
            del pixels
            reply = encode_answers(question, answers)
            sent = asyncio.Event()
            context.add_done_callback(lambda _: sent.set())
            # The peer now: gRPC must not be asked once the call has ended.
            task = asyncio.create_task(self._until_taken(context.peer(), sent, len(reply), held.pop_all()))
            self._replies.add(task)  # asyncio's own references are weak
            task.add_done_callback(self._replies.discard)
            return reply

    async def _read(self, context: grpc.aio.ServicerContext) -> bytes:
        async with asyncio.timeout(READ_SECONDS):
            message = await context.read()
        return b"" if message is grpc.aio.EOF else message

    async def _until_taken(self, peer: str, sent: asyncio.Event, size: int, held: AsyncExitStack) -> None:
        """Keep what a reply holds until its client has taken it; one that does not is hung up on."""
        async with held:
            try:
                async with asyncio.timeout(self._limits.reply_seconds):
                    await sent.wait()
                    # gRPC calls it sent when its last megabyte waits for the socket, and holds all of it until then.
                    while size > LARGE and unsent(peer):
                        await asyncio.sleep(0.01)
            except TimeoutError:
                if not sent.is_set():
                    log.warning("%s has not read its reply in %g seconds; it is hung up on.",
                                peer, self._limits.reply_seconds)  # fmt: skip
                    drop(peer)
                    await sent.wait()


class _TokenCheck(grpc.aio.ServerInterceptor):
    """Turns calls without the token away unread; health checks are for everybody, because probes carry none."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        headers = dict(details.invocation_metadata)
        if details.method.startswith(f"/{HEALTH}/") or authorises(headers.get("authorization"), self._token):
            return await continuation(details)
        return grpc.stream_unary_rpc_method_handler(_refuse)


async def _refuse(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
    await context.abort(
        grpc.StatusCode.UNAUTHENTICATED, "The call carries no bearer token, or not the one that this service asks for."
    )
