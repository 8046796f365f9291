"""How long the commands that read take on a long run, and how large their pages are.

    python -m benchmarks.pages [--iterations 1000] [--rounds 5]

Writes a made-up run of so many iterations, evaluated after every tenth, and one of another seed; then starts each
command in a process of its own and prints the median seconds from its start to its end, and of the processor, which are
the same on a machine that has nothing else to do.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.arguments import Parser
from cluster.config import load_config
from shapes.arguments import positive
from tests.support.made_up_run import make_up


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit status."""
    parser = Parser("benchmarks.pages", __doc__ or "")
    parser.add_argument("--iterations", type=positive, default=1000, help="of the run (1000)")
    parser.add_argument("--rounds", type=positive, default=5, help="of each command (5)")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(2):
            words = [f"folder={folder}/seed-{seed}", "name=long", f"seed={seed}", f"iterations={args.iterations}"]
            make_up(load_config(None, words), tuple(range(0, args.iterations + 1, 10)), cell=96)
        run, page = f"{folder}/seed-0/long", f"{folder}/compare.html"
        commands = {
            "cluster.report RUN": ["cluster.report", run],
            "cluster.report RUN --json": ["cluster.report", run, "--json"],
            "cluster.compare RUN": ["cluster.compare", run, "--out", page],
            "cluster.compare RUN RUN": ["cluster.compare", run, f"{folder}/seed-1/long", "--out", page],
            "cluster.compare RUN --json": ["cluster.compare", run, "--json"],
            "cluster.list": ["cluster.list"],
            "cluster.list runs FOLDER": ["cluster.list", "runs", f"{folder}/seed-0"],
            "cluster.list settings": ["cluster.list", "settings"],
        }
        for name, words in commands.items():
            passed, worked = zip(*(_seconds(words) for _ in range(args.rounds)), strict=True)
            line = f"{statistics.median(passed):.2f} s   processor {statistics.median(worked):.2f} s"
            print(f"{name:28s} {line}", flush=True)
        for path in (Path(run) / "report.html", Path(page)):
            print(f"{path.name:28s} {path.stat().st_size / 1e6:.2f} MB")
    return 0


def _seconds(words: Sequence[str]) -> tuple[float, float]:
    """How long a command takes: from start to end, and of the processor."""
    began, before = time.monotonic(), os.times()
    subprocess.run([sys.executable, "-m", *words], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    worked = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - began, worked


if __name__ == "__main__":
    sys.exit(main())
