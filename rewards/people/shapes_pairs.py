"""Makes a dataset of pairs of the embedded world, of any size:

    python -m rewards.people.shapes_pairs FOLDER --rows 20000 --held-out 1000 --ties .1 --corrupt .02

Of each caption one picture is true and the other wrong in a fact, and the true one is labelled the better; of a tie
both are true. Corrupt rows have a picture that breaks off, no picture, no caption, or a label that is none. A row is a
function of the seed, the split and its number.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rewards.people.pick_a_pic import TIE, Pair, encode, write
from shapes.arguments import Parser, positive, share
from shapes.captions import Caption, sample_caption
from shapes.near_miss import corrupt as near_miss
from shapes.render import render
from shapes.worlds import FIRST, WORLDS, World

_IN_A_FILE = 10_000  # rows
TRAIN, HELD_OUT = "train", "validation"  # splits


def make_pair(
    row: int,
    seed: int = 0,
    split: str = TRAIN,
    *,
    ties: float = 0.0,
    mistakes: float = 0.0,
    corrupt: float = 0.0,
    world: World = FIRST,
) -> Pair:
    """One row.

    Args:
        row: Its number.
        seed, split: Of the dataset.
        ties: Probability of a tie.
        mistakes: That the wrong picture is labelled the better, where it is no tie.
        corrupt: That the row cannot be read.
        world: Whose captions and pictures they are.
    """
    rng = random.Random(f"{seed} {split} {row}")
    caption, tied = sample_caption(rng, world=world), rng.random() < ties
    pictures = [encode(render(shown, rng)) for shown in (caption, caption if tied else _another(caption, rng))]
    label = TIE if tied else float(rng.random() >= mistakes)
    if rng.random() < 0.5:
        pictures.reverse()
        label = 1 - label
    pair = Pair(caption.text, (pictures[0], pictures[1]), label)
    return _spoilt(pair, rng) if rng.random() < corrupt else pair


def _another(caption: Caption, rng: random.Random) -> Caption:
    """A caption that says something else, in one fact most of the time."""
    while True:
        other = near_miss(caption, rng)
        if _facts(other) != _facts(caption):
            return other


def _facts(caption: Caption) -> tuple[Counter, str | None, str | None]:
    return Counter(caption.things), caption.place, caption.background


def _spoilt(pair: Pair, rng: random.Random) -> Pair:
    first, second = pair.pictures
    ways = (
        replace(pair, pictures=(first, second[: len(second) // 2])),
        replace(pair, pictures=(b"", second)),
        replace(pair, caption=""),
        replace(pair, label=1.5),
    )
    return rng.choice(ways)


def write_split(folder: Path, split: str, pairs: Iterator[Pair], rows: int) -> None:
    """Write the files `<split>-<number>-of-<files>.parquet` of so many rows.

    Raises:
        OSError: If they cannot be written.
    """
    files = -(-rows // _IN_A_FILE)
    others = [path.name for path in folder.glob(f"{split}-*.parquet") if not path.stem.endswith(f"-of-{files:05d}")]
    if others:
        raise FileExistsError(f"{others[0]} is of another dataset; take another folder")
    for number in range(files):
        count = min(_IN_A_FILE, rows - number * _IN_A_FILE)
        path = folder / f"{split}-{number:05d}-of-{files:05d}.parquet"
        write(path, (next(pairs) for _ in range(count)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what the command line asks for; returns the exit status."""
    parser = Parser("rewards.people.shapes_pairs", __doc__ or "")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the Parquet files go")
    parser.add_argument("--rows", type=positive, default=20_000, metavar="N", help="to train on (default 20000)")
    parser.add_argument(
        "--held-out", type=positive, default=0, metavar="N", help=f"of the split {HELD_OUT} (default 0)"
    )
    parser.add_argument("--ties", type=share, default=0.0, metavar="SHARE", help="both pictures are true (default 0)")
    parser.add_argument("--mistakes", type=share, default=0.0, metavar="SHARE", help="the label is wrong (default 0)")
    parser.add_argument("--corrupt", type=share, default=0.0, metavar="SHARE", help="cannot be read (default 0)")
    parser.add_argument("--world", choices=WORLDS, default=FIRST.name, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    shares = {"ties": args.ties, "mistakes": args.mistakes, "corrupt": args.corrupt, "world": WORLDS[args.world]}
    for split, rows in ((TRAIN, args.rows), (HELD_OUT, args.held_out)):
        try:
            write_split(args.folder, split, (make_pair(row, args.seed, split, **shares) for row in range(rows)), rows)
        except OSError as error:
            print(f"error: {args.folder} cannot be written to ({error}).", file=sys.stderr)
            return 1
    print(f"{args.rows + args.held_out:,} pairs: {args.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
