"""What methods share that go back from the reward through the chain: its end once more with a graph, and their loss.

A sampler's chain has no graph. The learner takes its last steps again, from a stored state and with the noise that the
sampler added, which its keys say: at the sampler's weights the same image comes out, bit for bit where the same samples
go through the network together. What a network kept for the way back may be given up and computed again, step by step,
so that the memory is that of one step, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from actors.conditioning import Conditioning
from actors.policy import Policy
from actors.rollout import Predict, chain
from actors.transitions import Transitions, over
from learner.batch import Batch
from learner.reward_gradient import RewardModel


def climbed(reward: RewardModel, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """A function of images that has the reward's gradient, wherever the reward was computed.

    Args:
        reward: Judges the images.
        images: `(n, 3, H, W)` float32 in [0, 1], with their graph.
        prompts: One an image.

    Returns:
        Its values `(n,)`, whose gradient is 0 where the reward could not judge; and the scores `(n,)`, NaN there.
    """
    scores, gradient = reward.score_and_grad(images.detach(), prompts)
    judged = scores.isfinite() & gradient.flatten(1).isfinite().all(dim=1).to(scores.device)
    gradient = torch.where(over(judged, gradient), gradient, 0.0).to(images.device)
    return (images * gradient).flatten(1).sum(dim=1), torch.where(judged, scores, torch.nan).to(images.device)


def last_adapted(chain: Transitions, count: int | None) -> tuple[int, ...]:
    """The last steps of a chain in which the adapter acts; a way back to them goes through those after them too.

    Args:
        chain: All of its steps.
        count: How many, or all there are; `None` is all.
    """
    steps = range(chain.first_step, chain.adapted_steps)
    return tuple(steps if count is None else steps[-count:])


def end_of_chain(policy: Policy, batch: Batch, rows: Tensor, column: int, predict: Predict) -> Tensor:
    """The final latents `(n, ...)` of samples whose chain is taken again from a stored state on, with a graph.

    Args:
        policy: Who acts now.
        batch: With the noise's keys.
        rows: `(n,)` int64, samples of the batch.
        column: Of the stored state where the gradient ends.
        predict: The policy's prediction, or `recomputed` of it.
    """
    assert batch.keys is not None
    x = batch.latents[rows, column].to(policy.device)
    conditioning = policy.encode([batch.prompts[row] for row in rows.tolist()])
    for step in chain(policy, x, conditioning, batch.keys[rows.numpy()], int(batch.steps[column]), predict=predict):
        x = step.x_next
    return x


def recomputed(policy: Policy, prediction: Predict | None = None) -> Predict:
    """A prediction, of whose graph only the input is kept; the rest is computed again on the way back.

    Args:
        policy: Whose networks are asked.
        prediction: `None` is `policy.predict`; or `policy.pretrained`.
    """

    def predict(x: Tensor, step: Tensor, conditioning: Conditioning) -> Tensor:
        found: Tensor = checkpoint(
            prediction or policy.predict,
            x,
            step,
            conditioning,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing is drawn within
            context_fn=lambda: (nullcontext(), _uncounted(policy)),
        )
        return found

    return predict


@contextmanager
def _uncounted(policy: Policy) -> Iterator[None]:
    """A block whose evaluations are part of the way back, which is not counted by itself."""
    before = policy.evaluations
    try:
        yield
    finally:
        policy.evaluations = before
