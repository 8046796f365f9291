"""A run's folder in the hands of its driver: claimed, begun, written to, rewound.

What is in it is said, and read, in `cluster.records.reading`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from cluster.config import Config
from cluster.records import given, warned
from cluster.records.claim import Claim, claim_existing, claim_new
from cluster.records.files import forget_temporaries, replacing, writable
from cluster.records.loggers import Loggers
from cluster.records.masking import masked
from cluster.records.reading import METRICS, Records
from cluster.records.tensorboard import EventFile
from cluster.records.timeline import Span, table
from cluster.sources.rollouts import Rollout


class RunDirectory(Records):
    """Writes a run's records as well.

    Args:
        path: The folder.
        claim: This process's hold on it, if it is to write.
    """

    def __init__(self, path: Path, claim: Claim | None = None) -> None:
        super().__init__(path)
        self._claim = claim
        self.furthest = -1  # iteration that this process has recorded
        self._unsaved = False  # is there something in the configuration that its file does not say yet?
        self._purge: int | None = None  # first step that TensorBoard is to forget
        self._events: EventFile | None = None
        self._others: Loggers | None = None

    @classmethod
    def claim(cls, config: Config) -> RunDirectory:
        """Claim the folder of a new run; until it begins, nothing is in it that stays.

        Raises:
            ConfigError: If the name is no folder's name, or the folder is in use or cannot be made.
            WriteError: If it cannot be written to.
        """
        claim = claim_new(
            Path(config.folder).expanduser().absolute(),
            config.name,
            f"{config.objective.name}-{time.strftime('%Y%m%d-%H%M%S')}",
        )
        run = cls(claim.path, claim)
        try:
            run.config, run._unsaved = given.keep_prompts(given.pin_data(config), run.path), True
        except BaseException:
            run.release()
            raise
        return run

    @classmethod
    def create(cls, config: Config) -> RunDirectory:
        """Begin a new run, and leave its folder to others; raises as `claim`."""
        run = cls.claim(config)
        run.begin()
        run.release()
        return run

    @classmethod
    def resume(cls, path: Path, overrides: Sequence[str] = ()) -> RunDirectory:
        """Claim the folder of a run that has begun.

        Args:
            path: The folder.
            overrides: Settings `key=value` that are other from now on.

        Raises:
            ConfigError: If another driver has it, or what it was given has changed.
        """
        run = cls(path, claim_existing(path))
        try:
            run.config, run._unsaved = given.load(path, overrides), bool(overrides)
        except BaseException:
            run.release()
            raise
        return run

    @cached_property
    def config(self) -> Config:
        """What the run was given; its prompts are those in the folder."""
        return given.read(self.path)

    def begin(self) -> None:
        """Keep the configuration, as soon as there is a crew: from now on this is a run's folder.

        Raises:
            WriteError: If the disk is full or broken.
        """
        if self._unsaved:
            given.save(self.config, self.path)
            self._unsaved = False

    def release(self) -> None:
        """Let other drivers have the folder, and whoever owns its disk; if no run has begun, it is gone."""
        if self._events is not None:
            with suppress(OSError):  # of a disk that is full, which has been said
                self._events.close()
            self._events = None
        if self._others is not None:
            self._others.close()
            self._others = None
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def rewind(self, iteration: int) -> None:
        """Forget all records after an iteration, which a resumed run writes again, and what was left half-written."""
        self.begin()
        with writable(self.path):
            forget_temporaries(self.path)
        for parts in (self._metrics, self._samples, self._timeline):
            parts.rewind(iteration)
        if (known := warned.read(self.path)) and (
            kept := [one for one in known if one.iteration <= iteration]
        ) != known:
            warned.write(self.path, kept)
        self._purge = iteration + 1

    def record(
        self,
        iteration: int,
        metrics: Mapping[str, float],
        splits: Mapping[str, Sequence[Rollout]],
        spans: Sequence[Span] = (),
    ) -> None:
        """Record an iteration: its metrics, its samples by split, and who else than samplers worked when. Replaces what
        may have been recorded before.

        Raises:
            WriteError: If the disk is full or broken.
        """
        self.begin()
        self._samples.write(iteration, _samples(iteration, splits))
        self._timeline.write(iteration, table(iteration, [*spans, *_rollouts(splits)]))
        self._metrics.write(iteration, _metrics(iteration, metrics))
        with writable(self.path):
            self._event_file.scalars(iteration, metrics)
        self._loggers.scalars(iteration, metrics)
        self.furthest = max(self.furthest, iteration)

    def add(
        self,
        iteration: int,
        metrics: Mapping[str, float],
        splits: Mapping[str, Sequence[Rollout]],
        spans: Sequence[Span] = (),
    ) -> None:
        """Record more of an iteration: metrics and splits of other names stay as they are; raises as `record`."""
        if splits:
            self._samples.add(iteration, _samples(iteration, splits), "split")
        if spans or splits:
            self._timeline.add(iteration, table(iteration, [*spans, *_rollouts(splits)]), "started")
        self._metrics.add(iteration, _metrics(iteration, metrics), "name")
        with writable(self.path):
            self._event_file.scalars(iteration, metrics)
        self._loggers.scalars(iteration, metrics)

    def write_pretrained(self, features: Mapping[str, np.ndarray]) -> None:
        """Keep the image features of the first evaluation, by split."""
        with replacing(self.path / "pretrained.npz") as file:
            np.savez(file, allow_pickle=False, **features)

    def write_image(self, name: str, image: Image.Image) -> None:
        """Write `images/<name>.png`."""
        with replacing(self.path / "images" / f"{name}.png") as file:
            image.save(file, format="PNG")

    def write_grid(self, split: str, iteration: int, grid: Image.Image) -> None:
        """Write the image grid of an evaluation."""
        self.write_image(f"{split}-{iteration:06d}", grid)
        with writable(self.path):
            self._event_file.image(iteration, split, grid)
        self._loggers.image(iteration, split, grid)

    @property
    def _event_file(self) -> EventFile:
        # Made when there is something to write: those who only read a run leave no file behind.
        if self._events is None:
            self._events = EventFile(self.path / "tensorboard", self._purge)
        return self._events

    @property
    def _loggers(self) -> Loggers:
        if self._others is None:
            self._others = Loggers(self.config.loggers, self.path, masked(self.config.model_dump(mode="json")))
        return self._others


def _metrics(iteration: int, metrics: Mapping[str, float]) -> pa.Table:
    rows = [
        [iteration] * len(metrics),
        list(metrics),
        [float(v) for v in metrics.values()],
        [time.time()] * len(metrics),
    ]
    return pa.table([pa.array(values, field.type) for values, field in zip(rows, METRICS, strict=True)], schema=METRICS)


def _rollouts(splits: Mapping[str, Sequence[Rollout]]) -> list[Span]:
    drawn = [rollout for rollouts in splits.values() for rollout in rollouts if rollout.actor is not None]
    return [Span(str(rollout.actor), "rollout", rollout.started, rollout.seconds) for rollout in drawn]


def _samples(iteration: int, splits: Mapping[str, Sequence[Rollout]]) -> pa.Table:
    columns: dict[str, list] = defaultdict(list)
    for split, rollouts in splits.items():
        for rollout in rollouts:
            request = rollout.request
            size = len(request.prompts)
            columns["iteration"] += [iteration] * size
            columns["split"] += [split] * size
            columns["prompt"] += request.prompts
            columns["prompt_index"] += request.prompt_index
            columns["sample_index"] += request.sample_index
            columns["seed"] += [request.seed] * size
            columns["version"] += [rollout.version] * size
            for name, values in rollout.scores.items():
                columns[name] += values.tolist()
    return pa.table(columns)
