"""DiffusionNFT: the image is pulled towards good samples and pushed away from bad ones, in the forward process.

A sample's advantage A becomes how likely it is to be good, r = clip(1/2 + A / 2a, 0, 1), a the largest that counts.
Its image x0 is noised to states of the chain; with x0_theta and x0_old what the trained and the trailing adapter see
there,

    x0+ = b x0_theta + (1 - b) x0_old          l+ = mean (x0+ - x0)^2 / w+,   w+ = mean |x0+ - x0|, not differentiated
    x0- = (1 + b) x0_old - b x0_theta          l- likewise
    L   = a mean c ( (r / b) l+ + ((1 - r) / b) l- )  +  kl_weight mean |o_theta - o_pretrained|^2

Samples are drawn by the trailing adapter, old <- d old + (1 - d) theta after each batch, d growing with the optimizer
steps. At theta = old the gradient is that of A |x0_theta - x0|^2 / w, free of b. c is 1 for a network of velocities;
for others it makes an error of the output weigh what it weighs there, t = sigma / (signal + sigma). o is the network's
output: the distance of velocities would hold a network of noise hundreds of times as much at the noisy end.

Source: Zheng et al., "DiffusionNFT" (arXiv 2509.16117); numbers are the released code's. The loss at theta = old is
a mean |x0_old - x0| / b and says nothing of progress; a is 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from actors.policy import Policy
from actors.transitions import Transitions, over
from learner.batch import Batch
from learner.decoupled import backward_each
from learner.forward_process import draw_steps, flow_time, mean_square, noised, output_error, output_slope
from learner.objectives.objective import Asks, Objective, Part, Plan
from learner.ranks import ALONE, Ranks
from learner.reward_gradient import RewardModel
from learner.subsample import share_of, split_samples

OLD = "behaviour"  # the trailing adapter
_LEAST = 1e-5  # of w


class NFTConfig(BaseModel, frozen=True, extra="forbid"):
    """Negative-aware fine-tuning of the forward process."""

    asks: ClassVar[Asks] = Asks(groups=True, standardise="group_mean", noise="nowhere")

    name: Literal["nft"] = "nft"
    strength: float = Field(1.0, gt=0, description="b, how far good and bad are told apart; .1 for OCR in the paper.")
    max_advantage: float = Field(5.0, gt=0, description="Advantages are clipped to this, where r is 0 or 1.")
    kl_weight: float = Field(1e-4, ge=0, description="Weight of the output's distance from the pretrained model.")
    updates: int = Field(1, ge=1, description="Optimizer steps of a batch, each on its share of the samples.")
    states: int = Field(9, ge=1, description="States to which each image is noised in an update, or all there are.")
    step_fraction: float = Field(
        0.9, gt=0, le=1, description="Share of the chain's states that they are drawn from, from the noisy end."
    )
    guided: bool = Field(False, description="Whether the loss is of the guided prediction; the paper has no guidance.")
    trail: Literal["early", "late"] = Field(
        "early",
        description="Share of itself that the trailing adapter keeps after n optimizer steps: early is "
        "min(.001 n, .5), late is 0 until 75, then min(.0075 (n - 75), .999).",
    )

    def build(self) -> NFT:
        """The objective."""
        return NFT(self)


class NFT(Objective):
    """Negative-aware fine-tuning, see the head of this file."""

    config: NFTConfig

    def __init__(self, config: NFTConfig) -> None:
        self.config, self._steps = config, 0

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        return Plan((), clean=True, acts_with=OLD)

    def trained_steps(self, chain: Transitions) -> tuple[int, ...]:
        return tuple(range(share_of(chain.adapted_steps, self.config.step_fraction)))

    def attach(self, policy: Policy, reward: RewardModel | None) -> None:
        self._states = len(self.trained_steps(policy.transitions))

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        rows = torch.nonzero(batch.rewards.isfinite()).flatten()  # those that were not dropped
        for number, samples in enumerate(split_samples(len(rows), self.config.updates, generator)):
            yield Part(rows[samples], draw_steps(len(samples), self._states, self.config.states, generator), number)

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        rows, steps = part.samples.repeat_interleave(part.columns.shape[1]), part.columns.flatten()
        good = optimality(batch.rewards[rows], self.config.max_advantage).to(policy.device)
        chain, guided = policy.transitions, self.config.guided

        def loss(piece: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            at = steps[piece]
            state = noised(policy, batch, rows[piece], at, part.number)
            old, new = state.image_of(OLD, policy, guided), state.image(policy, guided)
            losses = nft_loss(state.clean, new, old, good[piece], self.config.strength)
            losses = flow_time(chain, at, new) / output_slope(chain, at, new) * losses
            value = self.config.max_advantage * losses.sum() / len(rows)
            moved = output_error(chain, new, old, at).sum() / len(rows)
            metrics = {"loss": value.detach(), "distance/behaviour": moved.detach()}
            if self.config.kl_weight:
                away = output_error(chain, new, state.image_of(None, policy, guided), at).sum() / len(rows)
                value, metrics["distance/pretrained"] = value + self.config.kl_weight * away, away.detach()
            return value, metrics

        return backward_each(len(rows), loss, micro_batch=micro_batch, ranks=ranks)

    def end(self, policy: Policy, updates: int) -> None:
        self._steps += updates
        early, late = min(1e-3 * self._steps, 0.5), min(7.5e-3 * max(0, self._steps - 75), 0.999)
        policy.snapshot(OLD, keep=early if self.config.trail == "early" else late)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps = state["steps"]


def optimality(advantages: Tensor, most: float) -> Tensor:
    """r of the head of this file, `(n,)`: 1/2 is as good as the others, `most` and beyond is 1."""
    return (0.5 + advantages / (2 * most)).clamp(0, 1)


def nft_loss(clean: Tensor, new: Tensor, old: Tensor, good: Tensor, strength: float) -> Tensor:
    """(r / b) l+ + ((1 - r) / b) l- of the head of this file, `(n,)`.

    Args:
        clean: `(n, ...)`, the images x0.
        new: The same, as the trained adapter sees them.
        old: The same, as the trailing one does, without gradient.
        good: r, `(n,)`.
        strength: b.
    """

    def error(image: Tensor) -> Tensor:
        off = image - clean
        size = off.detach().abs().double().flatten(1).mean(dim=1).clamp(min=_LEAST)
        return mean_square(off / over(size.sqrt().to(off.dtype), off))

    positive = strength * new + (1 - strength) * old
    negative = (1 + strength) * old - strength * new
    return (good * error(positive) + (1 - good) * error(negative)) / strength
