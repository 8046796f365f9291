"""A run that is broken again and again, against the same run left in peace: nothing may differ, and nothing may stay.

    python -m benchmarks.chaos [--faults 60] [--seed 0] [--out FILE.json]

The faults (`tests/support/faults.py`) come in random order to random victims, all drawn from the seed: each as soon as
the run has recovered from the one before, which is when it has recorded an iteration that it had not; at a random
moment, or in the middle of a start, a restoration, a publication, a checkpoint or an evaluation; some two at once.
Three quarters strike a run on a cluster of three nodes, a quarter one of `cluster.local`. `failures.max_deaths` has its
default. At the end every prompt must have been trained on exactly once with the same scores, every iteration must be on
record, and the last checkpoint (adapter, its average, optimizer, reward statistics) must be that of the undisturbed run
bit by bit. Whenever a driver ends, nobody's actors may stay, and of a Ray of its own neither a process nor a file.

The benchmark may run in the background; SIGTERM ends it with all that it has started.
"""

from __future__ import annotations

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

from benchmarks.signals import ended_by_sigterm, heed
from cluster.arguments import Parser
from cluster.records.reading import Records
from learner import checkpoint
from shapes.arguments import positive
from tests.support.faults import EVALUATES, FAULTS, WINDOWS, WORKER, Site, Stuck
from tests.support.nodes import Cluster
from tests.support.tiny import write_config

# The same number of times in every window.
ANYWHERE = (
    "sampler killed",
    "reward actor killed",
    "learner killed",
    "weight store killed",
    "driver killed",
    "driver: SIGTERM",
    "driver: Ctrl-C",
    "driver: terminal closed",
)
# At any moment, of 60.
SOMETIMES = {
    "node lost": 3,
    "sampler paused": 2,
    "reward actor paused": 2,
    "learner paused": 1,
    "weight store paused": 1,
    "object stores full": 2,
}
PAIRS = (
    ("learner killed", "weight store killed"),
    ("learner killed", "driver: SIGTERM"),
    ("sampler killed", "reward actor killed"),
    ("weight store killed", "driver: Ctrl-C"),
    ("node lost", "learner killed"),
)
LOCAL = ("driver killed", "driver: SIGTERM", "driver: Ctrl-C", "driver: terminal closed")
ON_A_CLUSTER = ("samplers.count=2", "reward_actors.count=2")
PATIENCE = "failures.patience={room: 120, start: 120, sample: 10, score: 10, learn: 20}"

# What strikes at once, and in which of `tests.support.faults.WINDOWS`; `None` is any moment.
Blow = tuple[tuple[str, ...], str | None]


@dataclass(frozen=True)
class Fault:
    """One blow, as drawn: one fault, or two at once."""

    kinds: tuple[str, ...]
    window: str | None  # of `tests.support.faults.WINDOWS`, or any moment
    after: int  # iterations that are to be recorded first
    delay: float  # seconds after that
    draw: float  # in [0, 1): chooses the victim


@dataclass(frozen=True)
class Recovery:
    """What a blow cost."""

    kinds: tuple[str, ...]
    window: str | None
    iteration: int  # newest on record when it struck
    seconds: float  # until one more than that was on record


def plan(blows: Sequence[Blow], seed: int) -> list[Fault]:
    """These blows in random order, none to two iterations apart."""
    random = np.random.default_rng(seed)
    order = [blows[number] for number in random.permutation(len(blows))]
    return [
        Fault(kinds, window, int(random.integers(0, 3)), random.uniform(0, 0.5), random.random())
        for kinds, window in order
    ]


def blows_on_a_cluster(count: int) -> list[Blow]:
    """At least so many faults: every kind in every window, pairs, and others at any moment."""
    found: list[Blow] = [((kind,), window) for window in WINDOWS for kind in ANYWHERE]
    found += [(pair, window) for pair, window in zip(PAIRS, (None, "publish", "checkpoint", None, None), strict=True)]
    found += [((kind,), None) for kind, times in SOMETIMES.items() for _ in range(times)]
    while (missing := count - _faults(found)) > 0:
        found += [((kind,), None) for kind in ANYWHERE[:missing]]
    return found


def blows_on_one_machine(count: int) -> list[Blow]:
    """At least so many ends of the driver, in the windows in turn."""
    windows = [None, *WINDOWS]
    return [((LOCAL[i % len(LOCAL)],), windows[(i + i // len(windows)) % len(windows)]) for i in range(count)]


def _faults(blows: Sequence[Blow]) -> int:
    return sum(len(kinds) for kinds, _ in blows)


def make_cluster() -> Cluster:
    """A head that only has room for drivers, and two workers, each with room for all actors."""
    cluster = Cluster("--num-cpus=0")
    try:
        for _ in range(2):
            cluster.add(*WORKER)
    except BaseException:
        cluster.close()
        raise
    return cluster


def undisturbed(cluster: Cluster | None, config: Path, run: Path, iterations: int) -> None:
    """Carry out the run in peace."""
    reference = Site(cluster, config, run, *_settings(cluster, iterations))
    try:
        reference.finish(patience=1800)
    finally:
        reference.close()


def disturbed(
    cluster: Cluster | None, config: Path, run: Path, iterations: int, faults: Sequence[Fault]
) -> list[Recovery]:
    """Carry out the run under faults.

    Raises:
        Stuck: If it ends otherwise than well, or does not end, or leaves something behind.
    """
    victim = Site(cluster, config, run, *_settings(cluster, iterations), PATIENCE)
    found = []
    try:
        for number, fault in enumerate(faults, 1):
            name = f"{' + '.join(fault.kinds)}, {fault.window or 'any moment'}"
            try:
                victim.reach(victim.iteration + fault.after)
                time.sleep(fault.delay)
                if fault.window in ("start", "restore"):  # there is none without a loss
                    FAULTS["learner killed"](victim, fault.draw)
                if fault.window:
                    victim.catch(fault.window, fault.draw)
                before, started = victim.iteration, time.monotonic()
                for kind in fault.kinds:
                    FAULTS[kind](victim, fault.draw)
                victim.reach(before + 1)
            except Stuck as stuck:
                raise Stuck(f"Fault {number}, {name}: {stuck}") from None
            found.append(Recovery(fault.kinds, fault.window, before, time.monotonic() - started))
            print(f"{number:3d}  {name:50s} at {before:4d}  {found[-1].seconds:5.1f} s", flush=True)
        victim.finish(patience=1800)
    finally:
        victim.close()
    return found


def _settings(cluster: Cluster | None, iterations: int) -> tuple[str, ...]:
    own = ON_A_CLUSTER if cluster else ()
    return (f"iterations={iterations}", f"evaluation.every={EVALUATES}", *own)


def iterations_for(faults: Sequence[Fault]) -> int:
    """Enough that every fault strikes before the end: those that wait for a window let some iterations pass."""
    return sum(fault.after + 3 + EVALUATES * (fault.window == "evaluation") for fault in faults) + 10


def differences(expected: Records, found: Records, iterations: int) -> list[str]:
    """In which sentences a run differs from another; none if nothing was lost, doubled or changed."""
    said = []
    ours, theirs = expected.metrics(), found.metrics()
    if (seen := [iteration for iteration, _ in theirs["loss"]]) != [*range(1, iterations + 1)]:
        said.append(f"Iterations on record are not 1 to {iterations}, each once: {seen}.")
    for name in (name for name in ours if name.startswith("eval/")):
        if ours[name] != theirs.get(name):
            said.append(f"Evaluations differ in {name}.")
    samples = _samples(found)
    if doubled := [sample for sample, count in samples.items() if count > 1]:
        said.append(f"{len(doubled)} samples were trained on more than once, the first one {doubled[0]}.")
    wanted = _samples(expected)
    if samples.keys() != wanted.keys():
        said.append(f"{len(samples.keys() ^ wanted.keys())} samples are missing, too many or scored otherwise.")
    left, right = _state(expected), _state(found)
    if left != right:
        files = sorted(name for name in left if left[name] != right.get(name))
        said.append(f"The last checkpoints differ in {', '.join(files)}.")
    return said


def _state(run: Records) -> dict[str, str]:
    """Checksums of the last checkpoint's files, by name."""
    manifest = checkpoint.newest(run.checkpoints) / "manifest.json"
    return json.loads(manifest.read_text())["sha256"]


def _samples(run: Records) -> Counter[tuple]:
    rows = pq.read_table(run.path / "samples.parquet").to_pylist()
    return Counter(tuple(row.values()) for row in rows)


def compare(
    cluster: Cluster | None, folder: Path, faults: Sequence[Fault]
) -> tuple[list[Recovery], list[str], dict[str, float]]:
    """Carry a run out twice, in peace and under faults; returns what each cost, what differs, and the seconds."""
    config, iterations = write_config(folder), iterations_for(faults)
    expected, found = Records(folder / "undisturbed"), Records(folder / "disturbed")
    started = time.monotonic()
    undisturbed(cluster, config, expected.path, iterations)
    peace = time.monotonic() - started
    print(f"{iterations} iterations undisturbed: {peace:.0f} s", flush=True)
    recoveries = disturbed(cluster, config, found.path, iterations, faults)
    seconds = {"iterations": iterations, "undisturbed_s": peace, "disturbed_s": time.monotonic() - started - peace}
    return recoveries, differences(expected, found, iterations), seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and say in the exit status whether anything differs."""
    parser = Parser("benchmarks.chaos", __doc__.splitlines()[0])
    parser.add_argument("--faults", type=positive, default=60, help="at least so many (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args(arguments)
    local = blows_on_one_machine(-(-args.faults // 4))
    wide = blows_on_a_cluster(args.faults - len(local))
    heed()  # drivers are struck with signals that they must not ignore from the start
    with ended_by_sigterm(), tempfile.TemporaryDirectory() as folder:
        (there := Path(folder) / "cluster").mkdir()
        (here := Path(folder) / "local").mkdir()
        with closing(make_cluster()) as cluster:
            recoveries, wrong, seconds = compare(cluster, there, plan(wide, args.seed))
        alone, differs, more = compare(None, here, plan(local, args.seed))
    recoveries, wrong = recoveries + alone, wrong + [f"cluster.local: {sentence}" for sentence in differs]
    console = Console()
    count = _faults(wide) + _faults(local)
    # Each start and each restoration that is struck takes the loss of a learner first.
    provoked = sum(window in ("start", "restore") for _, window in (*wide, *local))
    title = f"{count + provoked} faults in {seconds['disturbed_s'] + more['disturbed_s']:.0f} s"
    table = Table("fault", "times", "median s", "longest s", title=title)
    for name, times in _by_name(recoveries).items():
        table.add_row(name, str(len(times)), f"{statistics.median(times):.1f}", f"{max(times):.1f}")
    console.print(table)
    console.print("\n".join(wrong) or "Nothing was lost or doubled; the last checkpoints are equal bit by bit.")
    if args.out:
        figures = {"seed": args.seed, "cluster": seconds, "local": more, "differences": wrong}
        recovered = [asdict(recovery) for recovery in recoveries]
        args.out.write_text(json.dumps({**figures, "faults": recovered}, indent=1) + "\n")
    return bool(wrong)


def _by_name(recoveries: Sequence[Recovery]) -> dict[str, list[float]]:
    """Seconds of each kind, then of each window."""
    found: dict[str, list[float]] = {}
    for recovery in recoveries:
        found.setdefault(" + ".join(recovery.kinds), []).append(recovery.seconds)
    for recovery in recoveries:
        found.setdefault(f"(all: {recovery.window or 'any moment'})", []).append(recovery.seconds)
    return found


if __name__ == "__main__":
    sys.exit(main())
