"""ELEGANT: entropy-regularised control. Samples the pretrained model's images tilted by the reward, p#(x) exp(beta r).

    L = -beta r( decode(x_0), c ) + sum_t KL_t,        KL_t = |mu_theta(x_t) - mu_#(x_t)|^2 / (2 std_t^2)
    x_next = mu_theta(x_t) + std_t z

Up to a constant L is the KL, in nats, of the law of whole chains to that of the pretrained chains tilted by
exp(beta r): squares are *summed* over dimensions. The learner takes the chain again from its start, with its noise z,
and the gradient goes back through all of it: through the reward and through every KL_t. No network is trained beside
the policy and nothing is bootstrapped, at the price of a way back through the network at each step.

The tilt of the chains also has its own law of the start x_T, N(0, I) exp(V), V(x_T) = log E_#[ exp(beta r) | x_T ],
which the paper learns: V by regression, then the start as a second process. Where the image does not remember where
the chain began, V is a constant and that law is N(0, I) itself. So it is for memoryless chains (DDPM's noise, or
Flow-SDE's with eta = sqrt(2)); others are refused, for the start is not learned here.

Source: Uehara et al., "Fine-tuning of continuous-time diffusion models as entropy-regularized control" (arXiv
2402.15194); its alpha is 1 / beta. Released code of the same authors takes means over dimensions for KL_t, which aims
at a far sharper tilt, and draws a truncation at every step; here neither is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from actors.policy import Policy
from actors.rollout import Predict
from actors.rollout import chain as steps_of
from actors.transitions import Transitions
from learner.batch import Batch
from learner.decoupled import backward_each
from learner.direct_gradient import climbed, recomputed
from learner.objectives.objective import Asks, Objective, Part, Plan
from learner.ranks import ALONE, Ranks
from learner.reward_gradient import RewardModel
from learner.subsample import split_samples


class ELEGANTConfig(BaseModel, frozen=True, extra="forbid"):
    """Entropy-regularised control."""

    asks: ClassVar[Asks] = Asks(reward="gradients", noise="memoryless")

    name: Literal["elegant"] = "elegant"
    beta: float = Field(1.0, ge=0, description="The target is p# exp(beta r); r is not normalised.")
    checkpointing: bool = Field(
        True,
        description="Compute the network's inside again on the way back instead of keeping it: the memory of one step "
        "for about a third more time, and the same gradients.",
    )
    updates: int = Field(1, ge=1, description="Optimizer steps of a batch, each on its share of the samples.")

    def build(self) -> ELEGANT:
        """The objective."""
        return ELEGANT(self)


class ELEGANT(Objective):
    """Entropy-regularised control, see the head of this file."""

    config: ELEGANTConfig

    def __init__(self, config: ELEGANTConfig) -> None:
        self.config = config

    def attach(self, policy: Policy, reward: RewardModel | None) -> None:
        assert reward is not None
        self._reward = reward

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        return Plan(chain.trainable_steps[:1])  # where it begins; the noise's keys say the rest

    def trained_steps(self, chain: Transitions) -> tuple[int, ...]:
        return chain.trainable_steps

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        rows = torch.nonzero(batch.rewards.isfinite()).flatten()  # those that were not dropped
        first = torch.nonzero(batch.steps == 0).flatten()
        for samples in split_samples(len(rows), self.config.updates, generator):
            yield Part(rows[samples], first)

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        count = len(part.samples)

        def loss(piece: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            rows = part.samples[piece]
            latents, kl = controlled_chain(policy, batch, rows, self.config.checkpointing)
            value, scores = climbed(self._reward, policy.decode(latents), [batch.prompts[row] for row in rows.tolist()])
            judged = scores.isfinite()
            losses = torch.where(judged, kl - self.config.beta * value, 0.0)
            seen = torch.where(judged, kl.detach() - self.config.beta * scores, 0.0)
            return losses.sum() / count, {"loss": seen.sum() / count, "unjudged": (~judged).sum() / count}

        return backward_each(count, loss, micro_batch=micro_batch, ranks=ranks)


def controlled_chain(policy: Policy, batch: Batch, rows: Tensor, checkpointing: bool) -> tuple[Tensor, Tensor]:
    """Chains taken again from their start with a graph, and their KL to the pretrained chain.

    Args:
        policy: Who acts now.
        batch: With its first states and the noise's keys.
        rows: `(n,)` int64, samples of the batch.
        checkpointing: Whether the networks' inside is computed again on the way back.

    Returns:
        The final latents `(n, ...)`, and the sum of KL_t over the steps with an adapter, `(n,)` in nats; float32.
    """
    assert batch.keys is not None
    predict: Predict = policy.predict
    pretrained: Predict = policy.pretrained
    if checkpointing:
        predict, pretrained = recomputed(policy), recomputed(policy, policy.pretrained)
    conditioning = policy.encode([batch.prompts[row] for row in rows.tolist()])
    weights, trained = policy.transitions.kl_weights.tolist(), policy.transitions.trainable_steps
    column = int(torch.nonzero(batch.steps == 0))
    x, kl = batch.latents[rows, column].to(policy.device), torch.zeros(len(rows), device=policy.device)
    for step in steps_of(policy, x, conditioning, batch.keys[rows.numpy()], predict=predict):
        if step.number in trained:
            index = torch.full((len(rows),), step.number)
            change = step.prediction - pretrained(step.x, index, conditioning)
            kl = kl + weights[step.number] * change.square().flatten(1).sum(dim=1)
        x = step.x_next
    return x, kl
