"""KL of the law of a policy's chains to that of the pretrained model's, from one state of each chain, without bias.

    KL = sum_j E w_j |o_theta(x_j) - o_pretrained(x_j)|^2,       w_j = b_j^2 / (2 std_j^2)

by the chain rule, over the steps with noise in which the adapter acts; o is the guided output of the network. At steps
without an adapter both chains are one; steps with one and without noise, whose KL is infinite, are left out. Of each
chain one step J is drawn with probability w_J / W, W the weights' sum:

    W |o_theta(x_J) - o_pretrained(x_J)|^2

has that mean over chains and draws, and a step does not weigh more than it is seen.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from actors.transitions import Transitions

# Beyond the steps of any chain, whose noise has the same keys; smoothing has 2**22 on.
_DRAW = 2**21


def has_kl(transitions: Transitions) -> bool:
    """Whether there is a step with an adapter and a density in its state; no chain of second order has this KL."""
    return transitions.of_previous is None and bool(transitions.trainable_steps)


def kl_shares(transitions: Transitions) -> Tensor:
    """`(T,)` float64, with which probability each step of a chain that `has_kl` is drawn; they sum to 1."""
    weights = _weights(transitions)
    return weights / weights.sum()


def describe_steps(transitions: Transitions) -> str:
    """Where the adapter acts, and what share of the chain's KL weight these steps and the heaviest have: a line."""
    steps, adapted = len(transitions), transitions.adapted_steps
    acts = "every step" if adapted == steps else f"the first {adapted} of {steps} steps, and is trained there alone"
    weights = transitions.kl_weights
    if transitions.of_previous is not None or not weights.any():
        return f"the adapter acts in {acts}"
    shares = weights / weights.sum()
    heaviest = int(shares.argmax())
    own = "" if adapted == steps else f"these have {float(shares[:adapted].sum()):.0%} of the chain's KL weight, "
    of = " of the chain's KL weight" if adapted == steps else ""
    return f"the adapter acts in {acts}; {own}step {heaviest} alone (counted from 0) {float(shares.max()):.0%}{of}"


def draw_kl_steps(transitions: Transitions, keys: np.ndarray) -> Tensor:
    """A step `(B,)` int64 of each chain, drawn by its share.

    Args:
        transitions: A chain that `has_kl`.
        keys: `(B, 5)`, see `Trajectories.keys`; the same sample has the same step in every process.
    """
    drawn = [
        np.random.Generator(
            np.random.Philox(
                key=np.array([seed, iteration], np.uint64), counter=np.array([0, _DRAW, sample, prompt], np.uint64)
            )
        ).random()
        for seed, iteration, prompt, sample, _ in keys
    ]
    ends, last = kl_shares(transitions).cumsum(dim=0), max(transitions.trainable_steps)
    return torch.searchsorted(ends, torch.tensor(drawn, dtype=torch.float64), right=True).clamp(max=last)


def kl_from(transitions: Transitions, prediction: Tensor, pretrained: Tensor) -> Tensor:
    """The estimates of the head of this file, `(B,)` float32, in nats, with gradient to `prediction`.

    Args:
        transitions: A chain that `has_kl`.
        prediction: `(B, ...)` float32, the policy's guided output at the drawn states.
        pretrained: The same, the pretrained model's.
    """
    total = float(_weights(transitions).sum())
    return total * (prediction - pretrained).square().flatten(1).sum(dim=1)


def _weights(transitions: Transitions) -> Tensor:
    acts = torch.arange(len(transitions)) < transitions.adapted_steps
    return torch.where(acts, transitions.kl_weights, 0.0)
