"""Whether a few hundred choices move a policy towards a taste, live and through a reward that is fitted to them.

    python -m benchmarks.taste [--seeds 0 1 2] [--out runs/taste] [--fit-at 100 200 300]

The rater has a taste of its own, which no reward of ours has: small warm shapes on grey, a rule that is computed from
the picture (`tests/support/taste.py`, 0 to 3). It answers over HTTP on the page of `cluster.label`, as a browser would.
Of each seed are run

    live            configs/shapes_people.yaml: PPOD on the choices as they come, in rounds
    rule, in pairs  the same, but that the rule itself scores the pictures
    fitted          rewards.fit on the first so many of the same choices, and a run of its own for each with that reward
    rule            the run of `fitted` with the rule itself as its reward

Taste is the rule's mean over evaluations: fixed prompts, with seeds that are never trained on, and prompts that are
never trained on. What is finished is not run again, and what was broken off goes on. Writes taste.png and taste.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import yaml

from benchmarks.labelling import page
from benchmarks.signals import ended_by_sigterm
from cluster.arguments import Parser
from cluster.records.reading import CONFIG, Records
from rewards.people import choices
from rewards.people.export import export
from shapes.arguments import positive
from tests.support.rater import Rater

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LIVE = Path(__file__).parents[1] / "configs" / "shapes_people.yaml"
TRAIN = (
    "a red circle", "an orange square", "a yellow star", "a green triangle", "a blue circle", "a purple square",
    "two red squares", "two blue stars", "a red star and a blue square", "a green circle and an orange triangle",
)  # fmt: skip
HELD_OUT = (
    "a red triangle",
    "a blue square",
    "a purple star",
    "two orange circles",
    "a yellow square and a green star",
)
FEATURES = "shapes_reading"
TASTE = {"kind": "tests.support.taste:likings"}
# Of the runs that need no people, so that a batch is large and pairs are many.
MANY = {"iterations": 12, "prompts": {"per_iteration": 10, "samples": 12}, "samplers": {"request_size": 60}}
Curve = dict[int, dict[str, float]]  # by choices: each figure of an evaluation


class Seed:
    """The runs of one seed.

    Args:
        folder: Of all of them.
        seed: It is.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self._seed = folder, seed
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "train.txt").write_text("\n".join(TRAIN))
        (folder / "held_out.txt").write_text("\n".join(HELD_OUT))

    def live(self) -> Curve:
        """PPOD on choices as they are made."""
        settings = yaml.safe_load(LIVE.read_text())
        command, run = self._command("live", settings, {"people": settings["rewards"]["people"]}), self.folder / "live"
        process = subprocess.Popen(command)
        try:
            while process.poll() is None and not (run / CONFIG).is_file():
                time.sleep(0.2)
            if not (run / CONFIG).is_file():
                sys.exit(f"error: {run} did not begin.")
            with page(run, run / "people") as address, Rater(address, "rater"):
                status = process.wait()
        finally:
            process.terminate()
            process.wait()
        if status:
            sys.exit(f"error: {run} ended with status {status}.")
        return self._curve("live", settings["prompts"]["per_iteration"])

    def rule_in_pairs(self) -> Curve:
        """The same budget of pairs, without ties and mistakes of any rater."""
        settings = yaml.safe_load(LIVE.read_text())
        self._carry_out("rule-in-pairs", settings, {"taste": TASTE})
        return self._curve("rule-in-pairs", settings["prompts"]["per_iteration"])

    def fitted(self, count: int) -> dict[str, float]:
        """A run with a reward that is fitted to the first so many choices of `live`."""
        out, made = self.folder / f"reward-{count}", choices.read(self.folder / "live" / "people")
        if not out.exists():
            pairs = self.folder / f"pairs-{count}"
            if not pairs.exists():
                export(self.folder / "live" / "people", made[:count], pairs)
            fit = [sys.executable, "-m", "rewards.fit", str(pairs), "--features", FEATURES, "--out", str(out)]
            subprocess.run(fit, check=True)
        self._carry_out(f"fitted-{count}", MANY, {"fitted": {"options": {"path": str(out)}}})
        return self._last(f"fitted-{count}")

    def rule(self) -> dict[str, float]:
        """The run of `fitted` with the rule as its reward."""
        self._carry_out("rule", MANY, {"taste": TASTE})
        return self._last("rule")

    def _carry_out(self, name: str, settings: Mapping[str, Any], rewards: Mapping[str, Any]) -> None:
        if status := subprocess.run(self._command(name, settings, rewards)).returncode:
            sys.exit(f"error: {self.folder / name} ended with status {status}.")

    def _command(self, name: str, settings: Mapping[str, Any], rewards: Mapping[str, Any]) -> list[str]:
        """A run that is new, or goes on; one that is finished says so and ends."""
        local = [sys.executable, "-m", "cluster.local"]
        if (self.folder / name / CONFIG).is_file():
            return [*local, "--resume", str(self.folder / name)]
        lists = {"train": str(self.folder / "train.txt"), "held_out": str(self.folder / "held_out.txt")}
        watched = {"taste": {**TASTE, "weight": 0.0}, "shapes_gold": {"weight": 0.0}, FEATURES: {"weight": 0.0}}
        evaluation = {"every": 3, "samples": 16, "held_out_samples": 16, "features": FEATURES}
        whole = {
            **settings,
            "name": name,
            "folder": str(self.folder),
            "seed": self._seed,
            "rewards": {**watched, **rewards},
            "prompts": {**settings["prompts"], **lists},
            "evaluation": evaluation,
        }
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(whole))
        return [*local, str(self.folder / f"{name}.yaml")]

    def _curve(self, name: str, pairs: int) -> Curve:
        """Every evaluation of a run, by the pairs that had been trained on."""
        curve: Curve = {}
        for figure, values in Records(self.folder / name).metrics().items():
            if figure.startswith("eval/"):
                for iteration, value in values:
                    curve.setdefault(iteration * pairs, {})[figure.removeprefix("eval/")] = value
        return curve

    def _last(self, name: str) -> dict[str, float]:
        curve = self._curve(name, 1)
        return curve[max(curve)]


def measure(folder: Path, seed: int, counts: Sequence[int]) -> dict[str, Any]:
    """All that is known of a seed, once its runs are finished."""
    runs = Seed(folder, seed)
    live = runs.live()
    return {
        "live": live,
        "rule_in_pairs": runs.rule_in_pairs(),
        "fitted": {count: runs.fitted(count) for count in counts},
        "rule": runs.rule(),
    }


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of Markdown: the figures of each arm, averaged over the seeds, and the changes of the taste seed by seed."""
    lines = [
        "| arm | choices | taste | by seed | held out | all facts right | diversity |",
        "|---|---|---|---|---|---|---|",
    ]
    arms = [("pretrained", 0, [own["live"][0] for own in found])]
    for arm in ("live", "rule_in_pairs", "fitted"):
        for count in (count for count in found[0][arm] if count):
            arms.append((arm, count, [own[arm][count] for own in found]))
    arms.append(("rule", 0, [own["rule"] for own in found]))
    for arm, count, figures in arms:
        seeds = [own["train/taste"] for own in figures]
        names = ("held_out/taste", "train/shapes_gold", "train/diversity")
        others = [np.mean([own[name] for own in figures]) for name in names]
        lines.append(
            f"| {arm} | {count or ''} | {np.mean(seeds):.2f} | {', '.join(f'{taste:.2f}' for taste in seeds)} | "
            + " | ".join(f"{value:.2f}" for value in others) + " |"
        )  # fmt: skip
    return lines


def draw(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The taste against the number of choices, seed by seed and on average."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    titles = {
        "live": "PPOD, live on the choices",
        "fitted": "reward fitted to them",
        "rule_in_pairs": "the rule, in pairs",
    }
    for arm, colour in zip(titles, ("tab:blue", "tab:orange", "tab:green"), strict=True):
        curves = [
            {0: own["live"][0], **own[arm]} for own in found
        ]  # a fitted reward's run begins where the live one does
        x = sorted(curves[0])
        y = np.array([[curve[count]["train/taste"] for count in x] for curve in curves])
        axes.plot(x, y.T, color=colour, alpha=0.3, linewidth=1)
        axes.plot(x, y.mean(axis=0), color=colour, marker="o", label=titles[arm])
    level = np.mean([own["rule"]["train/taste"] for own in found])
    axes.axhline(level, color="black", linestyle="--", label="the rule as the reward of the fitted one's run")
    axes.set(xlabel="choices", ylabel="taste (0 to 3), unseen seeds", title="Small warm shapes on grey")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not there yet, print the table and draw the curve; returns the exit status."""
    parser = Parser("benchmarks.taste", __doc__ or "")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/taste"))
    parser.add_argument(
        "--fit-at", type=positive, nargs="+", default=[100, 200, 300], help="choices to fit a reward to"
    )
    args = parser.parse_args(arguments)
    with ended_by_sigterm():
        found = [measure(args.out.absolute() / f"seed{seed}", seed, args.fit_at) for seed in args.seeds]
    (args.out / "taste.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, args.out / "taste.png")
    print("\n".join(table(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
