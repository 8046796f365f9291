"""All runs of a grid, one beside the other: a table and a picture of what each arm gained and what it cost.

    python -m benchmarks.methods [GRID] [--only ARM ...] [--world WORLD ...] [--seeds 0 1 2] [--jobs 2] [--table]

GRID is a file, or one of benchmarks/methods/grids: methods (the default), ablations, adapted_steps, claims, flow_twin,
likelihood, search, steps. It may run for hours and be broken off: finished runs are passed over, begun ones go on.
What fails is named in the table.
The runs, the table (table.md) and the pictures (WORLD.png, curves/ARM.png) are in runs/GRID, or in --folder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from benchmarks.methods.cells import check_same, run_all
from benchmarks.methods.curves import draw_curves
from benchmarks.methods.grid import cells, load_grid
from benchmarks.methods.table import collect, draw, write
from benchmarks.signals import ended_by_sigterm, heed
from cluster.arguments import Parser
from cluster.errors import ConfigError, sentence
from cluster.text import shown
from shapes.arguments import positive


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print and draw; returns the exit status: 1 if a run failed or is missing."""
    parser = Parser("benchmarks.methods", __doc__ or "")
    parser.add_argument("grid", nargs="?", default="methods", metavar="GRID", help="a file, or a grid's name")
    parser.add_argument("--only", nargs="+", metavar="ARM", help="only these arms")
    parser.add_argument("--world", nargs="+", metavar="WORLD", help="only these worlds")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="these seeds instead of the grid's")
    parser.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help="runs at once; several have a thread each"
    )
    parser.add_argument("--table", action="store_true", help="run nothing, show what is there")
    parser.add_argument("--folder", type=Path, help="where the runs are (default runs/GRID)")
    args = parser.parse_args(arguments)
    folder = args.folder or Path("runs") / Path(args.grid).stem
    try:
        grid = load_grid(args.grid)
        made = cells(grid, folder, args.world, args.only, args.seeds)
        for cell in made:
            check_same(cell)
    except ConfigError as error:
        print(f"error: {shown(str(error))}", file=sys.stderr)
        return 1
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
    torch.set_num_threads(1)  # beside runs
    try:
        heed()
        with ended_by_sigterm():
            if not args.table:
                run_all(made, args.jobs)
            results, missing = collect(made)
            write(grid, results, missing, folder)
            draw(results, folder)
            draw_curves(made, folder)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    except Exception as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
