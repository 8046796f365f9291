"""What the pipeline gains and what the weights cost: stages that only wait, so that any machine shows the same.

    python -m benchmarks.pipelining

The real loop, pools, pacing and weight store run with actors whose work is to sleep. Printed are

- iterations a second at `max_staleness=1` over those at 0, with sampling and learning equally long (the limit is 2);
- the same of four samplers over one, where learning takes no time (the limit is 4);
- the time until 8 samplers hold a new adapter of 51 MB in their own memory, verified, over that of a bare `ray.put` and
  8 `ray.get` whose readers copy what they got. Both begin with the array in the learner's memory and end when the last
  of the 8 has its copy; the difference is the checksum, once where it is packed and once in each reader, the
  publication, and the question to the store. The median of ratios taken in turns, because the first write to fresh
  shared memory takes many times longer than the next ones, whoever makes it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
from rich.console import Console

from actors.trajectories import Weights
from benchmarks.sleepers import REWARDS, Judge, Learner, Sampler
from cluster.arguments import Parser
from cluster.config import Config, load_config
from cluster.crew.crew import Crew, dismiss
from cluster.crew.learner_group import LearnerGroup
from cluster.crew.pool import Pool
from cluster.crew.weights import WeightStore
from cluster.loop import train
from cluster.records.display import Display
from cluster.records.rundir import RunDirectory

STAGE = 0.4  # seconds
ITERATIONS = 12
BROADCASTS, WARM_UP = 21, 6
ADAPTER = 51_000_000 // 4  # float32 parameters


class Holder:
    """Copies a new adapter into its own memory, as a policy does."""

    def __init__(self, store: Any) -> None:
        self._store, self._own = store, np.zeros(ADAPTER, np.float32)

    def pull(self) -> None:
        """As a sampler does: ask the store, fetch, copy and verify."""
        _, reference, _ = ray.get(self._store.newer.remote(0))
        ray.get(reference).copy_to(self._own)

    def take(self, reference: list[ray.ObjectRef]) -> None:
        """Only fetch and copy."""
        self._own[:] = ray.get(reference[0])


def iterations_a_second(config: Config, learning: float) -> float:
    """How many the loop makes, from the median time between two."""
    samplers = Pool("sampler", [_start(Sampler, f"sampler-{i}", STAGE) for i in range(config.samplers.count)], 0)
    judges: dict[tuple[str, ...], Pool] = {REWARDS: Pool("reward", [_start(Judge, "judge", 0.0)], 0)}
    crew = Crew(_start(WeightStore), LearnerGroup([_start(Learner, "learner", learning)], 60), samplers, judges)
    crew.samplers.start(config.samplers.count, 60)
    run = RunDirectory.create(config)
    with Display(Console(quiet=True), config.iterations) as display:
        train(config, crew, run, display)
    dismiss(crew)
    ends = [time for _, time in sorted(_ends(run))][2:-1]  # the pipeline fills first, and the last one evaluates
    return 1 / statistics.median(np.diff(ends))


def _start(role: type, *arguments: Any) -> Any:
    return ray.remote(role).options(num_cpus=0).remote(*arguments)


def _ends(run: RunDirectory) -> list[tuple[int, float]]:
    rows = pq.read_table(run.path / "metrics.parquet").to_pylist()
    return list({row["iteration"]: row["time"] for row in rows}.items())


def pipelined(folder: str, name: str, *overrides: str, learning: float) -> float:
    """Iterations a second with these settings."""
    config = load_config(
        None,
        [
            f"folder={folder}",
            f"name={name}",
            f"iterations={ITERATIONS}",
            "evaluation={every: 0, samples: 2, held_out_samples: 2, features: null}",
            "checkpoints.every=1000",
            "prompts.per_iteration=null",
            "learner.ema_decay=0",
            *overrides,
        ],
    )
    return iterations_a_second(config, learning)


def broadcast() -> list[tuple[float, float]]:
    """Seconds until 8 actors hold a new adapter, through the weight store and by a bare put and gets; of each round."""
    store = _start(WeightStore)
    holders = [_start(Holder, store) for _ in range(8)]
    flat = np.random.default_rng(0).random(ADAPTER, np.float32)

    def ours() -> None:
        weights = ray.put(Weights.pack(1, flat, (("w", (ADAPTER,)),)))
        ray.get(store.publish.remote([weights]))
        ray.get([holder.pull.remote() for holder in holders])

    def bare() -> None:
        reference = ray.put(flat)
        ray.get([holder.take.remote([reference]) for holder in holders])

    rounds = []
    for number in range(BROADCASTS + WARM_UP):
        seconds = {}
        for way in (ours, bare) if number % 2 else (bare, ours):
            started = time.perf_counter()
            way()
            seconds[way] = time.perf_counter() - started
            time.sleep(0.1)  # until the store has given the last reference back
        rounds.append((seconds[ours], seconds[bare]))
    return rounds[WARM_UP:]


def main() -> None:
    """Measure and print."""
    Parser("benchmarks.pipelining", __doc__ or "").parse_args()
    ray.init(address="local", include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    with tempfile.TemporaryDirectory() as folder:
        one = "samplers.request_size=192"
        waiting = pipelined(folder, "synchronous", one, learning=STAGE)
        ahead = pipelined(folder, "ahead", one, "samplers.max_staleness=1", learning=STAGE)
        print(f"max_staleness 1 over 0: {ahead / waiting:.2f} ({ahead:.2f} and {waiting:.2f} iterations/s)", flush=True)
        four = "samplers.request_size=24"
        alone = pipelined(folder, "alone", four, learning=0.0)
        together = pipelined(folder, "together", four, "samplers.count=4", learning=0.0)
        print(f"4 samplers over 1: {together / alone:.2f} ({together:.2f} and {alone:.2f} iterations/s)", flush=True)
    rounds = broadcast()
    ours, bare = np.median(rounds, axis=0) * 1000
    ratio = statistics.median(ours / bare for ours, bare in rounds)
    print(f"51 MB to 8 samplers over bare put and get: {ratio:.2f} ({ours:.0f} and {bare:.0f} ms)")


if __name__ == "__main__":
    main()
