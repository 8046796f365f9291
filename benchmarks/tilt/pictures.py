"""The fronts: reward against diversity and against the distance from the pretrained model, the tilt's among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.tilt.compare import Tilt

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_LEAST = 20  # effective pictures of a prompt; what rests on fewer is not drawn


def draw_front(tilts: Sequence[Tilt], paths: Mapping[str, Sequence[np.ndarray]], file: Path) -> None:
    """Write the picture.

    Args:
        tilts: Of several betas, in order.
        paths: Of each method its runs, `(checkpoints, 3)` each: reward, diversity and distance. Their mean is drawn
            too, where there are several of one length.
        file: Where to.
    """
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    firm = [tilt for tilt in tilts if tilt.effective >= _LEAST]
    axes[0].plot([of.reward for of in firm], [of.diversity for of in firm], "k--", label="exact tilt")
    for (name, runs), colour in zip(paths.items(), plt.colormaps["tab20"].colors, strict=False):  # type: ignore[attr-defined]
        for axis, column in zip(axes, (1, 2), strict=True):
            for run in runs if len(runs) > 1 else ():
                axis.plot(run[:, 0], run[:, column], color=colour, alpha=0.3, linewidth=1)
            shared = min(map(len, runs))
            mean = np.mean([run[:shared] for run in runs], axis=0)
            axis.plot(mean[:, 0], mean[:, column], marker=".", color=colour, label=name)
    for axis, label in zip(axes, ("diversity within a prompt", "distance from the pretrained model"), strict=True):
        axis.set(xlabel="reward", ylabel=label)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize="small")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)
