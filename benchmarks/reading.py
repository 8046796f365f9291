"""How busy a dataset keeps the learner, and what reading takes of memory and time.

    python -m benchmarks.reading [config.yaml] [key=value ...]      a run on rendered pairs (default: shapes_dataset)
    python -m benchmarks.reading --rows 1000000                     rows read and decoded, without a model

The first carries out a run, on a dataset that it renders where the settings give none, and prints the share of the time
between two updates that the learner was at work (`busy/learner`). The second writes so many rows in files of 100,000,
of a thousand that are rendered, reads them in a run's order in this process, and prints after each tenth the rows, the
resident memory over that of the first tenth, and rows a second over those of the first tenth.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

import psutil

from cluster.arguments import Parser
from cluster.local import place
from cluster.records.reading import Records
from cluster.run import main as run
from cluster.sources.pairs import Rows
from cluster.sources.shuffle import Shuffle
from rewards.people.pick_a_pic import Pair, read_index, write
from rewards.people.shapes_pairs import TRAIN, make_pair, write_split
from shapes.arguments import positive

CONFIG = Path(__file__).parents[1] / "configs" / "shapes_dataset.yaml"
_PAIRS, _IN_A_FILE, _DRAWN, _AT_ONCE = 20_000, 100_000, 1000, 32


def keep_busy(words: Sequence[str], folder: Path) -> dict[str, float]:
    """Carry out a run; returns the median and the least of `busy/learner`, and of the samplers.

    Args:
        words: Of the command line; without a `data.path` pairs are rendered.
        folder: For pairs and run.
    """
    given = words and "=" not in words[0]
    settings = [*(words if given else [str(CONFIG), *words]), f"folder={folder}", "name=reading"]
    if not any(word.startswith("data.path=") for word in words):
        pairs = (make_pair(row, ties=0.1, corrupt=0.01) for row in range(_PAIRS))
        write_split(folder / "pairs", TRAIN, pairs, _PAIRS)
        settings += [f"data.path={folder / 'pairs'}", "data.split=train"]
    if status := run("python -m benchmarks.reading", __doc__ or "", place, settings):
        sys.exit(status)
    metrics = Records(folder / "reading").metrics()
    busy = [value for _, value in metrics["busy/learner"]]
    readers = statistics.median(value for _, value in metrics["busy/samplers"])
    return {"learner, median": statistics.median(busy), "learner, least": min(busy), "samplers, median": readers}


def read_all(rows: int, folder: Path) -> Iterator[tuple[int, int, float]]:
    """Write rows, and read them once: after each tenth the rows so far, resident bytes, and seconds of that tenth."""
    drawn = [make_pair(row, ties=0.1, corrupt=0.01) for row in range(min(rows, _DRAWN))]
    pairs: Iterator[Pair] = cycle(drawn)
    for number in range(-(-rows // _IN_A_FILE)):
        write(folder / f"{number:05d}.parquet", islice(pairs, min(_IN_A_FILE, rows - number * _IN_A_FILE)))
    index, process = read_index(folder), psutil.Process()
    order, tenth, began = Shuffle(index.sizes, 0), max(1, rows // 10), time.monotonic()
    for start in range(0, rows, _AT_ONCE):
        stop = min(start + _AT_ONCE, rows)
        pieces = tuple(
            (index.files[index.groups[group][0]], index.groups[group][1], own) for group, own in order.take(start, stop)
        )
        Rows(0, start // _AT_ONCE, 0, pieces, True, True)(lambda prompts: [True] * len(prompts))
        if start // tenth != stop // tenth:
            yield stop, process.memory_info().rss, time.monotonic() - began
            began = time.monotonic()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; returns the exit status."""
    parser = Parser("benchmarks.reading", __doc__ or "")
    parser.add_settings()
    parser.add_argument("--rows", type=positive, help="read so many rows, without a model")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if not args.rows:
            for name, share in keep_busy(args.settings, Path(folder)).items():
                print(f"busy, {name}: {share:.3f}")
            return 0
        first: tuple[int, float] | None = None
        for rows, memory, seconds in read_all(args.rows, Path(folder)):
            first = first or (memory, seconds)
            print(f"{rows:>12,} rows   memory {memory / first[0]:.3f}   speed {first[1] / seconds:.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
