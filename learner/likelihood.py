"""Likelihood ratios of stored transitions, and exact gradients of losses of many of them (`learner.coupled`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from actors.policy import Policy
from actors.rollout import noise
from actors.transitions import kl, log_prob
from learner.batch import Batch
from learner.coupled import backward_coupled
from learner.fitting import in_pieces
from learner.ranks import ALONE, Ranks

# Against what a log-ratio is taken: the log-probabilities that the sampler stored, the pretrained model, or the
# snapshot in the adapter `REFERENCE_ADAPTER`.
Reference = Literal["behaviour", "pretrained", "snapshot"]
REFERENCE_ADAPTER = "reference"
_EXCHANGED = 256  # means of transitions, at a time: all of an update are as large as its latents


@dataclass(frozen=True)
class Likelihoods:
    """Log-probabilities of b samples at k steps, nats per dimension, `(b, k)` float32 each."""

    log_prob: Tensor  # under the policy, with gradient
    behaviour: Tensor  # under the policy that sampled
    reference: Tensor  # under the reference
    kl: Tensor  # KL(policy || pretrained), with gradient; zeros where it was not asked for

    @property
    def log_ratio(self) -> Tensor:
        """g = log pi_theta - log pi_ref."""
        return self.log_prob - self.reference

    @property
    def anchor(self) -> Tensor:
        """a = log pi_old - log pi_ref."""
        return self.behaviour - self.reference


Loss = Callable[[Likelihoods], tuple[Tensor, dict[str, float]]]


def backward(
    policy: Policy,
    batch: Batch,
    samples: Tensor,
    columns: Tensor,
    loss: Loss,
    *,
    micro_batch: int,
    reference: Reference = "behaviour",
    with_kl: bool = False,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Add the gradient of `loss` over samples x columns, or this rank's share of it, to the policy's parameters.

    Args:
        policy: Whose log-probabilities.
        batch: The stored transitions.
        samples: `(b,)` int64, rows of the batch.
        columns: `(k,)` int64, which of the K stored transitions.
        loss: Of the `Likelihoods` to (scalar, metrics).
        micro_batch: Transitions that go through the network at a time.
        reference: Against what the ratio is taken.
        with_kl: Whether the loss uses `kl`.
        ranks: Who shares the work.

    Returns:
        The loss's metrics, with `ratio/max_log`: the largest |log pi_theta - log pi_old| before this update.
    """
    shape = (len(samples), len(columns))
    rows, cols = samples.repeat_interleave(shape[1]), columns.repeat(shape[0])
    behaviour = batch.log_probs[rows, cols].to(policy.device)
    # The pretrained model's means, which the KL is to, for a later pass with a gradient: of all rows, as large as the
    # states that they begin in, so in the host's memory. One graph keeps its own, but its way back may not fit.
    means = batch.latents.new_empty(len(rows) if with_kl else 0, *batch.latents.shape[2:])

    def seen_by(adapter: str | None, piece: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad(), policy.using(adapter):
            return _step(policy, batch, rows[piece], cols[piece])

    def evaluate(piece: Tensor, again: bool) -> tuple[Tensor, Tensor, Tensor]:
        other = behaviour[piece]
        if not again and (with_kl or reference == "pretrained"):
            x_next, before, std = seen_by(None, piece)
            if with_kl:
                means[piece] = before.to(means.device)
            if reference == "pretrained":
                other = log_prob(x_next, before, std)
        elif with_kl:
            before = means[piece].to(policy.device)
        if not again and reference == "snapshot":
            other = log_prob(*seen_by(REFERENCE_ADAPTER, piece))
        x_next, mean, std = _step(policy, batch, rows[piece], cols[piece])
        found = log_prob(x_next, mean, std)
        return found, other, kl(mean, before, std) if with_kl else torch.zeros_like(found)

    return backward_coupled(
        len(rows),
        3,
        evaluate,
        of_table(loss, behaviour.view(shape)),
        micro_batch=micro_batch,
        device=policy.device,
        ranks=ranks,
    )


def of_table(loss: Loss, behaviour: Tensor) -> Callable[[Tensor], tuple[Tensor, dict[str, float]]]:
    """A loss of likelihoods as `backward_coupled` takes it: of log-probabilities, references and KLs `(3, b k)`.

    Args:
        loss: Of `Likelihoods`.
        behaviour: `(b, k)`, under the policy that sampled.
    """

    def of(table: Tensor) -> tuple[Tensor, dict[str, float]]:
        log_probs, references, kls = table.view(3, *behaviour.shape)
        value, metrics = loss(Likelihoods(log_probs, behaviour, references.detach(), kls))
        off = (log_probs.detach() - behaviour).abs().max()
        return value, {**metrics, "ratio/max_log": float(off)}

    return of


@dataclass(frozen=True)
class Transition:
    """n stored transitions as the policy sees them now, `(n, ...)` float32 each."""

    x_next: Tensor
    mean: Tensor  # with gradient
    std: Tensor  # (n, 1, ...)
    behaviour_mean: Tensor  # of the policy that sampled: taken again, or what was drawn less the noise of its keys
    pretrained_mean: Tensor | None  # where it was asked for

    @property
    def log_prob(self) -> Tensor:
        """Of `x_next` under the policy, `(n,)` nats per dimension, with gradient."""
        return log_prob(self.x_next, self.mean, self.std)


def transition_of(policy: Policy, batch: Batch, rows: Tensor, cols: Tensor, pretrained: bool = False) -> Transition:
    """Transitions `(rows, cols)`, `(n,)` int64 each, of a batch with its noise's keys, under the policy.

    Args:
        policy: With gradient to its parameters.
        batch: Where they are.
        rows: Samples.
        cols: Stored steps.
        pretrained: Whether the pretrained model's mean is wanted too.
    """
    before = None
    if pretrained:
        with torch.no_grad(), policy.using(None):
            before = _step(policy, batch, rows, cols)[1]
    x_next, mean, std = _step(policy, batch, rows, cols)
    if batch.means is not None:
        return Transition(x_next, mean, std, batch.means[rows, cols].to(mean.device), before)
    assert batch.keys is not None
    keys = batch.keys[rows.numpy()]
    numbers = batch.steps[cols].tolist()
    drawn = [noise(keys[i : i + 1], number + 1, policy.latent_shape) for i, number in enumerate(numbers)]
    return Transition(x_next, mean, std, x_next - std * torch.cat(drawn).to(mean.device), before)


def log_probs_of(policy: Policy, batch: Batch, rows: Tensor, cols: Tensor) -> Tensor:
    """Log-probabilities `(n,)` of transitions `(rows, cols)` under the policy, with gradient, nats per dimension."""
    return log_prob(*_step(policy, batch, rows, cols))


@torch.no_grad()
def retaken(
    policy: Policy,
    batch: Batch,
    parts: Iterable[tuple[Tensor, Tensor]],
    micro_batch: int,
    ranks: Ranks = ALONE,
    *,
    means: bool = False,
) -> tuple[Batch, float]:
    """A batch with the behaviour policy's log-probabilities as `backward` computes them, which a sampler need not.

    In half precision a network rounds differently in batches of another size, and ratios to what the sampler stored
    would begin off 1. Here every transition goes through the network in the micro-batch that it has in the update.

    Args:
        policy: As it was when it sampled the batch.
        batch: The stored transitions.
        parts: Samples `(b,)` and columns `(k,)` of the updates to come; of one that comes again the first counts.
        micro_batch: Transitions that go through the network at a time.
        ranks: Who shares the work.
        means: Whether the transitions' means are wanted too, which samplers do not store.

    Returns:
        The batch, in which what no part trains on is as the sampler stored it, without means; and the largest
        |difference| from what it stored, nats per dimension.
    """
    own, known = batch.log_probs.clone(), torch.zeros_like(batch.log_probs, dtype=torch.bool)
    own_means = torch.full_like(batch.next_latents, float("nan")) if means else None
    for samples, columns in parts:
        rows, cols = samples.repeat_interleave(len(columns)), columns.repeat(len(samples))
        fresh = ~known[rows, cols]
        if not fresh.any():
            continue
        values = torch.zeros(len(rows), device=policy.device)
        centres = torch.zeros(len(rows) if means else 0, *policy.latent_shape)

        def enter(
            piece: Tensor, rows: Tensor = rows, cols: Tensor = cols, values: Tensor = values, centres: Tensor = centres
        ) -> None:
            x_next, mean, std = _step(policy, batch, rows[piece], cols[piece])
            values[piece] = log_prob(x_next, mean, std).detach()
            if means:
                centres[piece] = mean.detach().to(centres.device)

        pieces = ranks.pieces(len(rows), micro_batch)
        with torch.set_grad_enabled(len(pieces) == 1):  # as in `backward`; compiled networks round by it
            in_pieces(pieces, enter, ranks)
        own[rows[fresh], cols[fresh]] = ranks.sum_(values).to(own.device)[fresh]
        if own_means is not None:
            for some in torch.nonzero(fresh).flatten().split(_EXCHANGED):
                own_means[rows[some], cols[some]] = ranks.sum_(centres[some].to(policy.device)).to(own.device)
        known[rows, cols] = True
    return replace(batch, log_probs=own, means=own_means), float((own - batch.log_probs).abs().max())


@torch.no_grad()
def largest_log_ratio(policy: Policy, batch: Batch, micro_batch: int, rows: int = 4, ranks: Ranks = ALONE) -> float:
    """The largest |log pi_theta - log pi_old|, nats per dimension, over the stored steps of a batch's first samples.

    NaN if one of them is; 0 if no stored step adds noise, so that none has a density.

    Args:
        policy: Whose log-probabilities.
        batch: The stored transitions, at least one.
        micro_batch: Transitions that go through the network at a time.
        rows: How many samples.
        ranks: Remembers how many transitions fit into memory.
    """
    noisy = torch.nonzero(policy.transitions.std[batch.steps] > 0).flatten()
    if not len(noisy):
        return 0.0
    pairs = torch.cartesian_prod(torch.arange(min(rows, len(batch.prompts))), noisy)

    def run(piece: Tensor) -> Tensor:
        row, col = pairs[piece].T
        found = log_probs_of(policy, batch, row, col)
        return (found - batch.log_probs[row, col].to(found.device)).abs().max()

    pieces = torch.arange(len(pairs)).split(micro_batch)
    return float(torch.stack([largest for _, largest in in_pieces(pieces, run, ranks)]).max())


def _step(policy: Policy, batch: Batch, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Transitions `(n,)` as the acting adapter sees them: `x_next`, its mean and its standard deviation."""
    x, x_next = (field[rows, cols].to(policy.device) for field in (batch.latents, batch.next_latents))
    step = batch.steps[cols]
    conditioning = policy.encode([batch.prompts[row] for row in rows.tolist()])
    mean = policy.transitions.mean(x, policy.predict(x, step, conditioning), step)
    return x_next, mean, policy.transitions.std_at(step, x)
