"""MLflow, by its own package: figures, pictures and settings of a run, on a tracking server or in a folder.

MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say where things go; without the first it is the folder `mlruns` beside
the run's.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

_AT_ONCE = 100  # parameters of a call
_LONGEST = 6000  # letters of a parameter's value


class Mlflow:
    """One run of theirs.

    Args:
        folder: Of the run.
        settings: Of the run.
        known: Id of the run of theirs that this one goes on with; `None` begins one.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], known: str | None) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder needs no database
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or (folder.parent / "mlruns").as_uri())
        if known is not None:
            self._client.update_run(known, status="RUNNING")
            self.id = known
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "reinoise")
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self.id = self._client.create_run(number, run_name=folder.name).info.run_id
        flat = [Param(_plain(key), str(value)[:_LONGEST]) for key, value in _flat(settings, "")]
        for start in range(0, len(flat), _AT_ONCE):
            self._client.log_batch(self.id, params=flat[start : start + _AT_ONCE])

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write figures; those that are not finite have no place there."""
        now = int(1000 * time.time())
        metrics = [self._metric(_plain(n), float(v), now, step) for n, v in values.items() if math.isfinite(v)]
        self._client.log_batch(self.id, metrics=metrics)

    def image(self, step: int, tag: str, image: Image.Image) -> None:
        """Write an image."""
        self._client.log_image(self.id, image, artifact_file=f"images/{_plain(tag)}-{step:06d}.png")

    def close(self) -> None:
        """End the run of theirs."""
        self._client.set_terminated(self.id)


def _flat(settings: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _plain(name: str) -> str:
    """A name in the letters that MLflow takes."""
    return re.sub(r"[^\w.:/ -]", "_", name)
