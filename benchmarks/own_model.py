"""The page *your own model and reward* (docs/your_own.md), done as a new user would: its files, its command.

Writes the page's files to a folder, makes the foreign world's pipeline there unless it is there already, trains with
the page's YAML, and says by how many of its deviations within a prompt the reward rose. The foreign world's own judge
watches with weight 0: nothing is trained on it, so it tells whether the reward was met in the way that was meant.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from cluster.arguments import Parser

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "your_own.md"
_JUDGE = "benchmarks.foreign_world.judge:judge"


def page_files() -> dict[str, str]:
    """The files that the page shows, by name: its code blocks that have a title."""
    return dict(re.findall(r'^```\w* title="([^"]+)"\n(.*?)^```$', PAGE.read_text(), flags=re.DOTALL | re.MULTILINE))


def write_files(folder: Path) -> None:
    """Write them to a folder, as the page's reader would."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in page_files().items():
        (folder / name).write_text(text)


def run(folder: Path, *words: str) -> None:
    """Run `python ARGUMENTS` in a folder, and end as it does if it fails: it has said why."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run([sys.executable, *words], cwd=folder, env=os.environ | {"PYTHONPATH": path})
    if done.returncode:
        sys.exit(done.returncode)


def change(samples: Path, reward: str) -> tuple[float, float, float]:
    """Mean of a reward over the training prompts' evaluation before and after a run, and its deviation within a prompt.

    Args:
        samples: A run's `samples.parquet`.
        reward: Its name there.

    Returns:
        Before, after, and the standard deviation before, pooled over the prompts.
    """
    table = pq.read_table(samples, filters=[("split", "=", "train")])
    iterations, prompts, scores = (table[name].to_numpy() for name in ("iteration", "prompt_index", reward))
    first, last = iterations == iterations.min(), iterations == iterations.max()
    within = np.mean([scores[first & (prompts == prompt)].var(ddof=1) for prompt in np.unique(prompts)])
    return float(scores[first].mean()), float(scores[last].mean()), float(np.sqrt(within))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser("benchmarks.own_model", __doc__ or "")
    parser.add_argument("folder", type=Path, help="where the files, the model and the run are put")
    parser.add_argument("overrides", nargs="*", help="settings other than the page's, such as learner.lr=1e-4")
    args = parser.parse_args(arguments)

    write_files(args.folder)
    if not (args.folder / "my_model" / "model_index.json").exists():
        run(args.folder, "-m", "benchmarks.foreign_world", "my_model")
    started = time.monotonic()
    name = f"own-{int(time.time())}"
    judge = [f"rewards.judge.kind={_JUDGE}", "rewards.judge.weight=0"]
    run(args.folder, "-m", "cluster.local", "my.yaml", f"name={name}", *judge, *args.overrides)
    seconds = time.monotonic() - started
    place = args.folder / "runs" / name
    for reward in ("named_colours", "judge"):
        before, after, within = change(place / "samples.parquet", reward)
        print(f"{reward}: {before:.3f} to {after:.3f}, {(after - before) / within:+.2f} deviations within a prompt")
    print(f"{seconds:.0f} s; the report is {place / 'report.html'}")


if __name__ == "__main__":
    main()
