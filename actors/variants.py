"""What a policy asks of the weights that it trains: of adapters (`adapters.py`), or of all (`full_weights.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torch import nn

from actors.adapters import AdapterTensors


class Variants(Protocol):
    """Named sets of float32 weights of a denoiser. One of them acts at a time, or none: the pretrained network."""

    @property
    def names(self) -> Sequence[str]:
        """In the order in which they were added."""
        ...

    def add(self, name: str) -> None:
        """Add one that draws what the pretrained network does, and let it act."""
        ...

    def use(self, name: str | None, *, trained: str) -> None:
        """Let one act, or none; whether a graph is built is left alone.

        Args:
            name: Of the one that is to act; `None` is the pretrained network.
            trained: The only one whose parameters take gradients, whoever acts.
        """
        ...

    def parameters(self, name: str) -> list[tuple[str, nn.Parameter]]:
        """One's parameters by name, sorted."""
        ...

    def write(self, folder: Path, name: str) -> None:
        """Write one into a folder as other libraries read it: the same weights, the same bytes."""
        ...

    def read(self, folder: Path) -> AdapterTensors:
        """What `write` wrote into a folder; of its other files none is looked at.

        Raises:
            FileNotFoundError: If it is not there.
            ValueError: If it cannot be read.
        """
        ...
