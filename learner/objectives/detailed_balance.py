"""What every detailed-balance objective shares: a flow function, drawn transitions, the sum of their losses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from actors.policy import Policy
from actors.transitions import Transitions
from learner.batch import Batch
from learner.companion import Companion
from learner.decoupled import backward_each
from learner.flow_function import Flow, FlowConfig, make_flow
from learner.likelihood import REFERENCE_ADAPTER
from learner.objectives.objective import Asks, Objective, Part, Plan
from learner.ranks import ALONE, Ranks
from learner.reward_gradient import RewardModel
from learner.subsample import Strata, split_samples


class DetailedBalanceConfig(BaseModel, frozen=True, extra="forbid"):
    """Settings that every detailed balance has."""

    asks: ClassVar[Asks]

    name: str
    beta: float = Field(1.0, ge=0, description="The target is (prior times) exp(beta r); r is not normalised.")
    regularisation: float = Field(
        0.0,
        ge=0,
        description="Weight of the squared change of the predicted noise since the start of the batch's update; acts "
        "from the second optimizer step of a batch on.",
    )
    step_fraction: float = Field(1.0, gt=0, le=1, description="Share of the transitions that is trained on.")
    updates: int = Field(1, ge=1, description="Optimizer steps of a batch, each on its share of the samples.")
    flow: FlowConfig = FlowConfig()


class DetailedBalance(Objective):
    """Trains a policy and a flow function on transitions drawn from each chain.

    Args:
        config: Its settings.
        flow: Use this flow function instead of a network of `config.flow`.
    """

    config: DetailedBalanceConfig
    kind: ClassVar[Literal["vector", "scalar"]]  # of the flow function
    has_flow: bool = True

    def __init__(self, config: DetailedBalanceConfig, flow: Flow | None = None) -> None:
        self.config, self.flow = config, flow

    @property
    def modules(self) -> Mapping[str, Companion]:  # type: ignore[override]
        return {} if self.flow is None else {"flow": self.flow}

    def attach(self, policy: Policy, reward: RewardModel | None) -> None:
        assert reward is not None
        self._reward = reward
        if self.flow is None and self.has_flow:
            self.flow = make_flow(self.config.flow, policy, self.kind)

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        return Plan(chain.trainable_steps)

    def begin(self, policy: Policy, batch: Batch, version: int) -> Batch:
        if self._regularised:
            policy.snapshot(REFERENCE_ADAPTER)
        return batch

    @property
    def _regularised(self) -> bool:
        # Before the first optimizer step of a batch the difference is zero, and so is its gradient.
        return self.config.regularisation > 0 and self.config.updates > 1

    def column_weights(self, strata: Strata) -> Tensor:
        """How much each drawn transition counts."""
        return strata.weights

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        strata = Strata(len(batch.steps), self.config.step_fraction)
        rows = torch.nonzero(batch.rewards.isfinite()).flatten()  # those that were not dropped
        for samples in split_samples(len(rows), self.config.updates, generator):
            yield Part(rows[samples], strata.draw(len(samples), generator))

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        rows, cols = part.samples.repeat_interleave(part.columns.shape[1]), part.columns.flatten()
        weights = self.column_weights(Strata(len(batch.steps), self.config.step_fraction))
        weights = (weights / weights.sum()).repeat(len(part.samples)) / len(part.samples)

        def loss(piece: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return self.loss(policy, batch, rows[piece], cols[piece], weights[piece].to(policy.device))

        return backward_each(len(rows), loss, micro_batch=micro_batch, ranks=ranks)

    @abstractmethod
    def loss(
        self, policy: Policy, batch: Batch, rows: Tensor, cols: Tensor, weights: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the losses of n transitions `(rows, cols)`, and its metrics."""
