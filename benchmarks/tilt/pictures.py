"""What people look at: the fronts, what each method pays for its reward, and its pictures at equal reward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.tilt.compare import Tilt
from benchmarks.tilt.sheets import Shown

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

_LEAST = 20  # effective pictures of a prompt; what rests on fewer is not drawn
_GAP = 2  # pixels between pictures
COSTS = ("images that the reward judged", "evaluations of the network", "seconds, of the quickest run")


def draw_front(tilts: Sequence[Tilt], paths: Mapping[str, Sequence[np.ndarray]], file: Path) -> None:
    """Write the fronts, the tilt's among them: reward against diversity and the distance from the pretrained model.

    Args:
        tilts: Of several betas, in order.
        paths: Of each method its runs, `(checkpoints, 3)` each: reward, diversity and distance. Their mean is drawn
            too, where there are several of one length.
        file: Where to.
    """
    with _axes(2, file) as axes:
        firm = [tilt for tilt in tilts if tilt.effective >= _LEAST]
        axes[0].plot([of.reward for of in firm], [of.diversity for of in firm], "k--", label="exact tilt")
        for axis, column in zip(axes, (1, 2), strict=True):
            _draw_runs(axis, {name: [run[:, (0, column)] for run in runs] for name, runs in paths.items()})
        for axis, label in zip(axes, ("diversity within a prompt", "distance from the pretrained model"), strict=True):
            axis.set(xlabel="reward", ylabel=label)


def draw_costs(paths: Mapping[str, Sequence[np.ndarray]], file: Path) -> None:
    """Write reward against each of `COSTS`.

    Args:
        paths: Of each method its runs, `(checkpoints, 1 + len(COSTS))` each: reward, then what was spent until there.
            Every run is drawn against the seconds of its method's quickest: a machine's other work slows some of them.
        file: Where to.
    """
    with _axes(len(COSTS), file) as axes:
        for number, (axis, label) in enumerate(zip(axes, COSTS, strict=True), start=1):
            curves = {name: [run[:, (number, 0)] for run in runs] for name, runs in paths.items()}
            if number == len(COSTS):
                curves = {name: at_quickest(runs) for name, runs in curves.items()}
            _draw_runs(axis, curves)
            axis.set(xlabel=label, ylabel="reward")


def at_quickest(runs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Runs `(checkpoints, 2)` of one method, seconds and reward, with the seconds of the one that is done first.

    Where they are of different lengths, what both have; the quickest is told by its seconds from checkpoint to
    checkpoint, and a run has two at least.
    """
    quickest = min((run[:, 0] for run in runs), key=lambda seconds: seconds[-1] / (len(seconds) - 1))
    return [np.column_stack([quickest[: len(run)], run[: len(quickest), 1]]) for run in runs]


def draw_sheet(rows: Mapping[str, Sequence[Shown]], columns: Sequence[str], file: Path) -> None:
    """Write a sheet of pictures, a row a method, a column a place on its path.

    Args:
        rows: Of each method a cell a column, or of the first columns alone, with pictures `(high, wide, H, W, 3)`
            uint8 and what is written below them, or in their place.
        columns: Their names.
        file: Where to.
    """
    size = 2.6 * len(columns) + 1, 1.5 * len(rows) + 0.4  # inches
    figure, axes = plt.subplots(len(rows), len(columns), figsize=size, layout="constrained", squeeze=False)
    for axis, column in zip(axes[0], columns, strict=True):
        axis.set_title(column, fontsize="medium")
    for (name, cells), line in zip(rows.items(), axes, strict=True):
        line[0].set_ylabel(name)
        for axis in line[len(cells) :]:
            axis.set_axis_off()
        for axis, (pictures, words) in zip(line, cells, strict=False):
            axis.set(xticks=[], yticks=[])
            if pictures is None:
                axis.text(0.5, 0.5, words, ha="center", va="center", color="grey", transform=axis.transAxes)
                axis.set_frame_on(False)
            else:
                axis.imshow(_tiled(pictures), interpolation="nearest")
                axis.set_xlabel(words, fontsize="small")
    _save(figure, file)


def _tiled(cell: np.ndarray) -> np.ndarray:
    """Pictures `(high, wide, H, W, 3)` as one, with a white gap between them."""
    framed = np.pad(cell, [(0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0)], constant_values=255)
    high, wide, height, width, channels = framed.shape
    return framed.swapaxes(1, 2).reshape(high * height, wide * width, channels)[:-_GAP, :-_GAP]


@contextmanager
def _axes(count: int, file: Path) -> Iterator[np.ndarray]:
    figure, axes = plt.subplots(1, count, figsize=(6 * count, 5), layout="constrained")
    yield axes
    for axis in axes:
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize="small")
    _save(figure, file)


def _save(figure: plt.Figure, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _draw_runs(axis: Axes, methods: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Every run `(checkpoints, 2)` thin, and the mean of a method's."""
    for (name, runs), colour in zip(methods.items(), plt.colormaps["tab20"].colors, strict=False):  # type: ignore[attr-defined]
        for run in runs if len(runs) > 1 else ():
            axis.plot(run[:, 0], run[:, 1], color=colour, alpha=0.3, linewidth=1)
        shared = min(map(len, runs))
        mean = np.mean([run[:shared] for run in runs], axis=0)
        axis.plot(mean[:, 0], mean[:, 1], marker=".", color=colour, label=name)
