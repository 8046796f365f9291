"""What losses of the forward process share: they noise finished images again and never look at how these were drawn.

A sample's final latents x0 are noised to a state of a chain, x = signal x0 + sigma n, and the network's image
x0_theta(x) is compared with x0. Any solver may have drawn x0, also one without noise, and no transition is kept.
Everything is said in the predicted image, which every kind of network has; `velocity_error` and `output_error` are the
same difference as that of another prediction. The states are those that samplers visit, or all at which the model was
trained (`States`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from actors.conditioning import Conditioning
from actors.policy import Policy
from actors.rollout import noise
from actors.training_chain import training_chain
from actors.transitions import Transitions, over
from learner.batch import Batch

# To which states images are noised: those of the chain that samplers go, or all that the model was trained at.
Timesteps = Literal["chain", "training"]
_FIRST = 2**32  # beyond the steps of any chain, whose noise has the same keys


class States(NamedTuple):
    """The states that images are noised to, and how often each is drawn; all arguments called `steps` count in them."""

    chain: Transitions
    weights: Tensor | None  # (T,) float64, of the chain's states; `None`: those in which an adapter acts, evenly

    @classmethod
    def of(cls, policy: Policy, timesteps: Timesteps) -> States:
        """The states of a policy's chain, or of its model's training.

        Of all training timesteps a network of velocities sees the middle more often: their number is T times the
        logistic function of a standard normal variable (Esser et al., arXiv 2403.03206, and diffusers' training).
        Others see all alike.
        """
        if timesteps == "chain":
            return cls(policy.transitions, None)
        chain = training_chain(policy.config, policy.transitions)
        if chain.prediction != "velocity":
            return cls(chain, None)
        edges = torch.linspace(0, 1, len(chain) + 1, dtype=torch.float64).logit()
        weights = torch.special.ndtr(edges).diff()
        return cls(chain, weights.where(torch.arange(len(chain)) < chain.adapted_steps, 0.0))

    def draw(self, samples: int, count: int, generator: torch.Generator) -> Tensor:
        """Different states `(samples, count)` int64 for each sample, or all where there are no more."""
        count = min(count, self.chain.adapted_steps)
        if self.weights is None:
            return draw_steps(samples, self.chain.adapted_steps, count, generator)
        return torch.multinomial(self.weights.expand(samples, -1), count, generator=generator)

    def draw_for(self, groups: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """The same of samples `(n,)` in groups `(n,)`, each of which shares its states."""
        found, index = groups.unique(return_inverse=True)
        return self.draw(len(found), count, generator)[index]


class Noised(NamedTuple):
    """n images, noised."""

    x: Tensor  # (n, ...) float32, the state
    clean: Tensor  # (n, ...) float32, the image's latents
    step: Tensor  # (n,) int64, the sampler step that starts at the state
    conditioning: Conditioning  # n rows

    def image(self, policy: Policy, guided: bool) -> Tensor:
        """The image `(n, ...)` that the acting adapter sees in the states."""
        return policy.clean(self.x, self.step, self.conditioning, guided)

    @torch.no_grad()
    def image_of(self, adapter: str | None, policy: Policy, guided: bool) -> Tensor:
        """The image `(n, ...)` that another adapter sees, or none (`None`); without gradient."""
        with policy.using(adapter):
            return self.image(policy, guided)


def noised(
    policy: Policy,
    batch: Batch,
    rows: Tensor,
    steps: Tensor,
    draw: int | Tensor = 0,
    *,
    per_group: bool = False,
    dropout: float = 0.0,
) -> Noised:
    """A batch's images, noised to states of the chain; the same arguments give the same noise.

    Args:
        policy: Whose chain.
        batch: With `clean`.
        rows: `(n,)` int64, samples of the batch.
        steps: `(n,)` int64, states of the chain, by the step that starts there.
        draw: Which of the noises that are independent of each other, one for all or `(n,)`; each step has its own in
            each.
        per_group: All samples of a group get the same noise at the same step.
        dropout: Share of the samples, or with `per_group` of the groups, whose prompt is left out; others in each draw.
    """
    assert batch.clean is not None
    assert batch.keys is not None
    keys = batch.keys[rows.numpy()].copy()
    if per_group:
        keys[:, 3] = 0
    transitions = policy.transitions
    numbers = (_FIRST + draw * len(transitions) + steps).tolist()
    drawn = torch.cat([noise(keys[i : i + 1], number, policy.latent_shape) for i, number in enumerate(numbers)]).to(
        policy.device
    )
    clean = batch.clean[rows].to(policy.device)
    signal, sigma = (over(table.float()[steps], clean) for table in (transitions.signal, transitions.sigma))
    prompts: list[str | None] = [batch.prompts[row] for row in rows.tolist()]
    if dropout:
        left_out = (_FIRST - 1 - torch.as_tensor(draw)).expand(len(rows)).tolist()
        lots = torch.cat([noise(keys[i : i + 1], number, (1,)) for i, number in enumerate(left_out)])
        least = float(torch.special.ndtri(torch.tensor(dropout)))
        prompts = [
            None if lot < least else prompt for lot, prompt in zip(lots.flatten().tolist(), prompts, strict=True)
        ]
    return Noised(signal * clean + sigma * drawn, clean, steps, policy.encode(prompts))


def draw_steps(samples: int, steps: int, count: int, generator: torch.Generator) -> Tensor:
    """Different steps `(samples, count)` int64 below `steps` for each sample, drawn evenly."""
    return torch.rand(samples, steps, generator=generator).argsort(dim=1)[:, :count]


def mean_square(difference: Tensor) -> Tensor:
    """Mean square over the dimensions of each sample, `(n,)`."""
    return difference.square().flatten(1).mean(dim=1)


def flow_time(transitions: Transitions, steps: Tensor, like: Tensor) -> Tensor:
    """sigma / (signal + sigma) at states, `(n,)` float32: the time of flow matching, whatever the chain."""
    return (transitions.sigma / (transitions.signal + transitions.sigma))[steps].float().to(like.device)


def output_slope(transitions: Transitions, steps: Tensor, like: Tensor) -> Tensor:
    """|d x0 / d output| of the network at states, `(n,)` float32; for a network of velocities the time itself."""
    return transitions.output_slope[steps].float().to(like.device)


def velocity_error(transitions: Transitions, image: Tensor, other: Tensor, steps: Tensor) -> Tensor:
    """Mean square difference `(n,)` of two predicted images' velocities u = n - x0, in flow matching's coordinates.

    Args:
        transitions: The chain.
        image: `(n, ...)` float32.
        other: The same; the image itself makes it the loss of flow matching.
        steps: `(n,)` int64, the states.
    """
    return mean_square(image - other) / flow_time(transitions, steps, image) ** 2


def output_error(transitions: Transitions, image: Tensor, other: Tensor, steps: Tensor) -> Tensor:
    """The same of what the network predicts, such as the noise."""
    return mean_square(image - other) / output_slope(transitions, steps, image) ** 2
