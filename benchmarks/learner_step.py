"""What a learner's step costs, beside the same step by other code: both in turns, in one run.

    python -m benchmarks.learner_step [config.yaml] [key=value ...] --against COMMIT_OR_FOLDER

Each of two processes samples one batch without Ray, keeps it, and takes optimizer steps on it when it is told: one with
this checkout's code and configuration, one with those of a commit, or of a folder that holds another checkout. So a
file that both have is read as each has it. `prompts.*` say how many images a batch has. A step is that of a run on a
fresh batch, but at a learning rate of 0, so that the policy stays the one that drew it. The first two of each count for
nothing (caches, checks of the ratios); of the others the medians are printed, with the network evaluations of a trained
transition.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cluster.arguments import Parser
from cluster.errors import ConfigError
from cluster.text import shown

ROOT = Path(__file__).parents[1]
ROUNDS = 3


class Worker:
    """A process that takes steps, see `benchmarks/step_worker.py`.

    Args:
        checkout: Whose code and configuration.
        words: What to train, as on a command line.
    """

    def __init__(self, checkout: Path, words: Sequence[str]) -> None:
        script = str(Path(__file__).parent / "step_worker.py")
        self._process = subprocess.Popen(
            [sys.executable, "-P", script, *words],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def step(self) -> dict[str, float]:
        """Take one; returns `seconds`, and how many `images`, `transitions` and `evaluations` of the network it took.

        Raises:
            ConfigError: If the process has ended, having said why.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("step\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        for line in self._process.stdout:
            if line.startswith("step "):
                return json.loads(line.removeprefix("step "))
        raise ConfigError(f"A process that was to take steps has ended with status {self._process.wait()}.")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def checkout(source: str, folder: Path) -> Path:
    """The code of a commit, written into a folder; or the folder that `source` is.

    Raises:
        ConfigError: If there is neither, or the folder holds no checkout.
    """
    if Path(source).is_dir():
        if not (Path(source) / "actors" / "policy.py").is_file():  # this checkout's would be taken in its place
            raise ConfigError(f"{shown(source)} holds no checkout; name a commit, or a folder with one.")
        return Path(source).resolve()
    archive = subprocess.run(["git", "-C", ROOT, "archive", source], capture_output=True, check=False)
    if archive.returncode:
        raise ConfigError(f"There is neither a folder nor a commit {shown(source)}.")
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return folder


def compare(words: Sequence[str], against: str) -> None:
    """Measure in turns, and print."""
    with tempfile.TemporaryDirectory() as folder:
        other = checkout(against, Path(folder))
        workers = {"this": Worker(ROOT, words), "other": Worker(other, words)}
        try:
            found: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
            for _ in range(1 + ROUNDS):
                for name, worker in workers.items():
                    found[name].append(worker.step())
        finally:
            for worker in workers.values():
                worker.close()
    seconds = {name: statistics.median(step["seconds"] for step in steps[1:]) for name, steps in found.items()}
    for name, steps in found.items():
        last = steps[-1]
        print(
            f"{name:6s} {seconds[name]:.2f} s a step on a batch of {last['images']:.0f} images: "
            f"{last['transitions']:.0f} transitions, {1000 * seconds[name] / last['transitions']:.1f} ms and "
            f"{last['evaluations'] / last['transitions']:.2f} network evaluations each"
        )
    each = {name: seconds[name] / steps[-1]["transitions"] for name, steps in found.items()}
    ratios = [found["this"] / found["other"] for found in (seconds, each)]
    print(f"this / other: {ratios[0]:.2f} a step, {ratios[1]:.2f} a transition")


def main() -> None:
    """The command line."""
    parser = Parser("benchmarks.learner_step", __doc__ or "")
    parser.add_settings()
    parser.add_argument("--against", required=True, help="a commit, or a folder with another checkout")
    args = parser.parse_args()
    try:
        compare(args.settings, args.against)
    except ConfigError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
