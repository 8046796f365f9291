"""Judge runs, checkpoints and models by any rewards, against the base model at equal seeds; by actors, resumable.

    python -m cluster.evaluate RUN [RUN|CHECKPOINT|MODEL ...] --rewards pickscore hpsv2 --features clip

Each model draws the same prompts from the same noise, and every reward judges every picture: mean, share of wins
against the base model, and, in features of choice, diversity within a prompt and distance from the base model. The
figures are in evaluation.json, the scores of each picture in evaluation.parquet (docs/evaluation.md). What has been
drawn or judged stays in the folder: the same command goes on, and one of more models or rewards adds them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from pyarrow import parquet
from rich.console import Console
from rich.logging import RichHandler

from cluster import local
from cluster.arguments import Parser
from cluster.config.sentences import of_rule
from cluster.counting import counting
from cluster.crew.placement import Placement
from cluster.crew.reservation import on_cluster
from cluster.errors import ConfigError, sentence
from cluster.matrix.asking import Matrix, ask
from cluster.matrix.figures import figures, fronts, samples
from cluster.matrix.implicit import Pairs, implicit_accuracies
from cluster.matrix.shown import tables, write_fronts, write_grid
from cluster.matrix.store import Store
from cluster.matrix.working import work
from cluster.records.files import replacing
from cluster.records.reading import CONFIG
from cluster.stopping import Stopped, deferred
from cluster.text import ShownFormatter, counted, shown
from rewards.people.pick_a_pic import read_index
from shapes.arguments import positive


def evaluate(matrix: Matrix, out: Path, console: Console, together: bool) -> dict[str, Any]:
    """Draw, judge and write down; returns what `evaluation.json` says.

    Args:
        matrix: What is drawn and judged.
        out: The folder.
        console: For the progress.
        together: Whether this machine alone works, in place of the cluster that this process belongs to.

    Raises:
        StartError, ActorsLost, RewardUnavailable, WriteError, Stopped: As `cluster.matrix.working`.
    """
    store, placed = Store(out), list[Placement]()

    def place() -> Placement:
        if not placed:
            console.print("Ray starts ...", markup=False, highlight=False)
            placed.append(local.place(matrix.config) if together else on_cluster(matrix.config))
        return placed[0]

    with counting(console, "steps") as count:
        work(matrix.config, place, store, matrix.draws, matrix.columns, count)
    with counting(console, "models, figures") as count:
        records = figures(store, matrix.entries, matrix.columns, matrix.shape, count)
    if matrix.pairs is not None:
        with counting(console, "models, pairs") as count:
            found = implicit_accuracies(place, store, matrix.entries, matrix.pairs, count)
        records = [
            {**r, "implicit_accuracy": found[r["model"]]} if r["model"] in found else r for r in records
        ]  # fmt: skip
    result = {**matrix.facts, "models": records, "fronts": fronts(records)}
    with replacing(out / "evaluation.parquet") as file:
        parquet.write_table(samples(store, matrix.entries, matrix.columns), file)
    with replacing(out / "evaluation.json") as file:
        file.write(json.dumps(result, indent=2).encode())
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate what the command line names; returns the exit status."""
    args = _parse(arguments)
    console = Console(emoji=False, stderr=args.json)
    handler = RichHandler(console=console, show_path=False)
    handler.setFormatter(ShownFormatter("%(message)s"))
    logging.basicConfig(level="WARNING", handlers=[handler])
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    status, last = 0, ""
    try:
        with deferred():
            try:
                pairs = None if args.pairs is None else Pairs(args.pairs, args.split, args.most_pairs, args.states)
                if pairs is not None:
                    _check_dataset(pairs)
                elif args.split is not None:
                    raise ConfigError("--split is of a dataset; name it with --pairs, or leave --split out.")
                matrix = ask(
                    args.words,
                    prompts=args.prompts,
                    most=args.most,
                    samples=args.samples,
                    seed=args.seed,
                    rewards=args.rewards,
                    features=args.features,
                    crossed=args.variance,
                    pairs=pairs,
                    every=args.all,
                    average=args.ema,
                )
                out = args.out or Path("evaluations") / matrix.name
                _check_folder(out)
                result = evaluate(matrix, out, console, not args.cluster)
                wide = Console(emoji=False, width=max(console.width, 100))
                if args.json:
                    print(json.dumps(result))
                else:
                    for table in tables(result):
                        wide.print(table)
                written = [out / "evaluation.json", out / "evaluation.parquet"]
                written += filter(None, [write_fronts(out / "fronts.png", result)])
                written.append(write_grid(out / "grid.png", Store(out), matrix.entries))
                said = f"{counted(len(matrix.entries), 'model')}, {counted(matrix.pictures, 'picture')} of each"
                lines = f"{said}: {', '.join(map(str, written))}"
                console.print(shown(lines), markup=False, highlight=False, soft_wrap=True)
            finally:
                ray.shutdown()
    except (Stopped, KeyboardInterrupt) as stop:
        number = stop.signal if isinstance(stop, Stopped) else signal.SIGINT
        status, last = 128 + number, f"stopped by {number.name}; the same command goes on"
    except (Exception, SystemExit) as error:
        status, last = 1, f"error: {sentence(error)}"
    if last:
        print(last, file=sys.stderr)
    return status


def _check_dataset(pairs: Pairs) -> None:
    try:
        read_index(pairs.dataset, pairs.split)
    except ValueError as error:
        raise ConfigError(of_rule(str(error))) from error


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; name a folder with --out.")
    if (out / CONFIG).exists():
        raise ConfigError(f"{out} is a run; name another folder with --out.")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("cluster.evaluate", (__doc__ or "").strip())
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN|CHECKPOINT|MODEL|key=value",
        help="what is judged; and settings: of the policy such as guidance=3, of rewards such as "
        "rewards.clip.options.model=FOLDER, of samplers.*, reward_actors.* and failures.*",
    )
    parser.add_argument("--prompts", metavar="FILE", help="as prompts.train; the run's held-out prompts, or its others")
    parser.add_argument("--most", type=positive, metavar="N", help="ask for so many of the prompts at most")
    parser.add_argument("--samples", type=positive, default=8, metavar="N", help="of each prompt (default 8)")
    parser.add_argument("--seed", type=_seed, help="of the noise; the run's, or 0")
    parser.add_argument("--rewards", nargs="+", default=[], metavar="NAME", help="beside those of the runs")
    parser.add_argument(
        "--features", nargs="+", default=None, metavar="NAME", help="rewards whose features are measured in"
    )
    parser.add_argument(
        "--variance",
        nargs=2,
        type=positive,
        metavar=("NOISES", "CHAINS"),
        help="also split each reward's variance: every prompt from so many initial noises, each so many times",
    )
    parser.add_argument("--pairs", type=Path, metavar="DATASET", help="also the accuracy of implicit rewards on these")
    parser.add_argument("--split", help="of the dataset")
    parser.add_argument("--most-pairs", type=positive, default=500, metavar="N", help="rows that are read (500)")
    parser.add_argument("--states", type=positive, default=10, metavar="N", help="timesteps of each picture (10)")
    parser.add_argument("--all", action="store_true", help="every checkpoint that a run keeps, not its newest alone")
    parser.add_argument("--ema", action="store_true", help="take the exponential average of the weights")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: evaluations/NAME")
    parser.add_argument("--cluster", action="store_true", help="on the Ray cluster that this job was submitted to")
    parser.add_argument("--json", action="store_true", help="print what evaluation.json says, and nothing else")
    args = parser.parse_intermixed_args(arguments)
    for option in ("rewards", "features"):  # which take settings that stand behind them for names
        given = getattr(args, option) or []
        args.words += [word for word in given if "=" in word]
        if given:
            setattr(args, option, [word for word in given if "=" not in word])
    return args


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**32):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is no whole number from 0 to 4,294,967,295")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
