"""Takes learner steps on one batch, each when a line comes in: a process of `benchmarks.learner_step`.

It runs on the code of any checkout that is on PYTHONPATH, so it asks for little of it.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace

import numpy as np
import torch

from actors.policy import Policy
from actors.rollout import rollout
from cluster.config import load_words
from cluster.prompts import make_requests, prompts_of, read_prompts
from learner.batch import Batch, collate
from learner.learner import Learner
from rewards.weighted import WeightedSum


def main() -> None:
    """Sample a batch, then step whenever told."""
    config = load_words(sys.argv[1:])
    policy = Policy.load(config.policy.model_copy(update={"model": config.pipeline}), config.seed)
    reward = WeightedSum.make(config.makers, {name: reward.weight for name, reward in config.rewards.items()})
    objective = config.objective.build()
    learner = Learner(config.learner, policy, objective, config.seed, reward)
    plan = objective.plan(policy.transitions)
    if plan.noisy_steps is not None:
        sys.exit("error: A window of steps with noise is another chain in each iteration; set objective.window=null.")
    requests = make_requests(
        prompts_of(read_prompts(config.prompts.train), 0, config.prompts_per_iteration, config.seed),
        config.prompts.samples,
        config.samplers.request_size,
        seed=config.seed,
        iteration=0,
        most=None,
        stored_steps=plan.stored_steps,
        share_init_noise=plan.share_init_noise,
        clean=plan.clean,
    )
    sampled = [rollout(policy, request) for request in requests]
    scores = [
        reward.score(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255, request.prompts).numpy()
        for (pixels, _), request in zip(sampled, requests, strict=True)
    ]
    batch = collate([trajectories for _, trajectories in sampled], np.concatenate(scores))
    step(learner, policy, batch)  # whose ratios are checked, as are the next one's; no later one's are
    for _ in sys.stdin:
        parts = objective.parts(batch, torch.Generator())
        transitions = sum(len(part.samples) * part.columns.shape[-1] for part in parts)
        print("step", json.dumps(step(learner, policy, batch) | {"transitions": transitions}), flush=True)


def step(learner: Learner, policy: Policy, batch: Batch) -> dict[str, float]:
    """Take one as on a fresh batch, and measure it: at rate 0 the policy stays the one that drew this batch."""
    for group in learner.optimizer.param_groups:
        group["lr"] = 0.0
    before, started = policy.evaluations, time.perf_counter()
    learner.step(replace(batch, version=learner.version))
    return {
        "seconds": time.perf_counter() - started,
        "images": len(batch.prompts),
        "evaluations": (policy.evaluations - before) / policy.passes,
    }


if __name__ == "__main__":
    main()
