"""The behaviour's log-probabilities, taken again by the learner: ratios that begin at 1 however samplers round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from actors.config import PolicyConfig
from actors.policy import Policy
from learner.batch import Batch
from learner.learner import Learner, LearnerConfig
from learner.likelihood import retaken, transition_of
from learner.objectives.dpok import DPOKConfig
from learner.objectives.grpo import GRPOConfig
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


@pytest.fixture
def rounding(policy_config: PolicyConfig, nudge: Nudge, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """In bfloat16, with a network that rounds by the size of its batch, as a GPU's kernels do, by one of its bits."""
    policy = Policy.load(policy_config.model_copy(update={"dtype": "bfloat16"}))
    nudge(policy)
    predict = policy.predict

    def rounded(x: Tensor, *told: Any) -> Tensor:
        sign = 1 if len(x) % 2 else -1
        return predict(x, *told) * (1 + sign * 2**-8 / len(x))

    monkeypatch.setattr(policy, "predict", rounded)
    return policy


@pytest.mark.parametrize("micro_batch", [5, 24])
def test_ratios_of_bfloat16_begin_within_the_clip_range(rounding: Policy, draw: Draw, micro_batch: int) -> None:
    batch = draw(rounding)
    steps = {"steps_per_update": 3, "prompts_per_update": 1}  # parts of 9 and of 3 transitions
    metrics = {
        retake: learner(rounding, retake, steps, lr=1e-12, micro_batch=micro_batch).step(batch).metrics
        for retake in (None, False)
    }
    assert metrics[False]["ratio/max_log"] > CLIP_RANGE
    assert metrics[None]["ratio/spread"] > CLIP_RANGE
    assert metrics[None]["ratio/max_log"] < 0.01 * CLIP_RANGE  # of all updates: none moves a weight by a bit
    assert "ratio/spread" not in metrics[False]


@pytest.mark.parametrize(
    "settings", [{"ratio": "guard", "clip_range": 4e-6}, {"limit": "divergence", "max_divergence": 1e-7}]
)
def test_so_do_those_of_means(rounding: Policy, draw: Draw, settings: dict[str, Any]) -> None:
    """GRPO-Guard's ratio and Flow-DPPO's limit: no gradient ends before anything is learned, and every one counts."""
    config = GRPOConfig.model_validate({"kl_weight": 0.0, "prompts_per_update": 1, **settings})

    def metrics(retake: bool | None) -> dict[str, float]:
        learner = LearnerConfig(ratio_tolerance=1.0, retake_log_probs=retake, lr=1e-12, micro_batch=5)
        return Learner(learner, rounding, config.build()).step(draw(rounding)).metrics

    assert metrics(False)["clip/share"] > 0.1
    again = metrics(None)
    assert again["clip/share"] == 0
    assert again["kl/behaviour"] < 1e-14


def test_means_are_of_what_is_trained_on_and_without_keys(policy: Policy, nudge: Nudge, draw: Draw) -> None:
    nudge(policy)
    batch = draw(policy)
    samples, columns = torch.tensor([4, 1]), torch.tensor([2, 0])
    again, _ = retaken(policy, batch, [(samples, columns)], 3, means=True)
    found = transition_of(policy, replace(again, keys=None), samples, columns)
    torch.testing.assert_close(found.behaviour_mean, found.mean.detach(), rtol=1e-5, atol=1e-6)
    assert again.means is not None
    assert int(again.means.isfinite().flatten(2).all(dim=2).sum()) == 4
    assert retaken(policy, batch, [(samples, columns)], 3)[0].means is None


def test_those_of_a_buffer_are_taken_while_they_are_fresh(rounding: Policy, draw: Draw) -> None:
    """DPOK: also what no update of its own batch draws; half of what the second's draw is the first's."""
    config = DPOKConfig(value=None, kl_weight=0.0, transitions=21, updates=2, buffer=3)

    def metrics(retake: bool | None) -> list[dict[str, float]]:
        settings = LearnerConfig(ratio_tolerance=1.0, retake_log_probs=retake, lr=1e-12, micro_batch=3)
        made = Learner(settings, rounding, config.build())
        return [made.step(draw(rounding, version=version, iteration=version)).metrics for version in range(2)]

    assert metrics(False)[1]["clip/share"] > 0.1
    for again in metrics(None):
        assert again["ratio/spread"] > CLIP_RANGE
        assert again["clip/share"] == 0


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

    def own(ranks: Ranks) -> tuple[Tensor, Tensor]:
        found = retaken(policy, batch, [(samples, columns)], 2, ranks, means=True)[0]
        assert found.means is not None
        return found.log_probs, found.means

    alone, shares = own(Ranks()), [own(Silent(rank, count)) for rank in range(count)]
    for one, *others in zip(alone, *shares, strict=True):
        assert torch.equal(sum(share[trained] for share in others), one[trained])
        assert all(0 < int((share[trained] != 0).view(12, -1).any(dim=1).sum()) < 12 for share in others)
    assert (alone[0][trained] != batch.log_probs[trained]).all()
    assert torch.equal(alone[0][~trained], batch.log_probs[~trained])


@pytest.fixture(scope="module")
def start(tiny_pipeline: Path) -> Start:
    return Start(PolicyConfig(model=str(tiny_pipeline), device="cpu", steps=5, lora_rank=2, lora_alpha=2))


@pytest.mark.parametrize("case", CASES)
def test_who_trains_on_ratios_says_so(start: Start, case: str) -> None:
    asks = start.learner(case)._objective.config.asks
    metrics = gradients(start, case, Ranks(), "few")["metrics"]
    assert asks.ratios == bool({"ratio/max_log", "kl/behaviour"} & metrics.keys())
