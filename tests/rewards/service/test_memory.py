"""What clients do to the server's memory, and readers that stop to others: bounded, and over in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.reward_service_memory import growth
from rewards.service.codec import SERVICE, encode
from rewards.service.limits import MIB
from rewards.service.reward_pb2 import Description, Images, Judgement

pytestmark = pytest.mark.slow

Server = Any  # conftest's
Serve = Callable[..., Any]
ANY_SIZE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def channel(server: Server, *options: tuple[str, int]) -> grpc.Channel:
    return grpc.insecure_channel(server.target, [*ANY_SIZE, ("grpc.use_local_subchannel_pool", 1), *options])


def request(count: int, side: int) -> bytes:
    return Images(pixels=encode(np.zeros((count, side, side, 3), np.uint8)), prompts=["a"] * count).SerializeToString()


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("/grpc.health.v1.Health/Check", grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("/grpc.health.v1.Health/Watch", grpc.StatusCode.RESOURCE_EXHAUSTED),
        (REFLECTION, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (f"/{SERVICE}/Describe", grpc.StatusCode.OK),
        (f"/{SERVICE}/Nothing", grpc.StatusCode.UNIMPLEMENTED),
    ],
)
def test_long_messages_of_methods_that_take_next_to_nothing_are_held_one_at_a_time(
    serve: Serve, method: str, code: grpc.StatusCode
) -> None:
    server, message = serve(), health_pb2.HealthCheckRequest(service="x" * (30 * MIB)).SerializeToString()

    def ask(_: int) -> grpc.StatusCode:
        with channel(server) as own:
            return own.unary_unary(method).future(message, timeout=60).code()

    with growth(server.process.pid) as peak, ThreadPoolExecutor(12) as threads:
        assert set(threads.map(ask, range(12))) == {code}
    assert peak[0] < 5 * 30  # three times one message, where twelve would be eleven times as much


def test_a_health_check_that_never_arrives_does_not_keep_others_from_theirs(serve: Serve) -> None:
    server = serve()

    def never() -> Iterator[bytes]:
        time.sleep(60)
        yield b""

    stuck = [channel(server).stream_unary("/grpc.health.v1.Health/Check").future(never()) for _ in range(3)]
    time.sleep(0.2)
    check = health_pb2_grpc.HealthStub(channel(server)).Check
    assert check(health_pb2.HealthCheckRequest(), timeout=20).status == health_pb2.HealthCheckResponse.SERVING
    assert stuck[0].code() is grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(grpc.RpcError) as error:
        check(health_pb2.HealthCheckRequest(service="nobody"), timeout=20)
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


def leave_unread(server: Server) -> Any:
    """A call of a client that lets 64 KiB of its reply come and never asks for the rest."""
    small = channel(server, ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535))
    return small, small.unary_stream(f"/{SERVICE}/ScoreAndGrad")(request(32, 256))


def test_replies_that_nobody_reads_keep_their_places_until_their_time_is_over(serve: Serve) -> None:
    server = serve("--max-requests", "2", "--max-message-mib", "8", "--reply-seconds", "2")
    score = channel(server).unary_unary(f"/{SERVICE}/Score")
    score(request(1, 8))
    with growth(server.process.pid) as peak:
        unread = [leave_unread(server) for _ in range(2)]  # of 24 MiB each
        server.wait_for_batches(2)
        time.sleep(0.5)
        with pytest.raises(grpc.RpcError) as error:
            score(request(1, 8))
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        unread += [leave_unread(server) for _ in range(10)]
        for _, call in unread[:2]:
            assert call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)  # hung up on
        full = channel(server).unary_unary(f"/{SERVICE}/ScoreAndGrad")(request(32, 256), timeout=30)
    assert len(Judgement.FromString(full).gradients) > 24 * MIB
    assert peak[0] < 250  # twelve replies of 24 MiB, each held twice, would be 576


# It reads its call to the end: grpcio can deadlock at the interpreter's end over one that it left open.
STOPPED = """
import grpc, sys
channel = grpc.insecure_channel(sys.argv[1], [("grpc.max_receive_message_length", -1)])
call = channel.unary_stream(sys.argv[2])(sys.stdin.buffer.read())
print("asked", flush=True)
print(*map(len, call), flush=True)
"""


@pytest.mark.parametrize("side", [256, 128])  # replies of 24 MiB, and of 6 that the kernel's buffers nearly hold
def test_a_reply_under_way_is_not_cut_by_a_drain(serve: Serve, side: int) -> None:
    server = serve("--drain-seconds", "60")
    server.hold()
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED, server.target, f"/{SERVICE}/ScoreAndGrad"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as client:
        assert client.stdin
        assert client.stdout
        client.stdin.write(request(32, side))
        client.stdin.close()
        assert client.stdout.readline() == b"asked\n"
        server.wait_for_batches(1)
        os.kill(client.pid, signal.SIGSTOP)
        server.release()
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(2)
        os.kill(client.pid, signal.SIGCONT)
        assert int(client.stdout.readline()) > 32 * side * side * 3 * 4
    assert server.process.wait(20) == 0


def test_a_watcher_that_reads_nothing_does_not_hold_up_a_drain(serve: Serve) -> None:
    server = serve("--drain-seconds", "30")
    watcher = channel(server)
    watching = health_pb2_grpc.HealthStub(watcher).Watch(health_pb2.HealthCheckRequest())
    assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
    started = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    assert time.monotonic() - started < 10


def test_the_server_says_what_its_requests_may_take(serve: Serve) -> None:
    server = serve("--max-requests", "4", "--max-message-mib", "2")
    assert server.process.stdout.readline() == (
        "requests take at most 76 MiB, beside what the reward itself takes to compute\n"
    )
    found = Description.FromString(channel(server).unary_unary(f"/{SERVICE}/Describe")(b""))
    assert found.max_message_bytes == 2 * MIB
