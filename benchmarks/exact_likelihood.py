"""How far a chain's log-ratio and the image's own agree, for what a run has learned.

    python -m benchmarks.exact_likelihood RUN [key=value ...] [--images 48] [--ode-steps 48] [--probes all]

Images are drawn by the trained policy. Of each, log p_trained - log p_pretrained is taken twice: summed over the steps
of the chain that drew it, which is what every objective of likelihood ratios trains, and of the image alone by the
probability-flow ODE (`learner.ode_likelihood`). The first is a draw around the second only in the mean over the chains
that lead to an image, so its spread says how much of a chain's log-ratio is about the way and not about the image.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from scipy.stats import spearmanr
from tqdm import tqdm

from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import EVALUATION
from cluster.arguments import Parser
from cluster.errors import ConfigError, sentence
from cluster.prompts import make_requests, read_prompts
from cluster.trained import find
from learner.batch import Batch, collate
from learner.likelihood import log_probs_of
from learner.ode_likelihood import every_dimension, ode_log_prob, random_signs
from shapes.arguments import positive

_AT_A_TIME = 8  # images


@torch.no_grad()
def chain_log_ratio(policy: Policy, batch: Batch) -> np.ndarray:
    """Of each sample `(B,)`, trained against pretrained, nats of the whole chain."""
    pairs = torch.cartesian_prod(torch.arange(len(batch.prompts)), torch.arange(len(batch.steps)))
    with policy.using(None):
        before = torch.cat([log_probs_of(policy, batch, *piece.T) for piece in pairs.split(16 * _AT_A_TIME)])
    difference = (batch.log_probs - before.cpu().view_as(batch.log_probs)).sum(dim=1)
    found: np.ndarray = (difference * batch.latents[0, 0].numel()).numpy()
    return found


@torch.no_grad()
def image_log_ratio(policy: Policy, batch: Batch, probes: int | None) -> np.ndarray:
    """Of each image `(B,)`, trained against pretrained, nats, by the ODE along a policy's states.

    Args:
        policy: With the trained adapter; its steps are those of the integral.
        batch: With the final latents.
        probes: How many random signs estimate the divergence; `None` is one probe a dimension, which is exact.
    """
    assert batch.clean is not None
    assert batch.keys is not None
    found = []
    for rows in tqdm(torch.arange(len(batch.prompts)).split(_AT_A_TIME), unit="batch", disable=None):
        conditioning = policy.encode([batch.prompts[row] for row in rows.tolist()])
        shape = policy.latent_shape
        signs = every_dimension(len(rows), shape) if probes is None else random_signs(batch.keys[rows], shape, probes)
        image = batch.clean[rows].to(policy.device)
        trained = ode_log_prob(policy, image, conditioning, signs)
        with policy.using(None):
            found.append((trained - ode_log_prob(policy, image, conditioning, signs)) * image[0].numel())
    ratio: np.ndarray = torch.cat(found).cpu().numpy()
    return ratio


def agreement(chain: np.ndarray, image: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """What the two have in common.

    Args:
        chain: `(B,)`, nats.
        image: `(B,)`, nats.
        groups: `(B,)`, samples of one prompt share a number.
    """
    same = [(chain[i] - chain[j]) * (image[i] - image[j]) > 0 for i, j in combinations(range(len(groups)), 2)
            if groups[i] == groups[j]]  # fmt: skip
    within = [values - np.array([values[groups == group].mean() for group in groups]) for values in (chain, image)]
    return {
        "chain: mean, nats": float(chain.mean()),
        "image: mean, nats": float(image.mean()),
        "chain: spread within a prompt": float(within[0].std()),
        "image: spread within a prompt": float(within[1].std()),
        "correlation": float(np.corrcoef(chain, image)[0, 1]),
        "correlation within a prompt": float(np.corrcoef(*within)[0, 1]),
        "rank correlation within a prompt": float(spearmanr(*within).statistic),
        "pairs of a prompt in the same order": float(np.mean(same)),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = Parser("benchmarks.exact_likelihood", __doc__ or "")
    parser.add_argument("run", help="a run's folder, or a checkpoint")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of the policy that differ")
    parser.add_argument("--images", type=positive, default=48, help="how many, at least 8, over the training prompts")
    parser.add_argument("--ode-steps", type=positive, default=48, help="steps of the integral")
    parser.add_argument("--probes", type=_probes, default=None, help="random signs of an image, or all: exact")
    args = parser.parse_intermixed_args(arguments)
    if args.images < 8:
        parser.error("--images must be at least 8; of fewer a correlation says nothing")
    try:
        model = find(args.run, args.settings)
        if model.run is None:
            parser.error(f"{args.run} is in no run's folder, so there are no prompts")
        policy = Policy.load(model.policy)
        if not policy.transitions.stochastic_steps:
            raise ConfigError(
                "No step of the run's chain adds noise, so a chain has no likelihood to compare with; set policy.eta=1 "
                "with policy.solver=ddim, or policy.solver=flow_sde for a flow model."
            )
        fine = Policy.load(model.policy.model_copy(update={"steps": args.ode_steps, "noisy_steps": None}))
        batch = _draw(policy, read_prompts(model.run.prompts.train), args.images, model.run.seed)
        ratios = chain_log_ratio(policy, batch), image_log_ratio(fine, batch, args.probes)
    except KeyboardInterrupt:
        print("stopped; nothing is kept", file=sys.stderr)
        return 130
    except Exception as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1
    found = agreement(*ratios, batch.groups.numpy())
    print(f"{len(batch.prompts)} images of {model.name}, {policy.latent_shape} latents, {args.ode_steps} steps")
    print("\n".join(f"{name:38s} {value:9.3f}" for name, value in found.items()))
    return 0


def _draw(policy: Policy, prompts: Sequence[str], images: int, seed: int) -> Batch:
    each = max(2, -(-images // len(prompts)))
    chosen = tuple(prompts)[: max(1, images // each)]
    requests = make_requests(
        chosen, each, _AT_A_TIME, seed=seed, iteration=EVALUATION, most=None, steps=policy.config.steps,
        stored_steps=policy.transitions.stochastic_steps, clean=True,
    )  # fmt: skip
    drawn = [rollout(policy, request)[1] for request in requests]
    return collate(drawn, np.zeros(sum(len(of.prompts) for of in drawn), np.float32))


def _probes(text: str) -> int | None:
    return None if text == "all" else positive(text)


if __name__ == "__main__":
    sys.exit(main())
