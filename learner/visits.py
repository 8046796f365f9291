"""The states that transitions lead between, each once: two that meet at a state share what is known of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.batch import Batch


@dataclass(frozen=True)
class Visits:
    """The m states of n transitions: the n that they start at, then those that only end one."""

    rows: Tensor  # (m,) int64, samples of the batch
    state: Tensor  # (m,) int64 in [0, T]; state T is the image
    x: Tensor  # (m, ...) float32, on the batch's device
    ends: Tensor  # (n,) int64, which of the m each transition ends at


def visit(batch: Batch, rows: Tensor, cols: Tensor) -> Visits:
    """The states of transitions of a batch.

    Of a whole chain of T transitions they are T + 1, of transitions that do not touch two each.

    Args:
        batch: Where they are stored.
        rows: `(n,)` int64, samples.
        cols: `(n,)` int64, columns; no transition comes twice.
    """
    steps = batch.steps[cols]
    transitions = list(zip(rows.tolist(), steps.tolist(), strict=True))
    known = {start: number for number, start in enumerate(transitions)}
    ends: list[int] = []
    others: list[int] = []
    for number, (row, step) in enumerate(transitions):
        found = known.get((row, step + 1))
        if found is None:
            found = len(transitions) + len(others)
            others.append(number)
        ends.append(found)
    only = torch.tensor(others, dtype=torch.int64)
    return Visits(
        rows=torch.cat([rows, rows[only]]),
        state=torch.cat([steps, steps[only] + 1]),
        x=torch.cat([batch.latents[rows, cols], batch.next_latents[rows[only], cols[only]]]).detach(),
        ends=torch.tensor(ends, dtype=torch.int64),
    )
