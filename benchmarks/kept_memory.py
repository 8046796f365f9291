"""What a CPU gains by keeping freed memory: passes of the embedded world in two processes, which take turns.

    python -m benchmarks.kept_memory [--threads 2]

One process is told to keep what it frees, as every process with a policy on a CPU is (`actors/devices.py`), the other
is not. 192 pictures go through the guided network and back to their states, and through the decoder and back, so many
at a time as the row says. The first round counts for nothing, of the others the medians are taken. At the end stands
how large each process became, and how often it was given a page.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from unittest import mock

import torch

from actors import policy as policies
from actors.policy import Policy
from cluster.arguments import Parser
from cluster.config import load_words
from shapes.arguments import positive

PICTURES, SIZES, ROUNDS = 192, (32, 96, 192), 5
SIDES = {"kept": True, "given back": False}


def seconds(policy: Policy, size: int) -> tuple[float, float]:
    """Of `PICTURES` pictures through the network, and through the decoder, there and back, `size` at a time."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(PICTURES, *policy.latent_shape, generator=generator)
    taken = []
    for through in ("network", "decoder"):
        started = time.perf_counter()
        for part in states.split(size):
            leaf = part.clone().requires_grad_()
            if through == "network":
                told = policy.encode(["a red circle"] * len(leaf))
                said = policy.predict(leaf, torch.zeros(len(leaf), dtype=torch.int64), told)
            else:
                said = policy.decode(leaf)
            said.sum().backward()
        taken.append(time.perf_counter() - started)
    return taken[0], taken[1]


def work(kept: bool, connection: Connection) -> None:
    """Answer each size with `seconds` of it, and 0 with the most MiB that this process had and its page faults."""
    with mock.patch.object(policies, "keep_freed_memory", policies.keep_freed_memory if kept else lambda: None):
        config = load_words([])
        policy = Policy.load(config.policy.model_copy(update={"model": config.pipeline, "device": "cpu"}))
    while size := connection.recv():
        connection.send(seconds(policy, size))
    used = resource.getrusage(resource.RUSAGE_SELF)
    connection.send((used.ru_maxrss // 1024, used.ru_minflt))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = Parser("benchmarks.kept_memory", __doc__ or "")
    parser.add_argument("--threads", type=positive, metavar="N", help="of each process (default: all CPUs)")
    args = parser.parse_args(arguments)
    threads = args.threads or len(os.sched_getaffinity(0))
    spawn, ends = get_context("spawn"), {}
    with mock.patch.dict(os.environ, OMP_NUM_THREADS=str(threads)):
        for side, kept in SIDES.items():
            ends[side], far = spawn.Pipe()
            spawn.Process(target=work, args=(kept, far), daemon=True).start()
            far.close()  # so that an end of the process ends the waiting for it
    try:
        measure(ends)
    except (EOFError, OSError):  # to be told, or to be asked
        print("error: A process that was to measure has ended.", file=sys.stderr)
        return 1
    return 0


def measure(ends: Mapping[str, Connection]) -> None:
    """Ask the process of each side in turns, and print."""
    for size in SIZES:
        taken: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
        for _ in range(1 + ROUNDS):
            for side, end in ends.items():
                end.send(size)
                taken[side].append(end.recv())
        for number, through in enumerate(("network", "decoder")):
            kept, given = (statistics.median(pair[number] for pair in taken[side][1:]) for side in SIDES)
            print(
                f"{size:4} at a time through the {through}: kept {kept:.2f} s, given back {given:.2f} s, "
                f"ratio {given / kept:.2f}",
                flush=True,
            )
    for side, end in ends.items():
        end.send(0)
        size, faults = end.recv()
        print(f"{side}: {size} MiB at its largest, {faults:,} page faults")


if __name__ == "__main__":
    sys.exit(main())
