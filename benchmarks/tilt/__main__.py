"""The exact answer for pictures: the tilt's whole front, and checkpoints of runs beside it at equal reward.

    python -m benchmarks.tilt [config.yaml] [key=value ...] [--images 8000] [--betas 0 0.5 1 2]
    python -m benchmarks.tilt --runs RUN ... [--each 32]

The pretrained model draws the pictures for the training prompts, once: parts are kept in --folder, and what was
stopped goes on. Each is weighted by exp(beta r) within its prompt, with r the weighted sum of the rewards, which is
what objectives with a target see. With --runs, r and all else are the first run's, and each kept checkpoint of each run
is drawn and put beside the tilt that has its reward. Writes front.png to --folder.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.tilt.compare import Compared, Tilt
from benchmarks.tilt.judging import ground_names, world_of
from benchmarks.tilt.paths import BETAS, IMAGES, exact, path_of
from benchmarks.tilt.pictures import draw_front
from cluster.arguments import Parser
from cluster.config import Config, load_words
from cluster.errors import ConfigError, sentence
from cluster.records import given
from cluster.text import shown
from shapes.arguments import positive


def _table(config: Config, tilts: Sequence[Tilt]) -> Table:
    names = ground_names(world_of(config))
    table = Table("beta", "reward", "gold", *names, "diversity", "in pixels", "effective", "least")
    for tilt in tilts:
        numbers = (tilt.reward, tilt.gold, *tilt.shares, tilt.diversity, tilt.diversity_pixels)
        table.add_row(
            f"{tilt.beta:g}", *(f"{of:.3f}" for of in numbers), f"{tilt.effective:,.0f}", f"{tilt.least:,.0f}"
        )
    return table


def _beside(config: Config, paths: Mapping[str, Mapping[int, Compared]]) -> Table:
    names = ground_names(world_of(config))
    table = Table(
        "run", "batches", "reward", "beta", "effective", "gold", "tilt's", *names, "KL", "diversity", "tilt's",
        "in pixels", "tilt's", "distance", "Frechet", "by chance",
    )  # fmt: skip
    for run, path in paths.items():
        for iteration, of in path.items():
            numbers = (
                of.gold, of.tilt_gold, *of.shares, of.grounds_kl, of.diversity, of.tilt_diversity,
                of.diversity_pixels, of.tilt_diversity_pixels, of.distance, of.frechet, of.frechet_floor,
            )  # fmt: skip
            table.add_row(
                escape(run), str(iteration), f"{of.reward:.3f}", f"{of.beta:.2f}", f"{of.effective:,.0f}",
                *(f"{number:.3f}" for number in numbers),
            )  # fmt: skip
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, weigh, print; returns the exit status."""
    parser = Parser("benchmarks.tilt", __doc__ or "")
    parser.add_settings()
    parser.add_argument("--images", type=positive, default=IMAGES, help="of the pretrained model (default: 8000)")
    parser.add_argument("--betas", type=float, nargs="+", default=BETAS, metavar="BETA")
    parser.add_argument("--runs", type=Path, nargs="+", metavar="RUN", default=[], help="folders of runs")
    parser.add_argument("--each", type=positive, default=32, help="pictures of a prompt and checkpoint (default: 32)")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/tilt"), help="where pictures are kept (default: runs/tilt)"
    )
    args = parser.parse_args(arguments)
    try:
        if args.runs and args.settings:
            raise ConfigError("With --runs the settings are the first run's; leave the others out.")
        configs = [given.read(run) for run in args.runs] or [load_words(args.settings)]
        tilt = exact(configs[0], args.images, args.folder)
        tilts = [tilt.at(beta) for beta in sorted(args.betas)]
        paths = {
            run.name: path_of(run, config, configs[0], tilt, args.each, args.folder)
            for run, config in zip(args.runs, configs, strict=bool(args.runs))
        }
    except Exception as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1
    console = Console(width=None if Console().is_terminal else 200)
    console.print(_table(configs[0], tilts))
    print(f"The reward's deviation within a prompt is {tilt.deviation:.3f}, over {len(tilt.base.reward):,} pictures.")
    if paths:
        console.print(_beside(configs[0], paths))
    curves = {run: [(of.reward, of.diversity, of.distance) for of in path.values()] for run, path in paths.items()}
    picture = args.folder / "front.png"
    draw_front(tilts, {run: [np.array(curve)] for run, curve in curves.items()}, picture)
    print(f"picture: {shown(str(picture))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
