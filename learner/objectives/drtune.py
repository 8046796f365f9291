"""DRTune: the reward's gradient reaches every part of the chain, because it passes by the network's input.

    x_next = a_t x_t + b_t o_t + std_t z,     o_t = o_theta(sg(x_t)) at K trained steps, sg(o_theta(x_t)) at the others
    L = -r( decode(x_0), c ),                 dL/dtheta = -sum_t ( dr/dx_0 ) w_t do_t/dtheta,   w_t = b_t prod_(j>t) a_j

sg stops the gradient: no Jacobian of the network is multiplied into it, so nothing explodes, early steps are reached,
and w_t is a number that the schedule gives. The trained steps are equally spaced with a random offset, one for each
sample. With `early_stop` the chain may end a few steps early, at the predicted image, and w_t with it.

At the sampler's weights x_0 is the sampler's image, so that no step is taken again but the trained ones, each of which
stands by itself:  x_0 = sg(sampled x_0) + sum_t w_t (o_t - sg(o_t)).  Later updates of a batch see the same image.

Source: Wu et al., "Deep reward supervisions for tuning text-to-image diffusion models" (ECCV 2024, arXiv 2405.00760).
Its code is not public, and its K and range of early stops were not found: the defaults are ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from actors.conditioning import Conditioning
from actors.policy import Policy
from actors.transitions import Transitions, over
from learner.batch import Batch
from learner.decoupled import backward_each
from learner.direct_gradient import climbed, last_adapted, recomputed
from learner.objectives.objective import Asks, Objective, Part, Plan
from learner.ranks import ALONE, Ranks
from learner.reward_gradient import RewardModel
from learner.subsample import split_samples


class DRTuneConfig(BaseModel, frozen=True, extra="forbid"):
    """Deep reward tuning."""

    asks: ClassVar[Asks] = Asks(reward="gradients", noise="nowhere", first_order=True)

    name: Literal["drtune"] = "drtune"
    steps: int = Field(5, ge=1, description="Steps of each chain that are trained, or all that have an adapter.")
    early_stop: int = Field(
        0,
        ge=0,
        description="The chain ends at the image that is predicted up to so many steps before its end, evenly drawn; "
        "0: always at its end.",
    )
    checkpointing: bool = Field(
        True,
        description="Where more than one step is trained, compute the network's inside again on the way back instead "
        "of keeping it: the memory of one step for about a third more time, and the same gradients.",
    )
    updates: int = Field(1, ge=1, description="Optimizer steps of a batch, each on its share of the samples.")

    def build(self) -> DRTune:
        """The objective."""
        return DRTune(self)


class DRTune(Objective):
    """Deep reward tuning, see the head of this file."""

    config: DRTuneConfig

    def __init__(self, config: DRTuneConfig) -> None:
        self.config = config

    def attach(self, policy: Policy, reward: RewardModel | None) -> None:
        assert reward is not None
        self._reward = reward
        self._trained = len(self.trained_steps(policy.transitions))

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        return Plan(tuple(range(chain.first_step, len(chain))), clean=True)

    def trained_steps(self, chain: Transitions) -> tuple[int, ...]:
        return last_adapted(chain, None)

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        rows = torch.nonzero(batch.rewards.isfinite()).flatten()  # those that were not dropped
        steps = len(batch.steps)
        trained = min(self.config.steps, self._trained)
        for samples in split_samples(len(rows), self.config.updates, generator):
            offset = torch.rand(len(samples), 1, generator=generator)
            columns = ((torch.arange(trained) + offset) * self._trained / trained).long().clamp(max=self._trained - 1)
            early = torch.randint(1 + min(self.config.early_stop, steps - 1), (len(samples), 1), generator=generator)
            yield Part(rows[samples], torch.cat([columns, steps - early], dim=1))  # the last is where the chain ends

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        columns, ends = part.columns[:, :-1], part.columns[:, -1]
        predict = recomputed(policy) if columns.shape[1] > 1 and self.config.checkpointing else policy.predict
        weights = influence(policy.transitions).float()

        def loss(piece: Tensor) -> tuple[Tensor, dict[str, float]]:
            rows, end = part.samples[piece], ends[piece]
            prompts = [batch.prompts[row] for row in rows.tolist()]
            conditioning = policy.encode(prompts)
            latents = _sampled(policy, batch, rows, end, conditioning)
            for column in columns[piece].T:
                step = batch.steps[column]
                output = predict(batch.latents[rows, column].to(policy.device), step, conditioning)
                weight = over(weights[step, batch.steps[0] + end], output)
                latents = latents + weight * (output - output.detach())
            value, scores = climbed(self._reward, policy.decode(latents), prompts)
            return -value.sum() / len(part.samples), {"loss": -float(scores.nansum()) / len(part.samples)}

        return backward_each(len(part.samples), loss, micro_batch=micro_batch, ranks=ranks)


def influence(chain: Transitions) -> Tensor:
    """How the network's output at each step moves what the chain ends with, inputs of later steps held: w_t.

    Returns:
        `(T, T + 1)` float64: of the output at step t on the image that is predicted at state e, and on x_0 for e = T;
        0 where the step comes after the state.
    """
    steps = len(chain)
    table = torch.zeros(steps, steps + 1, dtype=torch.float64)  # of the states at first
    for step in range(steps):
        table[:, step + 1] = table[:, step] * chain.state_weight[step]
        table[step, step + 1] = chain.output_weight[step]
    states, one = torch.arange(steps + 1), torch.ones(steps + 1, dtype=torch.float64)
    table *= chain.clean(one, 0 * one, states)  # an image's slope in its state
    return table + torch.diag(chain.clean(0 * one, one, states))[:steps]  # and in the output there


@torch.no_grad()
def _sampled(policy: Policy, batch: Batch, rows: Tensor, ends: Tensor, conditioning: Conditioning) -> Tensor:
    """The latents `(n, ...)` that chains end with: the sampled image's, or of the one that is predicted at a column."""
    assert batch.clean is not None
    clean, early = batch.clean[rows].to(policy.device), ends < len(batch.steps)
    if not early.any():
        return clean
    columns = ends.clamp(max=len(batch.steps) - 1)
    x = batch.latents[rows, columns].to(policy.device)
    return torch.where(over(early, x), policy.clean(x, batch.steps[columns], conditioning).detach(), clean)
