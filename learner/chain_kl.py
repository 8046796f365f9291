"""The KL of whole chains to the pretrained model's, in a batch: what is logged of it, and its gradient.

One state of each chain tells of all steps in which the adapter acts, trained or not (`actors.chain_kl`).
"""

from __future__ import annotations

from collections.abc import Collection
from math import prod

import torch
from torch import Tensor

from actors.chain_kl import kl_from
from actors.policy import Policy
from learner.batch import Batch
from learner.decoupled import backward_each
from learner.ranks import ALONE, Ranks


def chain_kl_metrics(batch: Batch, trained: Collection[int]) -> dict[str, float]:
    """`kl/chain` in nats and the share of it that steps carry which nobody trains; nothing where it was not taken.

    Args:
        batch: With the estimates of its samplers, or without.
        trained: Steps that the objective trains.
    """
    if batch.kl is None or batch.kl_steps is None or not len(batch.kl):
        return {}
    total = float(batch.kl.sum())
    found = {"kl/chain": total / len(batch.kl)}
    if total > 0:
        others = ~torch.isin(batch.kl_steps, torch.tensor(sorted(trained), dtype=torch.int64))
        found["kl/untrained_share"] = float(batch.kl[others].sum()) / total
    return found


def backward_chain_kl(
    policy: Policy, batch: Batch, samples: Tensor, weight: float, *, micro_batch: int, ranks: Ranks = ALONE
) -> None:
    """Add the gradient of weight times the mean KL of some chains, nats per dimension, or this rank's share of it.

    Args:
        policy: Whose parameters; its samplers may have been older, then the KL is at the states that they came to.
        batch: With `kl_states`.
        samples: `(b,)` int64, rows of the batch.
        weight: Of the KL.
        micro_batch: States that go through the network at a time.
        ranks: Who shares the work.
    """
    assert batch.kl_states is not None
    assert batch.kl_steps is not None
    states, steps = batch.kl_states, batch.kl_steps
    scale = weight / (len(samples) * prod(policy.latent_shape))

    def loss(piece: Tensor) -> tuple[Tensor, dict[str, Tensor | float]]:
        rows = samples[piece]
        x, step = states[rows].to(policy.device), steps[rows]
        conditioning = policy.encode([batch.prompts[row] for row in rows.tolist()])
        with torch.no_grad(), policy.using(None):
            pretrained = policy.predict(x, step, conditioning)
        kl = kl_from(policy.transitions, policy.predict(x, step, conditioning), pretrained)
        return scale * kl.sum(), {}

    backward_each(len(samples), loss, micro_batch=micro_batch, ranks=ranks)
