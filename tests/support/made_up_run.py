"""A run's folder as a run leaves it, without the run: any number of iterations, evaluations with pictures, work."""

from __future__ import annotations

import numpy as np

from actors.trajectories import EVALUATION
from cluster.config import Config
from cluster.prompts import make_requests
from cluster.records.pictures import grid
from cluster.records.rundir import RunDirectory
from cluster.records.timeline import DRIVER, Span
from cluster.sources.rollouts import Rollout

PROMPTS = ("a red circle", "a <b>blue</b> square & \"more\" <img src=x onerror='throw 1'>", "a green cross")
SAMPLES = 4


def make_up(config: Config, evaluations: tuple[int, ...], cell: int = 32) -> RunDirectory:
    """Write a run that has done all its iterations.

    Args:
        config: Its settings; its rewards are `shapes_agreement`, which rises, and `shapes_gold`, which falls.
        evaluations: The iterations after which it was evaluated.
        cell: Side of the pictures in their grids.
    """
    run = RunDirectory.create(config)
    rng = np.random.default_rng(config.seed)
    held_out = tuple(f"{prompt}, held out" for prompt in PROMPTS)
    for iteration in range(config.iterations + 1):
        at, progress = 1e9 + 10.0 * iteration, iteration / config.iterations
        if iteration:
            batch = _rollouts(config, PROMPTS, iteration, progress, rng, at)
            spans = [Span(DRIVER, "sampling", at, 6.0), Span(DRIVER, "learning", at + 6, 4.0)]
            scores = {name: np.concatenate([r.scores[name] for r in batch]) for name in batch[0].scores}
            run.record(iteration, _metrics(iteration, progress, scores), {"training": batch}, spans)
        if iteration in evaluations:
            splits = {"train": PROMPTS, "held_out": held_out}
            drawn = {name: _rollouts(config, of, EVALUATION, progress, rng, at) for name, of in splits.items()}
            figures = {}
            for split, rollouts in drawn.items():
                for name in rollouts[0].scores:
                    figures[f"eval/{split}/{name}"] = float(np.concatenate([r.scores[name] for r in rollouts]).mean())
                figures[f"eval/{split}/diversity"] = 0.7 - 0.2 * progress
                run.write_grid(split, iteration, grid(_pixels(progress, cell), splits[split], cell))
            run.add(iteration, figures, drawn, [Span(DRIVER, "evaluation", at + 10, 1.0)])
    run.release()
    return run


def _rollouts(
    config: Config, prompts: tuple[str, ...], iteration: int, progress: float, rng: np.random.Generator, at: float
) -> list[Rollout]:
    made = []
    for number, request in enumerate(make_requests(prompts, SAMPLES, SAMPLES, seed=config.seed, iteration=iteration)):
        level = progress + 0.1 * np.array(request.prompt_index)
        scores = {
            "shapes_agreement": (level + 0.1 * rng.normal(size=SAMPLES)).astype(np.float32),
            "shapes_gold": (1 - level / 2 + 0.05 * rng.normal(size=SAMPLES)).astype(np.float32),
        }
        version, none = int(progress * config.iterations), None
        actor = f"sampler-{number % 2}"
        made.append(Rollout(request, version, at + number, 1.0, none, none, scores, actor=actor))  # type: ignore[arg-type]
    return made


def _metrics(iteration: int, progress: float, scores: dict[str, np.ndarray]) -> dict[str, float]:
    wave = float(np.sin(iteration))
    return {
        "reward/mean": progress,
        "reward/std": 1.0 - progress / 2,
        **{f"score/{name}": float(values.mean()) for name, values in scores.items()},
        "loss": 0.7 - 0.2 * progress + 0.02 * wave,
        "grad_norm": 1.0 + 0.3 * wave,
        "kl/chain": 3 * progress,
        "lr": 1e-3 * (1.01 - progress),
        "samples": float(len(PROMPTS) * SAMPLES),
        "images_drawn": float(iteration * len(PROMPTS) * SAMPLES),
        "reward_queries": float(2 * iteration * len(PROMPTS) * SAMPLES),
        "dropped": 0.0,
        "staleness": float(iteration % 2),
        "time/sample": 6.0,
        "time/learn": 4.0,
        "time/iteration": 10.0 + wave,
        **{f"sampler/sampler-{number}/images": 6.0 + wave * number for number in range(2)},
        **{f"extra/{number}": progress * number for number in range(30)},
    }


def _pixels(progress: float, cell: int) -> np.ndarray:
    """`(prompts, samples, cell, cell, 3)`: a disc that grows, in each prompt's colour."""
    y, x = np.mgrid[:cell, :cell] / cell - 0.5
    disc = np.hypot(x, y) < 0.15 + 0.3 * progress
    colours = np.array([[200, 40, 40], [40, 60, 200], [30, 150, 60]], np.uint8)
    sheet = np.full((len(PROMPTS), SAMPLES, cell, cell, 3), 245, np.uint8)
    for row, colour in enumerate(colours):
        sheet[row, :, disc] = colour
    return sheet
