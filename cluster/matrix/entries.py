"""The models of an evaluation: their names, what each draws, and the base model's draw that it is held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from actors.trajectories import Request
from cluster.errors import ConfigError
from cluster.matrix.draws import Draw, without_adapter
from cluster.records.reading import CONFIG
from cluster.trained import Trained, find
from learner import checkpoint

Requests = Callable[[int], tuple[Request, ...]]  # of a chain with so many steps


@dataclass(frozen=True)
class Entry:
    """A row of the matrix.

    Args:
        name: Unique.
        model: Who draws.
        group: What it shares a front with: the run, or its own name.
        draw: Its pictures.
        base: The base model's from the same noise; its own where it is one itself.
        crossed: Pictures of the crossed design, if the variance is split.
    """

    name: str
    model: Trained
    group: str
    draw: Draw
    base: Draw
    crossed: Draw | None

    @property
    def is_base(self) -> bool:
        """Whether there is nothing to hold it against but itself."""
        return self.draw.key == self.base.key


def find_models(sources: Sequence[str], settings: Sequence[str], every: bool, average: bool) -> list[Trained]:
    """What the words of the command line name.

    Args:
        sources: Runs, checkpoints or models.
        settings: `key=value` of the policy that are to differ.
        every: Take all checkpoints that a run keeps, not only its newest.
        average: Take the exponential average of the weights.

    Raises:
        ConfigError: If one is not there, or two are the same.
        CheckpointError: If a checkpoint is not whole.
    """
    paths: list[str] = []
    for source in sources:
        run = Path(source).expanduser()
        kept = checkpoint.list_all(run / "checkpoints") if every and (run / CONFIG).is_file() else []
        paths += map(str, kept) if kept else [source]
    models = [find(path, settings, average) for path in paths]
    said = [(model.name, model.source) for model in models]
    if twice := next((source for name, source in said if said.count((name, source)) > 1), None):
        raise ConfigError(f"{twice} is named twice; leave one out.")
    names = [model.name for model in models]
    return [m if names.count(m.name) == 1 else replace(m, name=m.source) for m in models]


def make_entries(models: Sequence[Trained], plain: Requests, crossed: Requests | None) -> list[Entry]:
    """The rows: the base models first, each once, then the others.

    Args:
        models: Of `find_models`.
        plain: What each is asked for.
        crossed: The same for the split of the variance.
    """

    def entry(model: Trained, base: Trained, name: str, group: str) -> Entry:
        steps = model.policy.steps
        design = None if crossed is None else Draw(model, crossed(steps))
        return Entry(name, model, group, Draw(model, plain(steps)), Draw(base, plain(steps)), design)

    bases: dict[str, Entry] = {}
    rows = []
    for model in models:
        bare = without_adapter(model)
        key = bare.policy.model_dump_json()
        if key not in bases:
            name = model.name if model.bare else "base" if not bases else f"base of {model.name}"
            bases[key] = entry(bare, bare, name, name)
        if not model.bare:
            folder = model.checkpoint.parent.parent.name if model.checkpoint and model.run else model.name
            rows.append(entry(model, bases[key].model, model.name, folder))
    return [*bases.values(), *rows]
