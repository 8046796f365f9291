"""Training loops that go on where they were stopped, to the same result."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm


class Part(Protocol):
    """What changes in training: a network, an optimizer, a schedule, an average."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Keep:
    """Where a loop keeps what it needs to go on.

    Args:
        file: Written over again and again, whole or not at all.
        rng: What the loop draws from beside torch.
        every: Seconds between two writings.
    """

    file: Path
    rng: random.Random
    every: float = 60.0


def resumable(name: str, total: int, keep: Keep | None, **parts: Part) -> Iterator[tqdm]:
    """Yield a progress bar for each step that is still to be made.

    Args:
        name: What the bar says.
        total: Steps, those included that were made before.
        keep: Where the state of the loop is read from and written to; `None` keeps nothing.
        parts: What the steps change, all of it.
    """
    start = _restore(keep, parts) if keep and keep.file.exists() else 0
    written = time.monotonic()
    with tqdm(total=total, initial=start, desc=name) as bar:
        for step in range(start, total):
            yield bar
            bar.update()
            if keep and time.monotonic() - written >= keep.every:
                _save(keep, step + 1, parts)
                written = time.monotonic()


def _save(keep: Keep, step: int, parts: dict[str, Part]) -> None:
    states = {name: part.state_dict() for name, part in parts.items()}
    state = {"step": step, "torch": torch.get_rng_state(), "python": keep.rng.getstate(), "parts": states}
    keep.file.parent.mkdir(parents=True, exist_ok=True)
    beside = keep.file.with_suffix(".new")
    torch.save(state, beside)
    beside.replace(keep.file)


def _restore(keep: Keep, parts: dict[str, Part]) -> int:
    state = torch.load(keep.file, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    torch.set_rng_state(state["torch"])
    keep.rng.setstate(state["python"])
    return state["step"]
