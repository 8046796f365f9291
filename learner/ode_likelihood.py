"""The log-likelihood of an image itself, where a chain's log-probabilities are those of one way to it.

The probability-flow ODE takes noise to images and every image back to its noise (Song et al. 2021, arXiv 2011.13456,
section 4.3 and appendix D.2). In the coordinates of flow matching, z = x / (signal + sigma) at
s = sigma / (signal + sigma), it reads dz/ds = u(z, s) = eps_theta - x0_theta for every model, whatever it predicts, and

    log p(z_T) = log p(z_0) + int div u ds       from the image's s to that of pure noise.

The integral goes over the states of the policy's chain by Heun's method, so it is as exact as they are many; the
image's own state is seen at the last timestep. The divergence is exact with one probe a dimension, and unbiased with
random signs for probes (Hutchinson's estimate). What follows is the law that the deterministic sampler draws from,
which is the stochastic chain's only as far as the model's predictions are those of one law at all levels of noise.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from actors.conditioning import Conditioning
from actors.policy import Policy
from actors.rollout import noise
from learner.batch import Batch
from learner.coupled import backward_coupled
from learner.fitting import in_pieces
from learner.likelihood import REFERENCE_ADAPTER, Loss, Reference, of_table
from learner.ranks import ALONE, Ranks

_DRAWS = 2**20  # beyond the draws of any chain


def every_dimension(samples: int, shape: tuple[int, ...]) -> Tensor:
    """Probes `(D, samples, *shape)` float32 with which the divergence is exact, D the number of dimensions."""
    size = math.prod(shape)
    return (math.sqrt(size) * torch.eye(size)).view(size, 1, *shape).expand(size, samples, *shape)


def random_signs(keys: np.ndarray, shape: tuple[int, ...], probes: int = 1) -> Tensor:
    """Probes `(probes, B, *shape)` float32 of +-1 that belong to samples.

    Args:
        keys: `(B, 5)`, see `Trajectories.keys`: the same sample has the same probes under every policy, so that what
            they miss mostly cancels in a log-ratio.
        shape: Of a state.
        probes: How many.
    """
    return torch.stack([torch.where(noise(keys, _DRAWS + i, shape) < 0, -1.0, 1.0) for i in range(probes)])


def ode_log_prob(policy: Policy, image: Tensor, conditioning: Conditioning, probes: Tensor) -> Tensor:
    """Log-density `(B,)` of images' latents under the probability-flow ODE, nats per dimension.

    With gradient to the policy's parameters where gradients are taken; the chain's number of steps times two passes
    and, with n probes, as many n ways back.

    Args:
        policy: Whose density.
        image: `(B, *latent_shape)`, final latents.
        conditioning: Of `Policy.encode`, B rows.
        probes: `(n, B, *latent_shape)`, of `every_dimension` or `random_signs`.
    """
    chain = policy.transitions
    scale = chain.signal + chain.sigma
    time = chain.sigma / scale
    probes = probes.to(image)
    size = image[0].numel()
    z, integral = image.detach() / float(scale[-1]), torch.zeros(len(image), device=image.device, dtype=image.dtype)
    for state in range(len(chain), chain.first_step, -1):
        interval = float(time[state - 1] - time[state])
        here, divergence = _velocity(policy, z, state, conditioning, probes)
        there, next_divergence = _velocity(policy, z + interval * here, state - 1, conditioning, probes)
        z = z + interval / 2 * (here + there)
        integral = integral + interval / 2 * (divergence + next_divergence)
    x = z * float(scale[chain.first_step])
    gaussian = -(x**2).flatten(1).mean(dim=1) / 2 - math.log(2 * math.pi) / 2
    return gaussian + math.log(float(scale[chain.first_step] / scale[-1])) + integral / size


def backward_ode(
    policy: Policy,
    batch: Batch,
    samples: Tensor,
    behaviour: Tensor,
    loss: Loss,
    *,
    micro_batch: int,
    reference: Reference = "behaviour",
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Add the gradient of a loss of images' likelihoods to the policy's parameters: one column, no KL.

    Each image has one probe of random signs, the same under every policy. Arguments as in
    `learner.likelihood.backward`, but for `behaviour`: `(B,)`, of `ode_log_probs`.
    """
    behaviour = behaviour[samples].to(policy.device)

    def evaluate(piece: Tensor, again: bool) -> tuple[Tensor, Tensor, Tensor]:
        rows, other = samples[piece], behaviour[piece]
        if reference != "behaviour" and not again:
            with torch.no_grad(), policy.using(None if reference == "pretrained" else REFERENCE_ADAPTER):
                other = _of_rows(policy, batch, rows)
        found = _of_rows(policy, batch, rows)
        return found, other, torch.zeros_like(found)

    of, images = of_table(loss, behaviour[:, None]), images_at_a_time(policy, micro_batch)
    return backward_coupled(len(samples), 3, evaluate, of, micro_batch=images, device=policy.device, ranks=ranks)


def images_at_a_time(policy: Policy, micro_batch: int) -> int:
    """Images whose way back to the noise keeps about as much as a micro-batch of transitions, at least one."""
    return max(1, micro_batch // (2 * len(policy.transitions)))


@torch.no_grad()
def ode_log_probs(policy: Policy, batch: Batch, at_a_time: int = 16, ranks: Ranks = ALONE) -> Tensor:
    """Log-densities `(B,)` of a batch's images as `backward_ode` takes them, nats per dimension.

    Args:
        policy: Whose.
        batch: With `clean` and `keys`.
        at_a_time: Images that go through the network together.
        ranks: Who shares the work.
    """
    found = torch.zeros(len(batch.prompts), device=policy.device)

    def enter(rows: Tensor) -> None:
        found[rows] = _of_rows(policy, batch, rows)

    in_pieces(ranks.pieces(len(found), at_a_time) if len(found) else [], enter, ranks)
    return ranks.sum_(found)


def _of_rows(policy: Policy, batch: Batch, rows: Tensor) -> Tensor:
    assert batch.clean is not None
    assert batch.keys is not None
    conditioning = policy.encode([batch.prompts[row] for row in rows.tolist()])
    probes = random_signs(batch.keys[rows.numpy()], policy.latent_shape)
    return ode_log_prob(policy, batch.clean[rows].to(policy.device), conditioning, probes)


def _velocity(
    policy: Policy, z: Tensor, state: int, conditioning: Conditioning, probes: Tensor
) -> tuple[Tensor, Tensor]:
    """The ODE's velocity at a state of the chain, and its divergence `(B,)`."""
    wanted, chain = torch.is_grad_enabled(), policy.transitions
    index = torch.full((len(z),), min(state, len(chain) - 1))
    # The fused attention has no second derivative.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        z = z if wanted and z.requires_grad else z.detach().requires_grad_()
        x = z * float(chain.signal[state] + chain.sigma[state])
        velocity = chain.velocity(x, policy.predict(x, index, conditioning), torch.full((len(z),), state))
        traces = []
        for number, probe in enumerate(probes):
            keep = wanted or number + 1 < len(probes)
            (product,) = torch.autograd.grad(velocity, z, probe, retain_graph=keep, create_graph=wanted)
            traces.append((product * probe).flatten(1).sum(dim=1))
        divergence = torch.stack(traces).mean(dim=0)
    return (velocity, divergence) if wanted else (velocity.detach(), divergence.detach())
