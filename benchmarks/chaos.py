"""A run that is broken again and again, against the same run left in peace: nothing may differ.

    python -m benchmarks.chaos [--faults 50] [--seed 0] [--out FILE.json]

The faults (`benchmarks/faults.py`) come in random order, at random moments, to random victims, all drawn from the seed:
one as soon as the run has recovered from the one before, which is when it has recorded an iteration that it had not. At
the end every prompt must have been trained on exactly once with the same scores, every iteration must be on record, and
the last checkpoint (adapter, its average, optimizer, reward statistics) must be that of the undisturbed run bit by bit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file

from benchmarks.faults import FAULTS, WORKER, Site, Stuck
from benchmarks.nodes import Cluster
from benchmarks.tiny import write_config
from cluster.rundir import RunDirectory
from learner import checkpoint

# How often each fault strikes of 100.
SHARES = {
    "sampler killed": 20,
    "reward actor killed": 20,
    "learner killed": 8,
    "weight store killed": 4,
    "driver killed": 6,
    "node lost": 6,
    "sampler paused": 10,
    "reward actor paused": 12,
    "learner paused": 4,
    "object stores full": 10,
}
ACTORS = ("samplers.count=2", "reward_actors.count=2")
PATIENCE = "failures={max_deaths: 1000, patience: {room: 120, start: 120, sample: 10, score: 10, learn: 20}}"


@dataclass(frozen=True)
class Fault:
    """One fault, as drawn."""

    kind: str
    iteration: int  # strikes when this one is on record
    delay: float  # seconds after that
    draw: float  # in [0, 1): chooses the victim


@dataclass(frozen=True)
class Recovery:
    """What a fault cost."""

    kind: str
    iteration: int  # newest on record when it struck
    seconds: float  # until one more than that was on record


def plan(kinds: Sequence[str], seed: int) -> list[Fault]:
    """Faults of these kinds in random order, one to three iterations apart."""
    random = np.random.default_rng(seed)
    order = random.permutation(list(kinds)).tolist()
    iterations = np.cumsum(random.integers(1, 4, len(order))).tolist()
    return [
        Fault(kind, iteration, random.uniform(0, 0.5), random.random())
        for kind, iteration in zip(order, iterations, strict=True)
    ]


def kinds_of(count: int) -> list[str]:
    """At least so many kinds of faults, by their shares, each at least once."""
    return [kind for kind, share in SHARES.items() for _ in range(max(1, -(-share * count // 100)))]


def make_cluster() -> Cluster:
    """A head that only has room for drivers, and two workers, each with room for all actors."""
    cluster = Cluster("--num-cpus=0")
    for _ in range(2):
        cluster.add(*WORKER)
    return cluster


def undisturbed(site: Cluster, config: Path, run: Path, iterations: int) -> None:
    """Carry out the run in peace."""
    reference = Site(site, config, run, f"iterations={iterations}", *ACTORS)
    try:
        reference.finish()
    finally:
        reference.close()


def disturbed(site: Cluster, config: Path, run: Path, iterations: int, faults: Sequence[Fault]) -> list[Recovery]:
    """Carry out the run under faults.

    Raises:
        Stuck: If it ends otherwise than well, or does not end.
    """
    victim = Site(site, config, run, f"iterations={iterations}", *ACTORS, PATIENCE)
    found = []
    try:
        for number, fault in enumerate(faults):
            victim.reach(fault.iteration)
            time.sleep(fault.delay)
            before, started = victim.iteration, time.monotonic()
            FAULTS[fault.kind](victim, fault.draw)
            try:
                victim.reach(before + 1)
            except Stuck as stuck:
                raise Stuck(f"After fault {number}, {fault.kind} at iteration {before}: {stuck}") from None
            found.append(Recovery(fault.kind, before, time.monotonic() - started))
            print(f"{number + 1:3d}  {fault.kind:20s} at {before:4d}  {found[-1].seconds:5.1f} s", flush=True)
        victim.finish()
    finally:
        victim.close()
    return found


def iterations_for(faults: Sequence[Fault]) -> int:
    """Enough that every fault strikes before the end."""
    return faults[-1].iteration + len(faults) + 5


def differences(expected: RunDirectory, found: RunDirectory, iterations: int) -> list[str]:
    """In which sentences a run differs from another; none if nothing was lost, doubled or changed."""
    said = []
    if (seen := [iteration for iteration, _ in found.metrics()["loss"]]) != [*range(1, iterations + 1)]:
        said.append(f"Iterations on record are not 1 to {iterations}, each once: {seen}.")
    samples = _samples(found)
    if doubled := [sample for sample, count in samples.items() if count > 1]:
        said.append(f"{len(doubled)} samples were trained on more than once, the first one {doubled[0]}.")
    wanted = _samples(expected)
    if samples.keys() != wanted.keys():
        said.append(f"{len(samples.keys() ^ wanted.keys())} samples are missing, too many or scored otherwise.")
    ours, theirs = _state(expected), _state(found)
    if ours != theirs:
        files = sorted(name for name in ours if ours[name] != theirs.get(name))
        said.append(f"The last checkpoints differ in {', '.join(files)}.")
    return said


def _state(run: RunDirectory) -> dict[str, object]:
    """What the last checkpoint's files hold, by name."""
    folder = checkpoint.newest(run.checkpoints)
    sums = json.loads((folder / "manifest.json").read_text())["sha256"]
    # The header of an adapter's file lists its metadata in no fixed order, so its tensors are compared.
    return {
        name: sorted((key, tensor.tobytes()) for key, tensor in load_file(folder / name).items())
        if name.endswith(".safetensors")
        else checksum
        for name, checksum in sums.items()
    }


def _samples(run: RunDirectory) -> Counter[tuple]:
    rows = pq.read_table(run.path / "samples.parquet").to_pylist()
    return Counter(tuple(row.values()) for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and say in the exit status whether anything differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=50, help="at least so many (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args(arguments)
    faults = plan(kinds_of(args.faults), args.seed)
    iterations = iterations_for(faults)
    with tempfile.TemporaryDirectory() as folder, closing(make_cluster()) as site:
        config = write_config(Path(folder))
        expected, found = RunDirectory(Path(folder) / "undisturbed"), RunDirectory(Path(folder) / "disturbed")
        started = time.monotonic()
        undisturbed(site, config, expected.path, iterations)
        peace = time.monotonic() - started
        print(f"{iterations} iterations undisturbed: {peace:.0f} s", flush=True)
        recoveries = disturbed(site, config, found.path, iterations, faults)
        chaos = time.monotonic() - started - peace
        wrong = differences(expected, found, iterations)
    table = Table("fault", "times", "median s", "longest s", title=f"{len(faults)} faults in {chaos:.0f} s")
    for kind in SHARES:
        seconds = [recovery.seconds for recovery in recoveries if recovery.kind == kind]
        table.add_row(kind, str(len(seconds)), f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}")
    console = Console()
    console.print(table)
    console.print("\n".join(wrong) or "Nothing was lost or doubled; the last checkpoints are equal bit by bit.")
    if args.out:
        figures = {"seed": args.seed, "iterations": iterations, "undisturbed_s": peace, "disturbed_s": chaos}
        recovered = [asdict(recovery) for recovery in recoveries]
        args.out.write_text(json.dumps({**figures, "differences": wrong, "faults": recovered}, indent=1) + "\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
