"""Ten thousand malformed or hostile messages: each ends in a clear status code, and the server lives on as it was."""

from __future__ import annotations

import itertools
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import psutil
import pyarrow as pa
import pytest

from rewards.service.codec import SERVICE, decode, encode
from rewards.service.reward_pb2 import Images, Judgement

pytestmark = pytest.mark.slow

Serve = Callable[..., Any]
MESSAGES, AT_ONCE = 10_000, 32
OK, INVALID, UNKNOWN_CALLER = grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAUTHENTICATED
FULL, NO_METHOD, LATE = (
    grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.DEADLINE_EXCEEDED,
)  # fmt: skip
TOKEN = (("authorization", "Bearer secret"),)
LIMIT = 4 * 2**20  # bytes of a message


def request(pixels: bytes | np.ndarray, count: int = 1, prompt: str = "a") -> bytes:
    payload = encode(pixels) if isinstance(pixels, np.ndarray) else pixels
    return Images(pixels=payload, prompts=[prompt] * count).SerializeToString()


GOOD = request(np.full((2, 8, 8, 3), 51, np.uint8), 2)
TENSOR = encode(np.zeros((5, 3, 8, 8), np.float32))


def arrow_stream(column: pa.Array, **options: Any) -> bytes:
    batch = pa.record_batch([column], ["pixels"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


ZEROS = pa.array(np.zeros(2**24, np.float32))  # 64 MiB, and some kilobytes when compressed
BOMBS = [
    arrow_stream(ZEROS, compression="zstd"),
    arrow_stream(ZEROS, compression="lz4"),
    arrow_stream(pa.array(["a" * 1000] * 1000).dictionary_encode()),
    arrow_stream(pa.nulls(2**24)),
]
SHAPES = [(1, 8, 8), (1, 3, 8, 8, 1), (0, 8, 8, 3), (1, 8, 8, 4), (1, 1, 8, 3), (1, 8, 4000, 3), (9, 8, 8, 3)]
DTYPES = [np.int8, np.float64, np.float16, np.int64]
BAD_VALUES = [np.nan, np.inf, -np.inf, 3e38, -1e-3, 1.001]

Hostile = tuple[bytes, set[grpc.StatusCode], dict[str, Any]]


def random_bytes(rng: random.Random) -> Hostile:
    return rng.randbytes(rng.randrange(2000)), {INVALID}, {}


def random_pixels(rng: random.Random) -> Hostile:
    return request(rng.randbytes(rng.randrange(2000))), {INVALID}, {}


def changed(rng: random.Random) -> Hostile:
    message = bytearray(GOOD)
    for _ in range(rng.randint(1, 5)):
        message[rng.randrange(len(message))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    return bytes(message), {OK, INVALID}, {}


def cut_short(rng: random.Random) -> Hostile:
    return GOOD[: rng.randrange(len(GOOD))], {INVALID}, {}


def wrong_shape(rng: random.Random) -> Hostile:
    shape = rng.choice(SHAPES)
    if 0 in shape:
        return request(TENSOR.replace(struct.pack("<q", 5), struct.pack("<q", 0)), 5), {INVALID}, {}
    return request(np.zeros(shape, np.uint8), shape[0]), {INVALID}, {}


def wrong_type(rng: random.Random) -> Hostile:
    return request(np.zeros((1, 3, 8, 8), rng.choice(DTYPES))), {INVALID}, {}


def bad_value(rng: random.Random) -> Hostile:
    pixels = np.zeros((1, 3, 8, 8), np.float32)
    pixels[0, rng.randrange(3), rng.randrange(8), rng.randrange(8)] = rng.choice(BAD_VALUES)
    return request(pixels), {INVALID}, {}


def huge_claim(rng: random.Random) -> Hostile:
    size = rng.choice([2**20, 2**31 - 1, 2**40, 2**62, 2**63 - 1, -1, -(2**63)])
    payload = TENSOR.replace(struct.pack("<q", rng.choice([5, 3, 8])), struct.pack("<q", size))
    if rng.random() < 0.5:
        strides = struct.pack("<4q", 3 * 64 * 4, 64 * 4, 8 * 4, 4)
        payload = payload.replace(strides, struct.pack("<4q", *[rng.choice([0, 4, size])] * 4))
    return request(payload, 5), {INVALID}, {}


def huge_header(rng: random.Random) -> Hostile:
    return request(struct.pack("<Ii", 0xFFFFFFFF, rng.choice([2**31 - 1, 2**30, -1])) + TENSOR[8:]), {INVALID}, {}


def bomb(rng: random.Random) -> Hostile:
    return request(rng.choice(BOMBS)), {INVALID}, {}


def prompts_wrong(rng: random.Random) -> Hostile:
    count, prompt = rng.choice([(0, ""), (2, "a"), (1, "a" * 5000), (rng.randrange(3, 3000), "")])
    return request(np.zeros((1, 8, 8, 3), np.uint8), count, prompt), {INVALID}, {}


def endless_prompts(rng: random.Random) -> Hostile:
    return b"\x12\x00" * (LIMIT // 2 - 100), {INVALID}, {}  # two million empty ones


def unknown_fields(rng: random.Random) -> Hostile:
    return b"\x7a\x00" * rng.randrange(1, 50_000), {INVALID}, {}


def nested(rng: random.Random) -> Hostile:
    return b"\x7b" * rng.randrange(1, 50_000), {INVALID}, {}  # groups that open and never close


def too_large(rng: random.Random) -> Hostile:
    return bytes(LIMIT + rng.randrange(1, LIMIT)), {FULL}, {}


def wrong_token(rng: random.Random) -> Hostile:
    header = rng.choice(["", "Bearer", "Bearer secre", "Bearer secret2", "Basic c2VjcmV0", "Bearer " + "x" * 4000])
    return GOOD, {UNKNOWN_CALLER}, {"metadata": (("authorization", header),) if header else ()}


def wrong_method(rng: random.Random) -> Hostile:
    return GOOD, {NO_METHOD}, {"method": rng.choice(["score", "Drop", "", "../Score", "Score/Score"])}


def impatient(rng: random.Random) -> Hostile:
    return GOOD, {OK, LATE}, {"timeout": rng.random() / 1000}


def failing(rng: random.Random) -> Hostile:
    return request(np.zeros((1, 600, 600, 3), np.uint8), 1, "raise"), {grpc.StatusCode.INTERNAL}, {}


RARE = {endless_prompts: 40, too_large: 40, failing: 40}
COMMON = [
    random_bytes, random_pixels, changed, changed, cut_short, wrong_shape, wrong_type, bad_value, huge_claim,
    huge_header, bomb, prompts_wrong, unknown_fields, nested, wrong_token, wrong_method, impatient,
]  # fmt: skip


def messages() -> Iterator[tuple[str, Hostile]]:
    rng = random.Random(0)
    kinds = [kind for kind, count in RARE.items() for _ in range(count)]
    kinds += itertools.islice(itertools.cycle(COMMON), MESSAGES - len(kinds))
    rng.shuffle(kinds)
    return ((kind.__name__, kind(rng)) for kind in kinds)


def knock(port: int, rng: random.Random) -> None:
    """Connect and talk nonsense, or nothing."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(rng.choice([b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n", rng.randbytes(500)]))


def test_ten_thousand_hostile_messages_end_in_clear_codes_and_a_live_server(serve: Serve) -> None:
    server = serve("--max-message-mib", str(LIMIT // 2**20), "--max-batch", "8", token="secret")
    channel = grpc.insecure_channel(server.target, [("grpc.max_send_message_length", -1)])
    methods = {
        name: channel.unary_unary(f"/{SERVICE}/{name}")
        for name in ("Score", "ScoreAndGrad", "Embed", "score", "Drop", "", "../Score", "Score/Score")
    }
    rng = random.Random(1)

    def check_alive() -> None:
        scores = decode(
            Judgement.FromString(methods["Score"](GOOD, metadata=TOKEN, timeout=20)).scores, "", ["float32"], 1
        )
        np.testing.assert_allclose(scores, [201, 201], rtol=1e-5)

    check_alive()
    process = psutil.Process(server.process.pid)
    before = largest = process.memory_info().rss
    seen: Counter[tuple[str, grpc.StatusCode]] = Counter()
    found = messages()
    while window := list(itertools.islice(found, AT_ONCE)):
        calls = []
        for kind, (message, allowed, settings) in window:
            settings = {"metadata": TOKEN, "timeout": 30, "method": rng.choice(["Score", "ScoreAndGrad"])} | settings
            calls.append((kind, allowed, methods[settings.pop("method")].future(message, **settings)))
        for kind, allowed, call in calls:
            assert call.code() in allowed, (kind, call.code(), call.details())
            assert call.code() is OK or (call.details() and "Exception" not in call.details()), (kind, call.details())
            seen[kind, call.code()] += 1
        knock(server.port, rng)
        largest = max(largest, process.memory_info().rss)
    check_alive()
    assert sum(seen.values()) == MESSAGES
    assert {code for _, code in seen} >= {OK, INVALID, UNKNOWN_CALLER, FULL, NO_METHOD}
    # Parsing two million empty prompts takes 18 times their size, and the allocator is slow to give memory back.
    assert largest - before < 100 * LIMIT
    assert process.num_threads() < 100
