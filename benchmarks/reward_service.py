"""`python -m benchmarks.reward_service`: what batching gains in the gRPC reward service, and what the wire costs.

Everything is measured side by side in one run, in turns, against servers that are processes of their own on loopback.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import torch

from cluster.arguments import Parser
from rewards import make_reward
from rewards.reward import Reward
from rewards.service.client import RewardClient

REWARD, ROUNDS, CLIENTS, EACH = "shapes_agreement", 5, 16, 8
PROMPT = "a red circle left of a blue square"


def main() -> None:
    """Measure and print medians of the rounds and their ratios."""
    Parser("benchmarks.reward_service", __doc__ or "").parse_args()
    torch.set_num_threads(1)
    one_image = torch.rand(1, 3, 32, 32)
    with _server("--max-batch", "32") as batching, _server("--max-batch", "1") as alone:
        many = {
            "batches of up to 32": [RewardClient(batching) for _ in range(CLIENTS)],
            "one by one": [RewardClient(alone) for _ in range(CLIENTS)],
        }
        joined, single = _compare({name: partial(_at_once, clients, one_image) for name, clients in many.items()})
        print(f"{CLIENTS} clients, each {EACH} times one image: batching answers {single / joined:.1f} times as fast\n")

        places = {"in process": make_reward(REWARD), "over gRPC": RewardClient(batching)}
        for side in (32, 256):
            whole = torch.randint(256, (32, 3, side, side)).float() / 255
            for kind, images in (("rollouts'", whole), ("any float32", torch.rand_like(whole))):
                for question in ("score", "score_and_grad"):
                    print(f"{question}, 32 images of {side} x {side}, {kind}:")
                    local, remote = _compare(
                        {place: partial(_ask, reward, question, images) for place, reward in places.items()}
                    )
                    print(f"  over gRPC takes {remote / local:.2f} times as long")


def _ask(reward: Reward, question: str, images: torch.Tensor) -> object:
    with torch.no_grad():
        return getattr(reward, question)(images, [PROMPT] * len(images))


def _at_once(clients: list[RewardClient], image: torch.Tensor) -> None:
    with ThreadPoolExecutor(len(clients)) as threads:
        list(threads.map(lambda client: [_ask(client, "score", image) for _ in range(EACH)], clients))


def _compare(ways: dict[str, Callable[[], object]]) -> list[float]:
    """The median seconds of each way, in turns, after one call each to warm up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - started)
    medians = [statistics.median(found) for found in times.values()]
    for name, median in zip(ways, medians, strict=True):
        print(f"  {name}: {1000 * median:.0f} ms")
    return medians


@contextmanager
def _server(*arguments: str) -> Iterator[str]:
    command = [sys.executable, "-m", "rewards.serve", "--reward", REWARD, "--listen", "127.0.0.1:0", *arguments]
    threads = os.environ | {"OMP_NUM_THREADS": "1"}  # as here
    with subprocess.Popen(command, env=threads, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            line = next(line for line in process.stdout if line.startswith("serving"))
            yield f"grpc://127.0.0.1:{line.rpartition(':')[2].strip()}"
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
