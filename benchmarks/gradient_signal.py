"""Which denoising steps carry a learning signal: agreement of PPOD's gradients between independent batches.

    python -m benchmarks.gradient_signal [config.yaml] [key=value ...]

For each sampler step, the gradient of the preference loss at the pretrained model is computed on independent batches,
and the mean cosine between them is printed: 1 is pure signal, 0 pure noise. Steps whose cosine is near 0 only add noise
to an update, which is why the embedded world trains the first two of its twelve.
"""

from __future__ import annotations

import sys
from itertools import combinations

import numpy as np
import torch

from actors.policy import Policy
from actors.rollout import rollout
from benchmarks.arguments import parse_config
from cluster.prompts import make_requests, read_prompts
from learner.batch import collate
from learner.objectives.objective import Part
from rewards.actor import RewardActor

BATCHES = 4


def main(arguments: list[str]) -> None:
    """Measure and print."""
    config = parse_config("benchmarks.gradient_signal", __doc__, arguments)
    policy = Policy.load(config.policy.model_copy(update={"model": config.pipeline}), config.seed)
    objective = config.objective.build()
    steps = policy.transitions.trainable_steps
    rewards = RewardActor(config.makers)
    gradients: dict[str, list[np.ndarray]] = {name: [] for name in config.rewards}  # (steps, parameters) a batch
    for iteration in range(BATCHES):
        requests = make_requests(
            read_prompts(config.prompts.train),
            config.prompts.samples,
            config.samplers.request_size,
            seed=config.seed,
            iteration=iteration,
            most=None,
            stored_steps=steps,
            share_init_noise=objective.plan(policy.transitions).share_init_noise,
        )
        sampled = [rollout(policy, request) for request in requests]
        scored = [rewards.score(pixels, r.prompts) for (pixels, _), r in zip(sampled, requests, strict=True)]
        values = np.concatenate([scores.values for scores in scored], axis=1)
        for name, scores in zip(scored[0].names, values, strict=True):
            batch = collate([trajectories for _, trajectories in sampled], scores / scores.std())
            rows = []
            for column in range(len(steps)):
                for parameter in policy.parameters:
                    parameter.grad = None
                part = Part(torch.arange(len(scores)), torch.tensor([column]))
                objective.backward(policy, batch, part, config.learner.at_a_time(policy.device))
                rows.append(np.concatenate([p.grad.flatten().numpy() for p in policy.parameters if p.grad is not None]))
            gradients[name].append(np.stack(rows))
    print(f"{'step':18s}" + "".join(f"{step:7d}" for step in steps))
    for name, batches in gradients.items():
        unit = [g / np.linalg.norm(g, axis=1, keepdims=True) for g in batches]
        cosines = np.mean([(a * b).sum(axis=1) for a, b in combinations(unit, 2)], axis=0)
        print(f"{name[:18]:18s}" + "".join(f"{cosine:7.2f}" for cosine in cosines))


if __name__ == "__main__":
    main(sys.argv[1:])
