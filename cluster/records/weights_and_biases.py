"""Weights & Biases, by its own package: figures, pictures and settings of a run, with an account or without.

Its environment variables say where things go (WANDB_PROJECT, WANDB_ENTITY, WANDB_BASE_URL, WANDB_MODE). Where there is
no key of an account, nothing leaves the machine: the run is written beside its other records, and `wandb sync` can send
it later.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image


class WeightsAndBiases:
    """One run of theirs.

    Args:
        folder: Of the run.
        settings: Of the run.
        known: Id of the run of theirs that this one goes on with; `None` begins one.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], known: str | None) -> None:
        import wandb

        self._wandb, self.id = wandb, known or uuid.uuid4().hex[:8]
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "reinoise"),
            name=folder.name,
            id=self.id,
            resume="allow",
            dir=folder,
            config=dict(settings),
            mode=mode,  # type: ignore[arg-type]
            settings=wandb.Settings(silent=True, console="off"),
        )
        # Their own step only rises, and a run that was resumed goes back to its checkpoint.
        self._run.define_metric("*", step_metric="iteration")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write figures."""
        self._run.log({**values, "iteration": step})

    def image(self, step: int, tag: str, image: Image.Image) -> None:
        """Write an image."""
        self._run.log({f"images/{tag}": self._wandb.Image(image), "iteration": step})

    def close(self) -> None:
        """End the run of theirs."""
        self._run.finish()
