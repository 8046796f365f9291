"""What the reward's gradient along the chain is worth: the gain in the final reward of following it, step by step.

    python -m benchmarks.reward_gradient_signal [config.yaml] [key=value ...]

For a gradient-informed objective the drift of a transition is the gradient of the predicted image's reward. On
trajectories of the pretrained model (nothing is guided, nothing is trained) the final reward r rises with a drift v of
a transition, in units of its noise z, at the rate E[r <v, z>] (the score-function identity). Divided by the root mean
square of v that is the *gain*: to first order, following the drift with a KL of k nats raises the reward by
gain * sqrt(2 k), and no drift gains more than the standard deviation of r. `raw` is the gradient itself; `unit` is the
gradient with every sample's norm made the same, the limit of a small `objective.max_drift`.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from actors.policy import Policy
from actors.rollout import noise
from actors.trajectories import Request
from benchmarks.arguments import parse_config
from cluster.prompts import make_requests, read_prompts
from learner.reward_gradient import RewardModel, reward_gradient
from rewards.weighted import WeightedSum

BATCHES = 2


def follow(policy: Policy, reward: RewardModel, request: Request) -> tuple[Tensor, Tensor, Tensor]:
    """Roll a request out.

    Returns:
        The noise of each transition `(B, T, D)`; the gradient of the predicted image's reward at its start, the same
        shape; and the reward of the predicted images and of the final one `(B, T + 1)`.
    """
    transitions, conditioning = policy.transitions, policy.encode(request.prompts)
    x = noise(request.keys, 0, policy.latent_shape).to(policy.device)
    noises, gradients, scores = [], [], []
    for step in range(len(transitions)):
        index, leaf = torch.full((len(x),), step), x.detach().requires_grad_()
        prediction = policy.predict(leaf, index, conditioning)
        images = policy.decode(transitions.clean(leaf, prediction, index))
        scores.append(reward.score(images.detach(), request.prompts))
        gradients.append(reward_gradient(reward, images, leaf, request.prompts)[0].flatten(1))
        with torch.no_grad():
            z = noise(request.keys, step + 1, policy.latent_shape).to(policy.device)
            x = transitions.mean(x, prediction.detach(), index) + transitions.std_at(index, x) * z
            noises.append(z.flatten(1))
    with torch.no_grad():
        scores.append(reward.score(policy.decode(x), request.prompts))
    return torch.stack(noises, dim=1), torch.stack(gradients, dim=1), torch.stack(scores, dim=1)


def main(arguments: list[str]) -> None:
    """Measure and print."""
    config = parse_config("benchmarks.reward_gradient_signal", __doc__, arguments)
    policy = Policy.load(config.policy.model_copy(update={"model": config.pipeline}), config.seed)
    reward = WeightedSum.make(config.makers, {name: reward.weight for name, reward in config.rewards.items()})
    requests = [
        request
        for iteration in range(BATCHES)
        for request in make_requests(
            read_prompts(config.prompts.train),
            config.prompts.samples,
            config.samplers.request_size,
            seed=config.seed,
            iteration=iteration,
            most=None,
        )
    ]
    found = [follow(policy, reward, request) for request in requests]
    noises, gradients, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
    groups = torch.tensor([index for request in requests for index in request.prompt_index], device=scores.device)
    for group in groups.unique():  # within a prompt: which prompt it is cannot be learned
        scores[groups == group] -= scores[groups == group].mean(dim=0)
    final, spread = scores[:, -1], scores.std(dim=0)
    drift = policy.transitions.std.to(noises.device)[:, None] * gradients
    norms = gradients.norm(dim=2)
    raw, error = gain(drift, noises, final)
    unit, unit_error = gain(torch.nn.functional.normalize(drift, dim=2), noises, final)
    print(f"{len(final)} images; standard deviation of the reward within a prompt: {float(spread[-1]):.2f}")
    print("step  predicted ~ final  gradient: median, rms   gain: raw        unit")
    for step in range(len(policy.transitions)):
        correlation = (scores[:, step] * final).mean() / spread[step] / spread[-1]
        median, rms = norms[:, step].median(), norms[:, step].square().mean().sqrt()
        print(
            f"{step:4d}  {correlation:17.2f}  {median:16.2f} {rms:6.2f}   "
            f"{raw[step]:+.2f} ± {error[step]:.2f}   {unit[step]:+.2f} ± {unit_error[step]:.2f}"
        )


def gain(drift: Tensor, noises: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor]:
    """The gain of a drift at each step and its standard error, `(T,)` each.

    Args:
        drift: `(B, T, D)`, in units of the noise.
        noises: `(B, T, D)`, standard normal; each drawn after the drift of its step was known.
        rewards: `(B,)`, centred.
    """
    rates = (drift * noises).sum(dim=2) * rewards[:, None] / drift.square().sum(dim=2).mean(dim=0).sqrt()
    return rates.mean(dim=0), rates.std(dim=0) / len(rates) ** 0.5


if __name__ == "__main__":
    main(sys.argv[1:])
