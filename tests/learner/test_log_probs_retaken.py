"""The behaviour's log-probabilities, taken again by the learner: ratios that begin at 1 however samplers round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from actors.config import PolicyConfig
from actors.policy import Policy
from learner.batch import Batch
from learner.learner import Learner, LearnerConfig
from learner.likelihood import retaken
from learner.objectives.ppod import PPODConfig
from learner.ranks import Ranks
from tests.learner.rank_process import CASES, Start, gradients

Nudge = Callable[..., None]
Draw = Callable[..., Batch]
CLIP_RANGE = 1e-4  # PPOD's and DDPO's


def learner(policy: Policy, retake: bool | None, objective: dict[str, Any] | None = None, **config: Any) -> Learner:
    settings = PPODConfig.model_validate({"kl_weight": 0.0, "clip_range": CLIP_RANGE, **(objective or {})})
    config = {"ratio_tolerance": 1.0, "retake_log_probs": retake, **config}
    return Learner(LearnerConfig(**config), policy, settings.build())


def off(batch: Batch) -> float:
    """Move what the sampler stored away from the truth, as another machine's rounding would; returns how far."""
    moves = 1e-3 * torch.randn(batch.log_probs.shape, generator=torch.Generator().manual_seed(0))
    batch.log_probs.add_(moves)
    return float(moves.abs().max())


def test_a_sampler_that_disagrees_changes_nothing(policy: Policy, nudge: Nudge, draw: Draw) -> None:
    nudge(policy)
    start = policy.weights()

    def after(disagrees: bool, retake: bool) -> Tensor:
        policy.load_weights(*start)
        batch = draw(policy, steps=(0, 2))
        moved = off(batch) if disagrees else 0.0
        made = learner(policy, retake, {"prompts_per_update": 1}, lr=1e-2)
        metrics = made.step(batch).metrics
        assert (metrics["ratio/first"] > CLIP_RANGE) == (disagrees and not retake)
        assert metrics.get("ratio/spread") == (pytest.approx(moved, abs=1e-5) if retake else None)
        return torch.from_numpy(made.weights().flat)

    assert torch.equal(after(disagrees=True, retake=True), after(disagrees=False, retake=True))
    stored = after(disagrees=False, retake=False)
    assert torch.allclose(after(disagrees=False, retake=True), stored, atol=1e-4)
    assert not torch.allclose(after(disagrees=True, retake=False), stored, atol=1e-4)


@pytest.mark.parametrize("micro_batch", [5, 24])
def test_ratios_of_bfloat16_begin_within_the_clip_range(
    policy_config: PolicyConfig, nudge: Nudge, draw: Draw, monkeypatch: pytest.MonkeyPatch, micro_batch: int
) -> None:
    """Where a network rounds by the size of its batch, as a GPU's kernels do: by one of bfloat16's last bits."""
    policy = Policy.load(policy_config.model_copy(update={"dtype": "bfloat16"}))
    nudge(policy)
    predict = policy.predict

    def rounded(x: Tensor, *told: Any) -> Tensor:
        sign = 1 if len(x) % 2 else -1
        return predict(x, *told) * (1 + sign * 2**-8 / len(x))

    monkeypatch.setattr(policy, "predict", rounded)
    batch = draw(policy)
    steps = {"steps_per_update": 3, "prompts_per_update": 1}  # parts of 9 and of 3 transitions
    metrics = {
        retake: learner(policy, retake, steps, lr=1e-12, micro_batch=micro_batch).step(batch).metrics
        for retake in (None, False)
    }
    assert metrics[False]["ratio/max_log"] > CLIP_RANGE
    assert metrics[None]["ratio/spread"] > CLIP_RANGE
    assert metrics[None]["ratio/max_log"] < 0.01 * CLIP_RANGE  # of all updates: none moves a weight by a bit
    assert "ratio/spread" not in metrics[False]


def test_a_float32_base_takes_nothing_again_unless_told_to(policy: Policy, draw: Draw) -> None:
    assert "ratio/spread" not in learner(policy, None).step(draw(policy)).metrics


def test_what_stale_weights_sampled_stays_as_stored(policy: Policy, nudge: Nudge, draw: Draw) -> None:
    trained = learner(policy, True)
    trained.step(draw(policy))
    stale = draw(policy, version=0)
    nudge(policy)
    metrics = trained.step(stale).metrics
    assert metrics["ratio/first"] > 1e-3
    assert "ratio/spread" not in metrics


@pytest.mark.parametrize("count", [2, 3])
def test_the_shares_of_ranks_add_up_to_one_learners(policy: Policy, nudge: Nudge, draw: Draw, count: int) -> None:
    """Bit for bit, with the untrained transitions as they were stored."""

    class Silent(Ranks):
        def sum_(self, values: Tensor) -> Tensor:
            return values

    nudge(policy)
    batch, samples, columns = draw(policy), torch.tensor([4, 0, 1, 5]), torch.tensor([3, 0, 1])
    off(batch)
    trained = torch.zeros(6, 4, dtype=torch.bool)
    trained[samples[:, None], columns] = True

    def own(ranks: Ranks) -> Tensor:
        return retaken(policy, batch, [(samples, columns)], 2, ranks)[0].log_probs

    alone, shares = own(Ranks()), [own(Silent(rank, count)) for rank in range(count)]
    assert torch.equal(sum(share[trained] for share in shares), alone[trained])
    assert all(0 < int((share[trained] != 0).sum()) < 12 for share in shares)
    assert (alone[trained] != batch.log_probs[trained]).all()
    assert torch.equal(alone[~trained], batch.log_probs[~trained])


@pytest.fixture(scope="module")
def start(tiny_pipeline: Path) -> Start:
    return Start(PolicyConfig(model=str(tiny_pipeline), device="cpu", steps=5, lora_rank=2, lora_alpha=2))


@pytest.mark.parametrize("case", CASES)
def test_who_trains_on_ratios_says_so(start: Start, case: str) -> None:
    asks = start.learner(case)._objective.config.asks
    metrics = gradients(start, case, Ranks(), "few")["metrics"]
    # DPOK's buffer has transitions of older weights, which cannot be taken again.
    assert asks.ratios == (not case.startswith("dpok") and bool({"ratio/max_log", "kl/behaviour"} & metrics.keys()))
