"""Methods at equal reward, beside the exact tilt: runs of a grid, a table, a picture, and who is ahead of whom.

    python -m benchmarks.tilt.front [GRID] [--only ARM ...] [--world WORLD ...] [--seeds 0 1 2] [--jobs 2] [--table]

GRID is a file as `benchmarks.methods` has them, of which each "world" is a reward; the default is front.yaml beside
this file. Runs, pictures and figures are kept: finished runs are passed over, begun ones go on. Compared are residual
nabla-DB's arms with every other where a run's path first reaches the pretrained model's reward plus .25, .5, 1 and 1.5
of its deviations within a prompt; an arm is ahead or behind where 0 is outside of the 95 % interval of the mean
difference over seeds (Student's: 4.3 standard errors for three). Writes to runs/GRID, or to --folder: table.md, the
fronts (WORLD.png), what each method pays for its reward (WORLD-costs.png), and pictures of a run of each arm at equal
reward and at its end (WORLD-pictures.png).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from benchmarks.methods.cells import check_same, failure, is_finished, run_all
from benchmarks.methods.figures import mean_and_error
from benchmarks.methods.grid import Cell, cells, load_grid
from benchmarks.signals import ended_by_sigterm, heed
from benchmarks.tilt.compare import NUMBERS, Exact
from benchmarks.tilt.equal import MEASURES, Claim, at_reward, claims
from benchmarks.tilt.paths import BETAS, IMAGES, drawn_base, exact, path_of
from benchmarks.tilt.pictures import draw_costs, draw_front, draw_sheet
from benchmarks.tilt.sheets import of_run, of_tilt
from cluster.arguments import Parser
from cluster.errors import ConfigError, sentence
from cluster.records import given
from cluster.records.files import replacing
from cluster.records.reading import Records
from cluster.text import shown
from shapes.arguments import positive

GRID = Path(__file__).with_name("front.yaml")
TARGETS = (0.25, 0.5, 1.0, 1.5)  # deviations of the reward within a prompt, above the pretrained model's
_SHOWN = (
    "gold", "tilt_gold", "diversity", "tilt_diversity", "diversity_pixels", "tilt_diversity_pixels", "distance",
    "grounds_kl", "frechet", "frechet_floor",
)  # fmt: skip
# Of a run, by iteration in order: the numbers of `Compared` by name, and "iteration".
Numbers = dict[str, list[float]]


def numbers_of(cell: Cell, tilt: Exact, each: int, folder: Path) -> Numbers:
    """The path of a finished cell; kept in the run's folder, and measured once for so many pictures."""
    kept, key = cell.run / "tilt.json", f"{len(tilt.base.reward)}/{each}"
    found: dict[str, Numbers] = json.loads(kept.read_text()) if kept.exists() else {}
    if "iteration" not in found.get(key, {}):
        path = path_of(cell.run, given.read(cell.run), cell.config, tilt, each, folder)
        rows = [{"iteration": iteration, **asdict(path[iteration])} for iteration in sorted(path)]
        found[key] = {name: [float(row[name]) for row in rows] for name in ("iteration", *NUMBERS)}
        with replacing(kept) as file:
            file.write(json.dumps(found).encode())
    return found[key]


def at_targets(
    paths: Mapping[str, Mapping[int, Numbers]], tilt: Exact
) -> dict[float, dict[str, dict[int, dict[str, float]]]]:
    """Figures at each of `TARGETS` by arm and seed, of those runs that reach it."""
    reward = tilt.at(0.0).reward
    return {
        target: {
            arm: {
                seed: found
                for seed, path in runs.items()
                if (found := at_reward(path, reward + target * tilt.deviation)) is not None
            }
            for arm, runs in paths.items()
        }
        for target in TARGETS
    }


def table(world: str, paths: Mapping[str, Mapping[int, Numbers]], tilt: Exact, ours: Sequence[str]) -> list[str]:
    """A reward's part of table.md: the figures at each target, then who is ahead of whom."""
    start, found = tilt.at(0.0), at_targets(paths, tilt)
    lines = [
        f"## {world}",
        "",
        f"The pretrained model: reward {start.reward:.3f} (deviation within a prompt {tilt.deviation:.3f}), gold "
        f"{start.gold:.3f}, diversity {start.diversity:.3f} (in pixels {start.diversity_pixels:.3f}).",
        "",
        _row("reward", "arm", "reach it", *_SHOWN),
        _row(*["---"] * (3 + len(_SHOWN))),
    ]
    for target, arms in found.items():
        for arm, runs in arms.items():
            shown_ = [_with_error([of[name] for of in runs.values()]) for name in _SHOWN]
            lines.append(_row(f"+{target:g}", arm, f"{len(runs)} of {len(paths[arm])}", *shown_))
    lines += ["", "How far residual nabla-DB is ahead of the others, in the mean of pairs of one seed:", ""]
    lines += [_row("reward", "arm", "against", "seeds", *MEASURES), _row(*["---"] * (4 + len(MEASURES)))]
    for target, arms in found.items():
        made: dict[tuple[str, str], dict[str, Claim]] = {}
        theirs = {arm: runs for arm, runs in arms.items() if arm not in ours}
        for claim in claims({arm: arms[arm] for arm in ours}, theirs):
            made.setdefault((claim.ours, claim.theirs), {})[claim.measure] = claim
        for (own, other), by in made.items():
            seeds = max(claim.seeds for claim in by.values())
            lines.append(_row(f"+{target:g}", own, other, seeds, *(_verdict(by.get(name)) for name in MEASURES)))
    return [*lines, ""]


def _row(*texts: object) -> str:
    return f"| {' | '.join(map(str, texts))} |"


def _with_error(values: Sequence[float]) -> str:
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return ""
    mean, error = mean_and_error(known)
    return f"{mean:.3f}" if np.isnan(error) else f"{mean:.3f} ± {error:.3f}"


def _verdict(claim: Claim | None) -> str:
    if claim is None:
        return ""
    error = "" if np.isnan(claim.error) else f" ± {claim.error:.3f}"
    return f"{claim.lead:+.3f}{error} {claim.verdict}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, compare and draw; returns the exit status: 1 if a run failed or is missing."""
    parser = Parser("benchmarks.tilt.front", __doc__ or "")
    parser.add_argument("grid", nargs="?", default=str(GRID), metavar="GRID", help="a file, or a grid's name")
    parser.add_argument("--only", nargs="+", metavar="ARM", help="only these arms")
    parser.add_argument("--world", nargs="+", metavar="WORLD", help="only these rewards")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="these seeds instead of the grid's")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="runs at once")
    parser.add_argument("--table", action="store_true", help="run nothing, show what is there")
    parser.add_argument("--images", type=positive, default=IMAGES, help="of the pretrained model (default: 8000)")
    parser.add_argument("--each", type=positive, default=32, help="pictures of a prompt and checkpoint (default: 32)")
    parser.add_argument("--folder", type=Path, help="where all is kept (default runs/GRID)")
    args = parser.parse_args(arguments)
    folder = args.folder or Path("runs") / Path(args.grid).stem
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
    try:
        grid = load_grid(args.grid)
        made = cells(grid, folder, args.world, args.only, args.seeds)
        for cell in made:
            check_same(cell)
        heed()
        with ended_by_sigterm():
            if not args.table:
                run_all(made, args.jobs)
            missing = compare(grid.question, made, args.images, args.each, folder)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    except Exception as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1
    return int(bool(missing))


def compare(question: str, made: Sequence[Cell], images: int, each: int, folder: Path) -> list[str]:
    """Write the table and the pictures of what is finished; returns a sentence on each run that is not."""
    lines, drawn = [question, ""], []
    for world in dict.fromkeys(cell.world for cell in made):
        runs = [cell for cell in made if cell.world == world and is_finished(cell)]
        if not runs:
            continue
        tilt, paths = exact(runs[0].config, images, folder / "pictures"), dict[str, dict[int, Numbers]]()
        for cell in runs:
            paths.setdefault(cell.arm, {})[cell.seed] = numbers_of(cell, tilt, each, folder / "pictures")
        nabla = {cell.arm for cell in runs if cell.config.objective.name.startswith("residual_nabla_db")}
        lines += table(world, paths, tilt, [arm for arm in paths if arm in nabla])
        drawn.append((runs, paths, tilt))
    missing = [f"{cell.name}: {failure(cell) or 'not finished yet.'}" for cell in made if not is_finished(cell)]
    if len(missing) == len(made):
        raise ConfigError(f"No run of the grid is finished in {folder} ({missing[0]})")
    text = "\n".join([*lines, *(f"- {line}" for line in missing)]) + "\n"
    with replacing(folder / "table.md") as file:
        file.write(text.encode())
    print(text)
    for runs, paths, tilt in drawn:
        for picture in draw_all(runs, paths, tilt, images, each, folder):
            print(f"picture: {shown(str(picture))}")
    return missing


def draw_all(
    runs: Sequence[Cell], paths: Mapping[str, Mapping[int, Numbers]], tilt: Exact, images: int, each: int, folder: Path
) -> list[Path]:
    """Write a reward's pictures; returns their files."""
    world = runs[0].world
    files = [folder / f"{world}{what}.png" for what in ("", "-costs", "-pictures")]
    curves = {
        arm: [np.array([of["reward"], of["diversity"], of["distance"]]).T for of in by_seed.values()]
        for arm, by_seed in paths.items()
    }
    draw_front([tilt.at(beta) for beta in BETAS], curves, files[0])
    draw_costs(
        {arm: [spent(cell, paths[arm][cell.seed]) for cell in runs if cell.arm == arm] for arm in paths}, files[1]
    )
    rewards = [tilt.at(0.0).reward + target * tilt.deviation for target in TARGETS]
    base, first = drawn_base(runs[0].config, images, folder / "pictures"), {cell.arm: cell for cell in reversed(runs)}
    rows = {"exact tilt": of_tilt(tilt, base, rewards)} | {
        arm: of_run(first[arm], paths[arm][first[arm].seed], rewards, each, folder / "pictures") for arm in paths
    }
    draw_sheet(rows, ["pretrained", *(f"+{target:g}" for target in TARGETS), "last batch"], files[2])
    return files


def spent(cell: Cell, path: Numbers) -> np.ndarray:
    """Reward and what was spent until there, `(checkpoints, 1 + len(COSTS))`, of those of a run where that is known."""
    found = Records(cell.run).metrics()
    of_each = dict(found["time/iteration"])
    # Of an iteration that is not on record nobody knows, nor of the sum from there on.
    seconds = {at: sum(of_each.get(of, np.nan) for of in range(1, at + 1)) for at in of_each}
    costs = dict(found["reward_queries"]), dict(found["network_evaluations"]), seconds
    known = [[of.get(int(at), np.nan) if at else 0.0 for at in path["iteration"]] for of in costs]
    rows = np.column_stack([path["reward"], *known])
    return rows[np.isfinite(rows).all(axis=1)]


if __name__ == "__main__":
    sys.exit(main())
