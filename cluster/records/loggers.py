"""Where a run's figures and pictures go beside its own records: each logger by one word, through its own package.

    loggers: [wandb, mlflow]

TensorBoard's files are always written and are none of these. What goes wrong with a logger costs a warning, and the run
goes on without it. `loggers.json` keeps the ids, so that a run that is resumed goes on in the same place.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from cluster.records.files import replacing

log = logging.getLogger(__name__)
IDS = "loggers.json"
LOGGERS = {
    "wandb": "cluster.records.weights_and_biases:WeightsAndBiases",
    "mlflow": "cluster.records.mlflow_store:Mlflow",
}


class Logger(Protocol):
    """One of them; built with the run's folder, its settings, and the id that it had before."""

    id: str

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...
    def image(self, step: int, tag: str, image: Image.Image) -> None: ...
    def close(self) -> None: ...


class Loggers:
    """Those that a run names.

    Args:
        names: Of them, of `LOGGERS`.
        folder: Of the run.
        settings: Of the run.
    """

    def __init__(self, names: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> None:
        self._open: dict[str, Logger] = {}
        known = _ids(folder)
        for name in names:
            module, _, attribute = LOGGERS[name].partition(":")
            made: Callable[..., Logger] = getattr(import_module(module), attribute)
            try:
                self._open[name] = made(folder, settings, known.get(name))
            except Exception as error:  # of a network, a server, a library
                _say(name, error)
        ids = known | {name: logger.id for name, logger in self._open.items()}
        if ids != known:
            with replacing(folder / IDS) as file:
                file.write(json.dumps(ids).encode())

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write figures."""
        self._each(lambda logger: logger.scalars(step, values))

    def image(self, step: int, tag: str, image: Image.Image) -> None:
        """Write an image."""
        self._each(lambda logger: logger.image(step, tag, image))

    def close(self) -> None:
        """Let all of them end in good order."""
        self._each(lambda logger: logger.close())
        self._open.clear()

    def _each(self, do: Callable[[Logger], None]) -> None:
        for name, logger in list(self._open.items()):
            try:
                do(logger)
            except Exception as error:
                _say(name, error)
                del self._open[name]


def _say(name: str, error: Exception) -> None:
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    log.warning("The logger %s failed, and the run goes on without it (%s).", name, said)


def _ids(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / IDS).read_text())
        return {str(name): str(value) for name, value in found.items()}
    except (FileNotFoundError, ValueError, AttributeError):
        return {}
