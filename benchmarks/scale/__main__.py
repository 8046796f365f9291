"""What the driver costs as a cluster grows: the real loop with 1 to 1,024 samplers that only wait, and 1e6 prompts.

    python -m benchmarks.scale

Loop, pools, pacing, requests and records are the real ones. For each size a line says what a request costs the driver
(CPU seconds of all its threads, with its share of the iteration: records, metrics, a publication), the time from the
end of a sampler's request until the driver has given that sampler the next one, and the memory of the process. All
sizes have the same requests a second and the same requests an iteration, so that a flat curve is a flat cost.

The actors are stand-ins in this process, which leaves out what Ray's own calls cost. That is measured apart: the same
loop with actors of Ray that sleep, several to a process, over the loop with as many stand-ins. Left out of both are
gauges for Ray's dashboard (benchmarks.telemetry), the run's page, which takes at most a fiftieth of a run's time, and
what samplers ask the weight store, which is an actor of its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import ray

from benchmarks.scale.driving import Size, through_ray, with_stand_ins, words
from cluster.arguments import Parser
from cluster.config import read_config

SAMPLERS = (1, 8, 64, 256, 1024)
A_JUDGE = 16  # samplers that one has
THROUGH_RAY = (8, 128)
RAY_REQUESTS, RAY_RATE = 256, 100
PROCESSES = 4
SECONDS = (1, 5, 20, 60)  # of a request


def _parser() -> argparse.ArgumentParser:
    parser = Parser("benchmarks.scale", __doc__ or "")
    parser.add_argument("--samplers", type=int, nargs="+", default=SAMPLERS, help="how many there are, a run each")
    parser.add_argument("--prompts", type=int, default=1_000_000, help="how many to choose from")
    parser.add_argument(
        "--requests", type=int, default=2048, help="of an iteration; half as many must fill the samplers"
    )
    parser.add_argument("--rate", type=float, default=400, help="requests a second of all samplers together")
    parser.add_argument("--without-ray", action="store_true", help="leave out what Ray's own calls cost")
    return parser


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    args = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = folder / "prompts.txt"
        prompts.write_text("".join(f"a picture of thing number {number}\n" for number in range(args.prompts)))

        def size_of(samplers: int) -> Size:
            return Size(samplers, max(1, samplers // A_JUDGE), args.requests, args.rate)

        print("samplers  judges  ms of CPU a request  next request after (median, p99)  idle    memory", flush=True)
        alone = {}
        for samplers in args.samplers:
            size, began = size_of(samplers), time.monotonic()
            cost = with_stand_ins(read_config(None, words(folder, prompts, size)), size)
            alone[samplers] = cost.cpu
            median, late = 1000 * np.percentile(cost.latencies, [50, 99])
            print(
                f"{samplers:8d}  {size.judges:6d}  {1000 * cost.cpu:19.3f}  {median:20.1f} ms, {late:6.0f} ms  "
                f"{cost.idle:4.0%}  {cost.memory / 1e6:5.0f} MB  ({time.monotonic() - began:.0f} s)",
                flush=True,
            )
        if 8 in alone and max(alone) > 8:
            print(f"a request at {max(alone)} samplers over one at 8: {alone[max(alone)] / alone[8]:.2f}")
        if args.without_ray:
            return
        ray.init(address="local", include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
        for samplers in THROUGH_RAY:
            size = Size(samplers, max(1, samplers // A_JUDGE), RAY_REQUESTS, RAY_RATE)
            config = read_config(None, words(folder, prompts, size))
            cpu, without = through_ray(config, size, PROCESSES), with_stand_ins(config, size).cpu
            print(
                f"{samplers} samplers through Ray: {1000 * cpu:.2f} ms a request, of which {1000 * without:.2f} ms are "
                f"the control plane's and {1000 * (cpu - without) / 2:.2f} ms each of its two calls",
                flush=True,
            )
        whole = cpu - without + alone[max(alone)]
        print(f"with Ray's calls a request costs {1000 * whole:.2f} ms, and the driver is busy all the time")
        for seconds in SECONDS:
            print(f"    with {int(seconds / whole):6,d} samplers where a request takes {seconds} s")


if __name__ == "__main__":
    main(sys.argv[1:])
