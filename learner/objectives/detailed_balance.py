"""What every detailed-balance objective shares: chains, a flow function, the sum of their transitions' losses."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from actors.conditioning import Conditioning
from actors.policy import Policy
from actors.transitions import Transitions
from learner.batch import Batch
from learner.companion import Companion
from learner.decoupled import backward_each
from learner.flow_function import Flow, FlowConfig, make_flow
from learner.forward_process import mean_square
from learner.likelihood import REFERENCE_ADAPTER
from learner.objectives.objective import Asks, Objective, Part, Plan
from learner.ranks import ALONE, Ranks
from learner.reward_gradient import RewardModel
from learner.subsample import Strata, share_of, split_samples


class DetailedBalanceConfig(BaseModel, frozen=True, extra="forbid"):
    """Settings that every detailed balance has."""

    asks: ClassVar[Asks]

    name: str
    beta: float = Field(1.0, ge=0, description="The target is (prior times) exp(beta r); r is not normalised.")
    regularisation: float = Field(
        0.0,
        ge=0,
        description="Weight of the squared change of the predicted noise since the batch came; acts from the second "
        "optimizer step of a batch on, and with a lag from the first.",
    )
    subsample: Literal["chains", "steps"] = Field(
        "chains",
        description="What step_fraction is a share of. chains: of the samples, each with all of its transitions, so "
        "that a state is visited once for both that meet there; steps: of every sample's transitions, one of each "
        "of as many strata.",
    )
    step_fraction: float = Field(1.0, gt=0, le=1, description="Share of the transitions that is trained on.")
    updates: int = Field(1, ge=1, description="Optimizer steps of a batch, each on its share of the samples.")
    lag: int = Field(
        0,
        ge=0,
        description="Batches that training stays behind sampling; the first ones are kept and trained on nothing.",
    )
    flow: FlowConfig = FlowConfig()


class DetailedBalance(Objective):
    """Trains a policy and a flow function on chains, or on transitions drawn from each.

    Args:
        config: Its settings.
        flow: Use this flow function instead of a network of `config.flow`.
    """

    config: DetailedBalanceConfig
    kind: ClassVar[Literal["vector", "scalar"]]  # of the flow function
    has_flow: bool = True
    always_last: bool = False  # see `Strata`

    def __init__(self, config: DetailedBalanceConfig, flow: Flow | None = None) -> None:
        self.config, self.flow = config, flow
        self._anchor = REFERENCE_ADAPTER  # the policy as it was when the batch came that is trained on
        self._held: deque[Batch] = deque()

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
        lag = self.config.lag
        if self._regularised:
            # As many copies as there are batches under way, taken in turns.
            now, self._anchor = (f"{REFERENCE_ADAPTER}_{(version - late) % (lag + 1)}" for late in (0, lag))
            policy.snapshot(now)
        if not lag:
            return batch
        self._held.append(batch.take(torch.nonzero(batch.rewards.isfinite()).flatten()))
        return self._held.popleft() if len(self._held) > lag else batch.take(torch.arange(0))

    @property
    def _regularised(self) -> bool:
        # Before the first optimizer step on a batch that has just come the difference is zero, and so is its gradient.
        return self.config.regularisation > 0 and (self.config.updates > 1 or self.config.lag > 0)

    def change(self, policy: Policy, x: Tensor, step: Tensor, told: Tensor, conditioning: Conditioning) -> Tensor:
        """Mean square change of the predicted noise since the batch came, `(n,)`, of predictions `told` at states x."""
        with torch.no_grad(), policy.using(self._anchor):
            before = policy.predict(x, step, conditioning)
        noise, noise_before = (policy.transitions.noise(x, each, step) for each in (told, before))
        return mean_square(noise - noise_before.detach())

    def _strata(self, batch: Batch) -> Strata:
        fraction = self.config.step_fraction if self.config.subsample == "steps" else 1.0
        return Strata(len(batch.steps), fraction, self.always_last)

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        strata, share = self._strata(batch), self.config.step_fraction if self.config.subsample == "chains" else 1.0
        rows = torch.nonzero(batch.rewards.isfinite()).flatten()  # those that were not dropped
        for shuffled in split_samples(len(rows), self.config.updates, generator):
            samples = shuffled[: share_of(len(shuffled), share)]
            yield Part(rows[samples], strata.draw(len(samples), generator))

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        drawn = part.columns.shape[1]
        rows, cols = part.samples.repeat_interleave(drawn), part.columns.flatten()
        weights = self._strata(batch).weights
        weights = (weights / weights.sum()).repeat(len(part.samples)) / len(part.samples)

        def loss(piece: Tensor) -> tuple[Tensor, dict[str, Tensor | float]]:
            total, metrics, squares = self.loss(
                policy, batch, rows[piece], cols[piece], weights[piece].to(policy.device)
            )
            of_steps = torch.zeros(len(batch.steps)).index_add(0, cols[piece], squares.cpu().float())
            return total, metrics | {f"step {column}": value for column, value in enumerate(of_steps.tolist())}

        if micro_batch > drawn:  # what cuts a chain visits the state of the cut twice
            micro_batch -= micro_batch % drawn
        metrics = backward_each(len(rows), loss, micro_batch=micro_batch, ranks=ranks)
        of_steps = [metrics.pop(f"step {column}") for column in range(len(batch.steps))]
        return metrics | ({"loss/largest_step": max(of_steps) / sum(of_steps)} if sum(of_steps) else {})

    @abstractmethod
    def loss(
        self, policy: Policy, batch: Batch, rows: Tensor, cols: Tensor, weights: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The weighted sum of the losses of n transitions `(rows, cols)`, its metrics, and the policy's share of it.

        The last is `(n,)`, detached: what each transition adds, without the flow function's own losses.
        """

    def state_dict(self) -> dict[str, Any]:
        return {"held": [batch.state_dict() for batch in self._held]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._held = deque(Batch.of_state_dict(held) for held in state.get("held", ()))
