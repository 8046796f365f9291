"""A grid: which runs answer a question. The files are `benchmarks/methods/grids/*.yaml`.

    question    a sentence
    compared_at queries, of which every run then has equally many (the default), or reward (`benchmarks.tilt.front`)
    common      settings of all runs, `key=value`
    worlds      settings of each world, by name
    seeds       numbers
    arms        settings of each arm, by name

A cell is a run: one arm in one world with one seed. Settings count in the order common, world, arm. At most one
of them is a config file, named from the repository's root, which counts before the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field, StrictInt, ValidationError

from cluster.config import Config, load_words
from cluster.errors import ConfigError
from cluster.yaml_text import read
from learner.objectives.detailed_balance import DetailedBalanceConfig
from learner.objectives.draft_lv import DRaFTLVConfig
from learner.objectives.nabla_db import NablaDBConfig
from learner.objectives.spo import SPOConfig
from learner.objectives.vgg_flow import VGGFlowConfig
from learner.subsample import Strata, share_of, split_samples

GRIDS, _ROOT = Path(__file__).with_name("grids"), Path(__file__).parents[2]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]  # of a folder
Settings = tuple[str, ...]


class Grid(BaseModel, frozen=True, extra="forbid"):
    """See the head of this file."""

    question: str
    compared_at: Literal["queries", "reward"] = "queries"
    common: Settings = ()
    worlds: dict[Name, Settings] = Field(min_length=1)
    seeds: tuple[Annotated[StrictInt, Field(ge=0)], ...] = Field(min_length=1)
    arms: dict[Name, Settings] = Field(min_length=1)


@dataclass(frozen=True)
class Cell:
    """One run of a grid."""

    world: str
    arm: str
    seed: int
    words: tuple[str, ...]  # of `cluster.local`
    config: Config

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.world}/{self.arm}/{self.seed}"

    @property
    def run(self) -> Path:
        """The run's folder."""
        return Path(self.config.folder) / str(self.config.name)


def load_grid(source: str) -> Grid:
    """The grid of a file, or one of the repository's by its name.

    Raises:
        ConfigError: If there is none, or it is not one.
    """
    path = Path(source) if source.endswith((".yaml", ".yml")) else GRIDS / f"{source}.yaml"
    try:
        return Grid.model_validate(read(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        known = ", ".join(sorted(grid.stem for grid in GRIDS.glob("*.yaml")))
        raise ConfigError(f"There is no grid {source!r}; give a file *.yaml, or one of {known}.") from None
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(map(str, detail["loc"])) or "it"
        raise ConfigError(f"The grid {path} cannot be read: of {place}, {detail['msg'].lower()}.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"The grid {path} cannot be read: {error}.") from error


def cells(
    grid: Grid,
    folder: Path,
    worlds: Collection[str] | None = None,
    arms: Collection[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Cell]:
    """The runs of a grid, the first seed's first, each with its configuration checked.

    Args:
        grid: Which.
        folder: Where the runs are kept, as `folder/world/arm/seedN`.
        worlds: Only these; `None` is all, as below.
        arms: Only these.
        seeds: These instead of the grid's.

    Raises:
        ConfigError: In one sentence: if there is no such world or arm, if a seed is there twice, if a configuration
            cannot work, or if runs that are compared at equal queries would not show the reward equally many images.
    """
    seeds = grid.seeds if seeds is None else seeds
    if twice := [seed for seed, count in Counter(seeds).items() if count > 1]:
        raise ConfigError(f"The seed {twice[0]} is given twice; a run counts once, so leave one out.")
    for kind, chosen, known in (("world", worlds, grid.worlds), ("arm", arms, grid.arms)):
        if unknown := sorted(set(chosen or ()) - known.keys()):
            raise ConfigError(f"The grid has no {kind} {unknown[0]!r}; it has {', '.join(known)}.")
    make = partial(_cell, grid, folder)
    made = [
        make(world, arm, seed)
        for seed in seeds
        for world in grid.worlds
        for arm in grid.arms
        if world in (worlds or grid.worlds) and arm in (arms or grid.arms)
    ]
    first = made[0]
    for cell in made if grid.compared_at == "queries" else ():
        if queries(cell.config) != queries(first.config):
            raise ConfigError(
                f"{cell.name} would show the reward {queries(cell.config):,} images and {first.name} "
                f"{queries(first.config):,}; runs are compared at equal reward queries."
            )
    return made


def _cell(grid: Grid, folder: Path, world: str, arm: str, seed: int) -> Cell:
    settings = (*grid.common, *grid.worlds[world], *grid.arms[arm])
    files = [word for word in settings if word.endswith((".yaml", ".yml")) and "=" not in word]
    if len(files) > 1:
        raise ConfigError(f"{world}/{arm} names {len(files)} config files, {' and '.join(files)}; leave one.")
    given = [str(_ROOT / name) for name in files] + [word for word in settings if word not in files]
    words = (*given, f"folder={folder.absolute() / world / arm}", f"name=seed{seed}", f"seed={seed}")
    try:
        return Cell(world, arm, seed, words, load_words(words))
    except ConfigError as error:
        raise ConfigError(f"{world}/{arm}: {error}") from error


def queries(config: Config) -> int:
    """How many images a run shows to the reward, as `learner.spending` will count them if none is dropped.

    Raises:
        ConfigError: If that depends on what is drawn.
    """
    objective, batch, steps = config.objective, config.batch_size, config.policy.adapted_steps or config.policy.steps
    asked = 0
    if steps == "auto":
        raise ConfigError("policy.adapted_steps=auto takes a model to say a number; grids that compare name it.")
    if isinstance(objective, DetailedBalanceConfig):
        if objective.subsample == "steps" and objective.step_fraction < 1:
            raise ConfigError(
                "objective.subsample=steps asks the reward about as many states as happen to be drawn; runs are "
                "compared at equal reward queries, which objective.subsample=chains has."
            )
        shares = split_samples(batch, objective.updates, torch.Generator())
        share = objective.step_fraction if objective.subsample == "chains" else 1.0
        asked = sum(share_of(len(samples), share) for samples in shares) * _of_a_chain(objective, steps)
    elif isinstance(objective, VGGFlowConfig):
        drawn = len(Strata(steps, objective.step_fraction).weights)
        asked = batch * drawn * (1 if objective.value is None else 2)
    elif isinstance(objective, SPOConfig):
        trained = share_of(steps, 1 - objective.skip_fraction)
        asked = batch * trained * objective.candidates
    elif objective.asks.reward != "scores":
        asked = batch * (objective.noises if isinstance(objective, DRaFTLVConfig) else 1)
    batches = min(getattr(objective, "offline_batches", 0) or config.iterations, config.iterations)
    return batch * batches + asked * max(0, batches - getattr(objective, "lag", 0))


def _of_a_chain(objective: DetailedBalanceConfig, steps: int) -> int:
    """Images that a detailed balance asks the reward about for a whole chain that no micro-batch cuts."""
    if not isinstance(objective, NablaDBConfig):
        return steps  # states with noise
    forward = objective.no_flow or not objective.reverse_weight  # asks where transitions end
    return (steps if forward else steps + 1) * objective.smoothing
