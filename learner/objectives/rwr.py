"""Reward-weighted regression: denoising of one's own samples, each weighted by how good it is.

    L = mean w_i m(x0_theta, x0)_i  +  distance_weight mean m(x0_theta, x0_pretrained)

with m the mean square error at states to which the image is noised, of the velocity or of what the network predicts,
and weights of mean 1 over a group or the batch (the distance is of samples that have a weight):

    softmax       w_i = G softmax(A / temperature)_i        (RWR, the baseline of DDPO)
    best          w_i = G / k for the k best, else 0        (its sparse form; with k = 1 rejection sampling)

The minimiser of the first term alone is the sampling policy times w, so that repeated it collapses on the best sample.
With the second it lies between that and the pretrained model, at every state in the same proportion, because both are
errors of one kind; of the velocity it bounds the Wasserstein distance (ORW-CFM-W2, whose weights exp(tau r) have no
scale of their own; here they are normalised).

Source: Peters & Schaal (2007); Black et al., DDPO (arXiv 2305.13301), appendix, whose release calls temperature what it
multiplies raw scores with; Fan et al., ORW-CFM-W2 (arXiv 2502.06061), whose release pairs weights with images that its
optimal-transport coupling has reordered. Here a weight, its image and its noise share an index.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from actors.policy import Policy
from actors.transitions import Transitions
from learner.batch import Batch
from learner.decoupled import backward_each
from learner.forward_process import States, Timesteps, noised, output_error, velocity_error
from learner.objectives.objective import Asks, Objective, Part, Plan, refuse_unused
from learner.ranks import ALONE, Ranks
from learner.reward_gradient import RewardModel
from learner.subsample import split_samples


class RWRConfig(BaseModel, frozen=True, extra="forbid"):
    """Reward-weighted regression."""

    name: Literal["rwr"] = "rwr"
    weights: Literal["softmax", "best"] = Field("softmax", description="How good samples are preferred.")
    temperature: float = Field(5.0, gt=0, description="Of the softmax; 5 is DDPO's, whose inverse temperature is .2.")
    best: float = Field(0.1, gt=0, le=1, description="Share of the samples that `best` takes; .1 is DDPO's.")
    among: Literal["group", "batch"] = Field("batch", description="Whom a sample is compared with.")
    error: Literal["velocity", "output"] = Field(
        "output",
        description="Of what m and the distance are: the velocity, as in ORW-CFM, or what the network predicts.",
    )
    distance_weight: float = Field(0.0, ge=0, description="Weight of the distance from the pretrained model; 1 in ORW.")
    timesteps: Timesteps = Field(
        "chain",
        description="States that images are noised to: of the chain that samplers go, or of all timesteps that the "
        "model was trained at.",
    )
    updates: int = Field(4, ge=1, description="Optimizer steps of a batch, each on its share of the samples.")
    states: int = Field(4, ge=1, description="States to which each image is noised in an update, or all there are.")
    guided: bool = Field(False, description="Whether the loss is of the guided prediction.")

    @model_validator(mode="after")
    def _check(self) -> RWRConfig:
        other = {"softmax": ("weights=best", "best"), "best": ("weights=softmax", "temperature")}
        refuse_unused(self, *other[self.weights])
        return self

    @property
    def asks(self) -> Asks:
        """Comparing within a prompt needs a second sample."""
        return Asks(groups=self.among == "group", noise="nowhere")

    def build(self) -> RWR:
        """The objective."""
        return RWR(self)


class RWR(Objective):
    """Reward-weighted regression, see the head of this file."""

    config: RWRConfig

    def __init__(self, config: RWRConfig) -> None:
        self.config = config

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        return Plan((), clean=True)

    def trained_steps(self, chain: Transitions) -> tuple[int, ...]:
        return tuple(range(chain.adapted_steps))

    def attach(self, policy: Policy, reward: RewardModel | None) -> None:
        self._states = States.of(policy, self.config.timesteps)

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        weights = sample_weights(batch.rewards, batch.groups, self.config)
        rows = torch.nonzero(weights > 0).flatten()  # the others and those that were dropped give no gradient
        for number, samples in enumerate(split_samples(len(rows), self.config.updates, generator)):
            yield Part(rows[samples], self._states.draw(len(samples), self.config.states, generator), number)

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        rows, steps = part.samples.repeat_interleave(part.columns.shape[1]), part.columns.flatten()
        weights = sample_weights(batch.rewards, batch.groups, self.config)
        # The mean is over all that were judged, also those that have no weight and are left out.
        share = (weights > 0).sum() / batch.rewards.isfinite().sum()
        weights = (share * weights[rows]).to(policy.device)
        guided, chain = self.config.guided, self._states.chain
        error = velocity_error if self.config.error == "velocity" else output_error

        def loss(piece: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            at = steps[piece]
            state = noised(policy, batch, rows[piece], at, part.number)
            new = state.image(policy, guided)
            value = (weights[piece] * error(chain, new, state.clean, at)).sum() / len(rows)
            metrics = {"loss": value.detach()}
            if self.config.distance_weight:
                before = state.image_of(None, policy, guided)
                away = error(chain, new, before, at).sum() / len(rows)
                value, metrics["distance/pretrained"] = value + self.config.distance_weight * away, away.detach()
            return value, metrics

        with policy.along(chain):
            metrics = backward_each(len(rows), loss, micro_batch=micro_batch, ranks=ranks)
        return metrics | {"samples/effective": float(weights.sum() ** 2 / (weights**2).sum()) / part.columns.shape[1]}


def sample_weights(rewards: Tensor, groups: Tensor, config: RWRConfig) -> Tensor:
    """Weights `(B,)` of the head of this file, of mean 1 over the judged samples of each group or the batch.

    Args:
        rewards: `(B,)`, NaN where a sample was dropped, which weighs 0.
        groups: `(B,)` int64.
        config: Which weights.
    """
    weights = torch.zeros(len(rewards))
    among = groups if config.among == "group" else torch.zeros_like(groups)
    for group in among.unique():
        members = torch.nonzero((among == group) & rewards.isfinite()).flatten()
        if not len(members):
            continue
        if config.weights == "softmax":
            weights[members] = len(members) * torch.softmax(rewards[members] / config.temperature, dim=0)
        else:
            taken, scores = max(1, round(config.best * len(members))), rewards[members]
            last = scores.sort(descending=True).values[taken - 1]
            above, tied = scores > last, scores == last  # who are as good as the last one share what is left
            share = above + tied * (taken - above.sum()) / tied.sum()
            weights[members] = len(members) / taken * share
    return weights
