"""What the learner asks of an algorithm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from actors.policy import Policy
from learner.batch import Batch


@dataclass(frozen=True)
class Part:
    """The share of a batch that one optimizer step trains on: samples x columns of stored transitions."""

    samples: Tensor  # (b,) int64
    columns: Tensor  # (k,) int64


class Objective(ABC):
    """An algorithm: which transitions it needs, how it cuts a batch into optimizer steps, and its gradient.

    Attributes:
        needs_groups: Whether it compares samples of the same prompt (then there must be at least two).
        share_init_noise: Whether all samples of a prompt start from the same x_T.
        offline_batches: Train on this many batches, drawn once from the pretrained model; 0 is online.
    """

    needs_groups: ClassVar[bool] = False
    share_init_noise: bool = False
    offline_batches: int = 0

    @abstractmethod
    def trained_steps(self, stochastic_steps: tuple[int, ...]) -> tuple[int, ...]:
        """The sampler steps whose transitions are to be stored, out of those that have a density."""

    def begin(self, policy: Policy, version: int) -> None:  # noqa: B027
        """Called before the update of each batch; moves a reference where there is one."""

    @abstractmethod
    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        """Cut a batch into the parts of successive optimizer steps."""

    @abstractmethod
    def backward(self, policy: Policy, batch: Batch, part: Part, micro_batch: int) -> dict[str, float]:
        """Add the gradient of one part to the policy's parameters.

        Args:
            policy: With gradients cleared.
            batch: The whole batch.
            part: What to train on.
            micro_batch: Transitions that go through the network at a time.

        Returns:
            Metrics, averaged over the parts of a batch before they are logged.
        """
