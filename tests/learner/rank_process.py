"""One learner rank as a process of its own: runs every objective with the others and writes down what came out.

`python -m tests.learner.rank_process PIPELINE FOLDER RANK COUNT`; a count of 1 is what the others must equal.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from actors.config import PolicyConfig
from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import Request
from actors.transitions import make_transitions
from learner.batch import Batch, collate
from learner.flow_function import Flow
from learner.learner import Learner, LearnerConfig
from learner.objectives import ObjectiveConfig
from learner.objectives.objective import Part
from learner.ranks import ALONE, Ranks
from tests.learner.meeting import together

FLOW = {"flow": {"widths": [8], "heads": 2, "groups": 4}, "step_fraction": 1.0, "beta": 2.0}
DPO = {"beta": 100.0, "pairs": "all_pairs", "states": 2}
CANDIDATES = {"candidates": 3, "skip_fraction": 0.0}  # as `draw` draws them
ALL = {"steps_per_update": None, "step_fraction": 1.0, "min_gap": 0.0}
# Every algorithm, and what makes a difference to how its gradient comes about. Micro-batches of 4 cut their updates of
# up to 35 transitions into uneven shares.
CASES: dict[str, dict[str, Any]] = {
    "ppod": {"name": "ppod", **ALL},
    "ppod, trajectory": {"name": "ppod", **ALL, "form": "trajectory", "beta": 20},
    "ppod, ranking": {"name": "ppod", **ALL, "pairs": "ranking", "kl_weight": 0.0, "clip_range": 0.2},
    "ppod, snapshot": {"name": "ppod", **ALL, "round_length": 3},
    "ppod, nothing to compare": {"name": "ppod", **ALL, "min_gap": 1e9},
    "d3po": {"name": "d3po", "step_fraction": 1.0},
    "nabla_db": {"name": "nabla_db", **FLOW, "updates": 1},
    "residual_nabla_db": {"name": "residual_nabla_db", **FLOW, "updates": 1},
    "residual_nabla_db, no flow": {"name": "residual_nabla_db", "step_fraction": 1.0, "no_flow": True},
    "residual_nabla_db, identity": {
        "name": "residual_nabla_db",
        **FLOW,
        "guess_jacobian": "identity",
        "smoothing": 2,
        "smoothing_std": 0.1,
        "subsample": "steps",
        "step_fraction": 0.4,
        "updates": 1,
    },
    "residual_nabla_db, pretrained guess": {
        "name": "residual_nabla_db",
        "step_fraction": 1.0,
        "no_flow": True,
        "guess_by": "pretrained",
        "updates": 1,
    },
    "residual_nabla_db_release": {"name": "residual_nabla_db_release", **FLOW},
    "residual_db": {"name": "residual_db", **FLOW},
    "dag_db": {"name": "dag_db", **FLOW, "updates": 2},
    "dag_db, guided": {"name": "dag_db", **FLOW, "guided_guess": True},
    "refl": {"name": "refl", "step_fraction": 1.0},
    "refl, threshold": {"name": "refl", "step_fraction": 1.0, "threshold": 0.872, "scale": 0.5, "guided": False},
    "draft": {"name": "draft", "steps": 2},
    "draft_lv": {"name": "draft_lv", "level": 2},
    "alignprop": {"name": "alignprop", "least": 3, "checkpointing": False},
    "drtune": {"name": "drtune", "steps": 2, "early_stop": 2, "checkpointing": False},
    "adjoint_matching": {"name": "adjoint_matching", "step_fraction": 0.6, "beta": 2.0},
    "elegant": {"name": "elegant", "beta": 2.0},
    "elegant, kept": {"name": "elegant", "beta": 2.0, "checkpointing": False},
    "vgg_flow": {"name": "vgg_flow", "value": FLOW["flow"], "step_fraction": 0.6, "beta": 2.0, "max_gradient": 0.1},
    "ddpo": {"name": "ddpo", "clip_range": 0.2, "updates": 1},
    "ddpo, score": {"name": "ddpo", "gradient": "score", "updates": 1},
    "grpo": {"name": "grpo", "clip_range": 0.2},
    "grpo, guard": {"name": "grpo", "ratio": "guard", "clip_range": 0.2, "keep": 2, "step_sample": 0.6},
    "grpo, divergence": {"name": "grpo", "limit": "divergence", "max_divergence": 0.1, "kl_weight": 0.0},
    "dpok": {"name": "dpok", "clip_range": 0.5, "transitions": 23, "updates": 1, "value": {"width": 8}},
    "dpok, exact": {"name": "dpok", "clip_range": 0.5, "transitions": 23, "updates": 1, "divergence": "exact"},
    "nft": {"name": "nft", "strength": 0.5, "states": 3},
    "awm": {"name": "awm", "updates": 2, "states": 3},
    "dgpo": {"name": "dgpo", "beta": 10.0, "clip_range": 0.9, "states": 3},
    "rwr": {"name": "rwr", "temperature": 1.0, "distance_weight": 1.0, "updates": 1, "among": "group"},
    "rwr, training": {"name": "rwr", "temperature": 1.0, "updates": 1, "states": 2, "timesteps": "training"},
    "diffusion_dpo": {
        "name": "diffusion_dpo",
        **DPO,
        "timesteps": "chain",
        "prompt_dropout": 0.0,
        "reference": "round",
    },
    "diffusion_dpo, training": {"name": "diffusion_dpo", **DPO, "ties": "soft", "label_temperature": 0.5},
    "diffusion_dpo, ipo": {"name": "diffusion_dpo", **DPO, "loss": "ipo"},
    "mapo": {"name": "mapo", "states": 2, "timesteps": "chain", "prompt_dropout": 0.3},
    "kto": {"name": "kto", "states": 2, "beta": 100.0, "timesteps": "chain", "undesirable_weight": 0.5},
    "kto, training": {"name": "kto", "states": 2, "beta": 100.0, "threshold": 0.2},
    "sft": {"name": "sft", "states": 3, "timesteps": "chain"},
    "spo": {"name": "spo", "beta": 100.0, "clip_range": 0.5, "threshold": 0.2, "pairs_per_update": None, **CANDIDATES},
    "sft, desirable": {"name": "sft", "states": 3, "pictures": "desirable"},
}
STEPPED = ("ppod, snapshot", "residual_nabla_db", "dpok", "nft", "awm", "diffusion_dpo")
MICRO_BATCH = 4


class Curved:
    """A reward whose gradient depends on the image."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.sin(3 * images).flatten(1).mean(dim=1)

    def score_and_grad(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return self.score(images, prompts), 3 * torch.cos(3 * images) / images[0].numel()


class Start:
    """A policy that has learnt something, and the way back to it: loading one for every case takes too long."""

    def __init__(self, config: PolicyConfig) -> None:
        self.policy, generator = Policy.load(config), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.policy.parameters:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        self._weights = self.policy.weights()
        self._noisy = self.policy.transitions
        self._still = make_transitions(self.policy._family.levels, "ddim", 0.0, adapted=self._noisy.adapted)

    def learner(self, case: str, **settings: Any) -> Learner:
        """A learner at its start, with a flow function that is not zero and the chain that its objective needs."""
        self.policy.load_weights(*self._weights)
        objective = TypeAdapter(ObjectiveConfig).validate_python(CASES[case]).build()
        self.policy.transitions = self._still if objective.config.asks.noise == "none" else self._noisy
        made = Learner(
            LearnerConfig(**{"micro_batch": MICRO_BATCH, **settings}), self.policy, objective, reward=Curved()
        )
        for module in objective.modules.values():
            if isinstance(module, Flow):
                torch.manual_seed(0)
                torch.nn.init.normal_(module.network.unet.conv_out.weight, std=0.1)
        return made


def draw(policy: Policy, iteration: int = 0) -> Batch:
    """Every transition with noise and the images of seven samples, four of one prompt and three of another."""
    prompts = ("a red circle",) * 4 + ("two blue squares",) * 3
    stored = policy.transitions.stochastic_steps
    samples = (0, 1, 2, 3, 0, 1, 2)
    request = Request(
        0, iteration, prompts, (0,) * 4 + (1,) * 3, samples, stored, clean=True, candidates=3 if stored else 1
    )
    rewards = np.array([0.3, -1.0, 2.0, 0.1, 0.7, -0.4, np.nan], np.float32)
    judged = np.random.default_rng(iteration).normal(size=(7, len(stored), 3)) if stored else None
    return collate([rollout(policy, request, iteration)[1]], rewards, judged=judged)


def begun(made: Learner, policy: Policy) -> tuple[Batch, Part]:
    """A batch and its last part, off policy, so that clips act and the reference is not where the policy is."""
    objective = made._objective
    with torch.no_grad():
        batch = objective.begin(policy, draw(policy), 0)
        if not batch.prompts:  # training stays behind
            batch = objective.begin(policy, draw(policy, 1), 1)
        for parameter in policy.parameters:
            parameter *= 1.1
    return batch, list(objective.parts(batch, torch.Generator().manual_seed(0)))[-1]


def gradients(start: Start, case: str, ranks: Ranks, kind: str) -> dict[str, Any]:
    """Gradients of an update as they reach the optimizer, and its metrics; see `backward`."""
    made = start.learner(case)
    return backward(made, start.policy, *begun(made, start.policy), ranks, kind)


def backward(made: Learner, policy: Policy, batch: Batch, part: Part, ranks: Ranks, kind: str) -> dict[str, Any]:
    """Gradients of one part, and its metrics.

    `kind` is `parts` (the last of the batch, in micro-batches of 4), `whole` (it fits into one micro-batch) or `few`
    (fewer micro-batches than there can be ranks).
    """
    objective, micro_batch = made._objective, MICRO_BATCH
    if kind == "whole":
        micro_batch = 99
    elif kind == "few" and objective.config.asks.groups and part.columns.dim() == 1:  # two transitions
        part, micro_batch = Part(part.samples[:2], part.columns[:1], part.number), 1
    elif kind == "few":  # one sample, or one pair
        few = 2 if hasattr(objective.config, "pairs") or objective.config.name == "sft" else 1
        part, micro_batch = Part(part.samples[:few], part.columns[:few], part.number), 3
    for parameter in made._everything:
        parameter.grad = None
    metrics = objective.backward(policy, batch, part, micro_batch, ranks)
    ranks.sum_gradients(made._everything)
    flow = [p for module in objective.modules.values() for p in module.network.parameters()]
    return {
        "policy": torch.cat([p.grad.flatten() for p in policy.parameters if p.grad is not None]),
        "flow": torch.cat([torch.zeros(0), *[p.grad.flatten() for p in flow if p.grad is not None]]),
        "without": [number for number, p in enumerate(made._everything) if p.grad is None],
        "metrics": metrics,
    }


def steps(start: Start, case: str, ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Three batches; after the second a checkpoint, from which both the same number of ranks and one continue."""
    settings = {"lr": 1e-3, "ema_decay": 0.5, "ratio_tolerance": 1.0}
    made = start.learner(case, **settings)
    made.ranks = ranks
    batches = [draw(start.policy, iteration) for iteration in range(3)]
    metrics = [made.step(batch).metrics for batch in batches[:2]]
    made.save(folder)
    metrics.append(made.step(batches[2]).metrics)
    found = {"metrics": metrics, "weights": made.weights().flat, "average": made.weights("averaged").flat}
    for name, among in (("together", ranks), ("alone", ALONE)):
        restored = start.learner(case, **settings)
        restored.ranks = among
        restored.restore(folder)
        restored.step(batches[2])
        found[f"continued {name}"] = restored.weights().flat
    return found


def main(pipeline: str, folder: Path, rank: int, count: int) -> None:
    torch.set_num_threads(1)
    start = Start(PolicyConfig(model=pipeline, device="cpu", steps=5, lora_rank=2, lora_alpha=2))
    ranks = ALONE if count == 1 else together(folder / "port", rank, count)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for case in CASES:
        of_case = (made := start.learner(case)), start.policy, *begun(made, start.policy)
        found |= {(kind, case): backward(*of_case, ranks, kind) for kind in ("parts", "whole", "few")}
    for case in STEPPED:
        (inner := folder / f"{case} {rank}").mkdir()
        found["steps", case] = steps(start, case, ranks, inner)
    torch.save(found, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
