"""What a cell came to: the figures of its evaluations, what it spent, and how far the policy has gone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import EVALUATION
from actors.transitions import kl
from benchmarks.methods.grid import Cell, queries
from cluster.errors import ConfigError
from cluster.prompts import make_requests, read_prompts
from cluster.records.files import replacing
from cluster.records.reading import Records
from cluster.trained import find
from learner.batch import collate
from learner.likelihood import transition_of

SPLITS = ("train", "held_out")
# One chain for everybody, whatever a method samples and trains with.
_CHAIN = ("policy.solver=ddim", "policy.eta=1", "policy.noisy_steps=null")
_CHAINS, _AT_A_TIME = 64, 32


def figures_of(cell: Cell) -> dict[str, float]:
    """The figures of a finished cell, by name.

    Raises:
        ConfigError: If it has shown the reward more images than it was to, or fewer than it may have dropped.
    """
    found = Records(cell.run).metrics()
    rewards = [name for name, reward in cell.config.rewards.items() if reward.weight]
    spent = found["reward_queries"][-1][1]
    wanted, dropped = queries(cell.config), cell.config.failures.max_dropped_share
    if not (1 - dropped) * wanted <= spent <= wanted:
        raise ConfigError(f"{cell.name} showed the reward {spent:,.0f} images and not {wanted:,}.")
    figures = {"queries": spent, "evaluations": found["network_evaluations"][-1][1]}
    for split in SPLITS:
        for name, of in (("reward", f"{rewards[0]}"), ("gold", "shapes_gold"), ("diversity", "diversity")):
            if f"eval/{split}/{of}" in found:
                values = found[f"eval/{split}/{of}"]
                figures |= {f"{split}/{name}": values[-1][1], f"{split}/{name} before": values[0][1]}
    figures["seconds"] = sum(seconds for _, seconds in found["time/iteration"])
    return figures | {"kl": divergence(cell)}


def divergence(cell: Cell) -> float:
    """KL(trained || pretrained) of whole chains, nats, see `chain_kl`; kept in the run's folder, and measured once."""
    kept = cell.run / "chain_kl.json"
    if not kept.exists():
        found = chain_kl(cell.run)
        with replacing(kept) as file:
            file.write(json.dumps({"kl": found}).encode())
    return float(json.loads(kept.read_text())["kl"])


@torch.no_grad()
def chain_kl(run: Path) -> float:
    """KL(trained || pretrained) of the law of whole chains, in nats: the sum of the KLs of all noisy steps.

    By the chain rule a mean over chains of the trained policy, here of the run's training prompts with an evaluation's
    noise. The chain is DDIM's with eta 1 in the run's number of steps and with its guidance, whatever the run sampled
    with.

    Args:
        run: A run's folder; its newest checkpoint counts.
    """
    model = find(str(run), _CHAIN)
    assert model.run is not None
    policy, prompts = Policy.load(model.policy), read_prompts(model.run.prompts.train)
    prompts = prompts[:_CHAINS]
    requests = make_requests(
        prompts, _CHAINS // len(prompts), _AT_A_TIME, seed=model.run.seed, iteration=EVALUATION, most=None,
        steps=policy.config.steps, stored_steps=policy.transitions.stochastic_steps,
    )  # fmt: skip
    drawn = [rollout(policy, request)[1] for request in requests]
    batch = collate(drawn, np.zeros(sum(len(of.prompts) for of in drawn), np.float32))
    total = 0.0
    for rows, cols in (pair.T for pair in torch.cartesian_prod(
        torch.arange(len(batch.prompts)), torch.arange(len(batch.steps))
    ).split(8 * _AT_A_TIME)):  # fmt: skip
        step = transition_of(policy, batch, rows, cols, pretrained=True)
        assert step.pretrained_mean is not None
        total += float(kl(step.mean, step.pretrained_mean, step.std).sum()) * step.mean[0].numel()
    return total / len(batch.prompts)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean over seeds and its standard error, NaN of one seed alone."""
    array = np.asarray(values, float)
    error = array.std(ddof=1) / len(array) ** 0.5 if len(array) > 1 else np.nan
    return float(array.mean()), float(error)


def changes(figures: Mapping[str, float]) -> dict[str, float]:
    """The columns of a table: what changed against the pretrained model, and what it cost."""
    found = {}
    for split in SPLITS:
        for name in ("reward", "gold"):
            if f"{split}/{name}" in figures:
                found[f"{split} {name}"] = figures[f"{split}/{name}"]
                found[f"{split} {name} change"] = figures[f"{split}/{name}"] - figures[f"{split}/{name} before"]
        if f"{split}/diversity" in figures:
            kept = figures[f"{split}/diversity"] / figures[f"{split}/diversity before"]
            found[f"{split} diversity kept"] = kept
    return found | {name: figures[name] for name in ("kl", "queries", "evaluations", "seconds")}
