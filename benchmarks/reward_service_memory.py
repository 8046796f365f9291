"""`python -m benchmarks.reward_service_memory`: the gRPC reward service's peak memory under attack, and its promise.

Each row is a server of its own on loopback, with small limits, so that what they do not bound would show. Memory is
what the server's process holds beyond what it held after its first answer; the promise is the line that it prints.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

import grpc
import numpy as np
import psutil
from grpc_health.v1 import health_pb2

from cluster.arguments import Parser
from rewards.service.codec import SERVICE, encode
from rewards.service.limits import MIB
from rewards.service.reward_pb2 import Images
from shapes.arguments import positive

REWARD, TOKEN = "shapes_agreement", "a-token-of-the-benchmark"
METADATA = (("authorization", f"Bearer {TOKEN}"),)
ANY_SIZE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
AGAIN = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535)]


@dataclass
class Server:
    """A running server and what it promised."""

    process: subprocess.Popen[str]
    target: str
    promise: float  # MiB

    def channel(self) -> grpc.Channel:
        return _channel(self.target)


def main() -> None:
    """Run the attacks one after the other and print a table."""
    parser = Parser("benchmarks.reward_service_memory", __doc__ or "")
    parser.add_argument("--health-checks", type=positive, default=25, metavar="N", help="of 60 MiB, without the token")
    parser.add_argument("--readers", type=positive, default=50, metavar="N", help="that stop reading replies of 24 MiB")
    parser.add_argument("--messages", type=positive, default=10_000, metavar="N", help="that are hostile")
    parser.add_argument(
        "--clients", type=positive, default=8, metavar="N", help="that ask for gradients of 12 MiB of images"
    )
    args = parser.parse_args()
    print(
        "| attack | limits | promise, MiB | peak, MiB | peak / promise | then |\n|---|---|---|---|---|---|", flush=True
    )
    _row(f"{args.health_checks} health checks of 60 MiB without the token", (4, 64), _health_checks, args.health_checks)
    _row(f"{args.readers} readers that stop at replies of 24 MiB", (2, 8), _readers, args.readers)
    _row(f"{args.messages} hostile messages", (8, 4), _hostile, args.messages)
    _row(f"{args.clients} honest clients, the largest requests at once", (4, 12), _honest, args.clients)


def _row(name: str, limits: tuple[int, int], attack: Callable[[Server, int], str], count: int) -> None:
    with _server(*limits) as server:
        _ask(server.channel(), _request(1, 64))
        with growth(server.process.pid) as peak:
            then = attack(server, count)
        options = "--max-requests {} --max-message-mib {}".format(*limits)
        ratio = peak[0] / server.promise
        print(f"| {name} | `{options}` | {server.promise:.0f} | {peak[0]:.0f} | {ratio:.2f} | {then} |", flush=True)


def _health_checks(server: Server, count: int) -> str:
    message = health_pb2.HealthCheckRequest(service="x" * (60 * MIB)).SerializeToString()

    def check(_: int) -> str:
        with server.channel() as channel:
            return _code(channel.unary_unary("/grpc.health.v1.Health/Check").future(message, timeout=60))

    with ThreadPoolExecutor(count) as threads:
        return _counted(threads.map(check, range(count)))


def _readers(server: Server, count: int) -> str:
    """Half of the readers open no window for the reply; the processes of the others are stopped."""
    spawn, processes, each = multiprocessing.get_context("spawn"), [], 5
    for first in range(0, count, each):
        ours, theirs = spawn.Pipe()
        stops = first // each % 2 == 1
        process = spawn.Process(target=_leave_unread, args=(server.target, min(each, count - first), stops, theirs))
        process.start()
        ours.recv()
        if stops:
            os.kill(process.pid, signal.SIGSTOP)  # type: ignore[arg-type]
        processes.append(process)
    started = time.monotonic()
    _ask(server.channel(), _request(32, 256), wait=True)
    waited = time.monotonic() - started
    for process in processes:
        process.kill()
        process.join()
    return f"another client's reply of 24 MiB came after {waited:.0f} s"


def _leave_unread(target: str, count: int, stops: bool, ready: Connection) -> None:
    message, kept = _request(32, 256), []
    for _ in range(count):
        channel = _channel(target, *([] if stops else SMALL_WINDOW))
        kept.append((channel, channel.unary_stream(f"/{SERVICE}/ScoreAndGrad")(message, metadata=METADATA)))
        time.sleep(0.2)
    ready.send(None)
    time.sleep(600)


def _hostile(server: Server, count: int) -> str:
    rng, good = random.Random(0), _request(2, 32)
    limit = 4 * MIB
    kinds: list[Callable[[], bytes]] = [
        lambda: rng.randbytes(rng.randrange(2000)),
        lambda: good[: rng.randrange(len(good))],
        lambda: good.replace(b"\x20\x00\x00\x00", rng.randbytes(4)),  # sizes that the message claims
        lambda: b"\x12\x00" * rng.randrange(limit // 2),  # empty prompts, two bytes each
        lambda: b"\x7b" * rng.randrange(limit),  # groups that open and never close
        lambda: bytes(limit + rng.randrange(limit)),
        lambda: encode(np.zeros((1, 3, 8, 8), np.float32)) * rng.randrange(1000),
    ]
    channel, seen = server.channel(), Counter[str]()
    methods = [channel.unary_unary(f"/{SERVICE}/{name}") for name in ("Score", "ScoreAndGrad", "Embed", "Nothing")]
    for _ in range(0, count, 50):
        calls = [
            rng.choice(methods).future(
                # Most are small: a machine is to be attacked, not kept busy with making the attack.
                rng.choice(kinds[:3] if rng.random() < 0.9 else kinds)(),
                metadata=METADATA if rng.random() < 0.8 else (),
                timeout=60,
            )
            for _ in range(50)
        ]
        seen.update(map(_code, calls))
    return _counted(seen.elements())


def _honest(server: Server, count: int) -> str:
    message = _request(15, 512)  # with its prompts and framing just below 12 MiB

    def ask(_: int) -> None:
        with server.channel() as channel:
            _ask(channel, message, wait=True)

    with ThreadPoolExecutor(count) as threads:
        list(threads.map(ask, range(count)))
    return "all answered"


def _channel(target: str, *options: tuple[str, int]) -> grpc.Channel:
    return grpc.insecure_channel(target, [*ANY_SIZE, *OWN_CONNECTION, *options])


def _request(count: int, side: int) -> bytes:
    images = np.random.default_rng(0).integers(256, size=(count, side, side, 3), dtype=np.uint8)
    return Images(pixels=encode(images), prompts=["a red circle"] * count).SerializeToString()


def _ask(channel: grpc.Channel, message: bytes, *, wait: bool = False) -> None:
    """Ask for gradients; again and again, if the service is full."""
    until = time.monotonic() + 300
    while True:
        try:
            channel.unary_unary(f"/{SERVICE}/ScoreAndGrad")(message, metadata=METADATA, timeout=300)
            return
        except grpc.RpcError as error:
            if not wait or error.code() not in AGAIN or time.monotonic() > until:
                raise
            time.sleep(0.2)


def _code(call: grpc.Future) -> str:
    return call.code().name


def _counted(codes: Iterator[str]) -> str:
    return ", ".join(f"{count} {code}" for code, count in Counter(codes).most_common())


@contextmanager
def growth(pid: int) -> Iterator[list[float]]:
    """The most MiB above what a process holds now, in a list of one that is filled meanwhile."""
    process, over = psutil.Process(pid), threading.Event()
    before, peak = process.memory_info().rss, [0.0]

    def watch() -> None:
        while not over.wait(0.003):
            peak[0] = max(peak[0], (process.memory_info().rss - before) / MIB)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


@contextmanager
def _server(requests: int, mib: int) -> Iterator[Server]:
    command = [sys.executable, "-m", "rewards.serve", "--reward", REWARD, "--listen", "127.0.0.1:0"]
    command += ["--max-requests", str(requests), "--max-message-mib", str(mib), "--reply-seconds", "10"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "REINOISE_REWARD_TOKEN": TOKEN}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout
            serving = next(line for line in process.stdout if line.startswith("serving"))
            promise = process.stdout.readline()
            yield Server(process, f"127.0.0.1:{serving.rpartition(':')[2].strip()}", float(promise.split()[4]))
        finally:
            process.kill()


if __name__ == "__main__":
    main()
