"""The central learner: that steps learn, that damage is refused, and that a restored one continues bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from actors.config import PolicyConfig
from actors.policy import Policy
from learner.batch import Batch
from learner.flow_function import FlowConfig
from learner.learner import Learner, LearnerConfig, RatioError
from learner.likelihood import REFERENCE_ADAPTER
from learner.objectives.d3po import D3POConfig
from learner.objectives.dag_db import DAGDBConfig
from learner.objectives.nabla_db import NablaDBConfig
from learner.objectives.ppod import PPOD, PPODConfig
from learner.objectives.refl import ReFLConfig

Nudge = Callable[..., None]
Draw = Callable[..., Batch]
SMALL = FlowConfig(widths=(8, 16), heads=2, groups=4)


def learner(
    policy: Policy,
    objective: dict[str, Any] | None = None,
    seed: int = 0,
    iterations: int | None = None,
    **config: Any,
) -> Learner:
    """A learner that takes one optimizer step a batch, unless the objective says otherwise."""
    settings = {"steps_per_update": None, "step_fraction": 0.6, **(objective or {})}
    kind = D3POConfig if settings.get("name") == "d3po" else PPODConfig
    if kind is PPODConfig:
        settings = {"kl_weight": 0.0, **settings}
    return Learner(LearnerConfig(**config), policy, kind.model_validate(settings).build(), seed, iterations=iterations)


@pytest.mark.parametrize(
    "objective",
    [
        {},
        {"loss": "hinge"},
        {"loss": "ipo", "pairs": "best_worst"},
        {"pairs": "ranking"},
        {"form": "trajectory", "beta": 20},
        {"reference": "pretrained", "clip": "one_sided", "clip_range": 1e-2},
        {"name": "d3po", "prompts_per_update": None, "pairs": "all_pairs"},
    ],
    ids=str,
)
def test_steps_on_a_batch_raise_its_margin(policy: Policy, draw: Draw, objective: dict[str, Any]) -> None:
    batch, trained = draw(policy), learner(policy, objective, lr=1e-2)
    updates = [trained.step(batch).metrics for _ in range(6)]
    assert updates[-1]["loss"] < updates[0]["loss"]
    assert updates[-1]["margin/mean"] > updates[0]["margin/mean"] + 1e-3
    assert updates[-1]["margin/accuracy"] > 0.6


def test_versions_count_batches_and_metrics_count_updates(policy: Policy, draw: Draw) -> None:
    trained = learner(policy, {"steps_per_update": 1, "prompts_per_update": 1})
    assert trained.weights().version == 0
    for version in (1, 2):
        update = trained.step(draw(policy, trained.version))
        assert update.version == trained.version == trained.weights().version == version
        assert update.metrics["updates"] == 4 * 2


@pytest.mark.parametrize(
    ("schedule", "iterations", "shares"),
    [
        ("linear", 4, [1, 0.75, 0.5, 0.25]),
        ("cosine", 4, [1, 0.853553, 0.5, 0.146447]),
        ("constant", 4, [1, 1, 1, 1]),
        ("linear", None, [1, 1, 1, 1]),
    ],
)
def test_the_learning_rate_follows_its_schedule(
    policy: Policy, draw: Draw, schedule: str, iterations: int | None, shares: list[float]
) -> None:
    trained = learner(policy, {"steps_per_update": 1}, iterations=iterations, lr=4e-3, lr_schedule=schedule)
    rates = [trained.step(draw(policy, version)).metrics["lr"] for version in range(4)]
    assert rates == pytest.approx([4e-3 * share for share in shares], rel=1e-5)


def test_published_weights_are_the_policy_and_stay_as_they_were(policy: Policy, draw: Draw) -> None:
    trained = learner(policy)
    batch = draw(policy)
    trained.step(batch)
    published = trained.weights()
    assert np.array_equal(published.flat, policy.weights()[0])
    trained.step(batch)
    published.copy_to(np.empty_like(published.flat))  # verifies
    assert not np.array_equal(published.flat, policy.weights()[0])


def test_the_seed_and_the_version_order_the_updates(policy_config: PolicyConfig, draw: Draw) -> None:
    def after(seed: int) -> np.ndarray:
        policy = Policy.load(policy_config)
        trained = learner(policy, {"steps_per_update": 1}, seed)
        trained.step(draw(policy))
        return trained.weights().flat

    assert np.array_equal(after(0), after(0))
    assert not np.array_equal(after(0), after(1))


def test_gradients_are_clipped(policy: Policy, draw: Draw) -> None:
    metrics = learner(policy, max_grad_norm=1e-3).step(draw(policy)).metrics
    norm = torch.stack([p.grad.norm() for p in policy.parameters if p.grad is not None]).norm()
    assert metrics["grad_norm"] > 1e-2  # as it was before
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_log_probs_that_are_off_are_refused(policy: Policy, draw: Draw) -> None:
    batch, before = draw(policy), policy.weights()[0]
    batch.log_probs[:] += 1e-3
    with pytest.raises(RatioError, match=r"1\.0e-03"):
        learner(policy).step(batch)
    assert np.array_equal(policy.weights()[0], before)


@pytest.mark.parametrize(
    "config", [ReFLConfig(), DAGDBConfig(flow=SMALL), NablaDBConfig(flow=SMALL)], ids=lambda config: config.name
)
def test_log_probs_are_checked_whatever_the_objective(policy: Policy, draw: Draw, config: Any) -> None:
    batch = draw(policy, steps=(3, 4))
    batch.log_probs[:] += 5
    unasked: Any = object()
    with pytest.raises(RatioError, match=r"5\.0e\+00"):
        Learner(LearnerConfig(), policy, config.build(), reward=unasked).step(batch)


def test_a_half_precision_base_may_round(policy: Policy, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = draw(policy)
    batch.log_probs[:] += 1e-3
    monkeypatch.setattr(Policy, "half_precision", True)
    assert learner(policy).step(batch).version == 1
    batch.log_probs[:] += 1e-2
    with pytest.raises(RatioError, match="at most 5e-03"):
        learner(policy).step(batch)


def test_a_nan_log_prob_is_refused(policy: Policy, draw: Draw) -> None:
    batch = draw(policy)
    batch.log_probs[0, 0] = torch.nan
    with pytest.raises(RatioError, match="differ from the sampler's by nan"):
        learner(policy).step(batch)


def test_a_refused_batch_is_refused_again(policy: Policy, draw: Draw) -> None:
    """A retry must not slip past the check."""
    batch, trained = draw(policy), learner(policy)
    batch.log_probs[:] += 1e-3
    for _ in range(2):
        with pytest.raises(RatioError):
            trained.step(batch)


def test_the_first_batch_under_published_weights_is_checked_too(policy: Policy, draw: Draw, nudge: Nudge) -> None:
    """A fresh adapter changes nothing, so the first batch would not show that weights do not arrive."""
    trained = learner(policy, lr=1e-2)
    trained.step(draw(policy))
    lost = draw(policy, version=1)
    nudge(policy)
    with pytest.raises(RatioError, match="Before update 2"):
        trained.step(lost)


def test_the_ratio_of_stale_data_need_not_be_one(policy: Policy, nudge: Nudge, draw: Draw) -> None:
    trained = learner(policy)
    trained.step(draw(policy))
    nudge(policy)
    stale = draw(policy, version=0)
    nudge(policy)
    assert trained.step(stale).metrics["ratio/first"] > 1e-3


def poison(trained: Learner, monkeypatch: pytest.MonkeyPatch, policy: Policy, from_part: int) -> None:
    """Make gradients NaN from one of the batch's parts on."""
    objective = trained._objective
    backward, calls = objective.backward, []

    def poisoned(*args: Any) -> dict[str, float]:
        metrics = backward(*args)
        calls.append(args)
        if len(calls) > from_part:
            gradient = policy.parameters[3].grad
            assert gradient is not None
            gradient[0] = torch.nan
        return metrics

    monkeypatch.setattr(objective, "backward", poisoned)


@pytest.mark.parametrize("from_part", [0, 1])
def test_a_gradient_that_is_nan_is_never_applied(
    policy: Policy, draw: Draw, monkeypatch: pytest.MonkeyPatch, from_part: int
) -> None:
    trained = learner(policy, {"steps_per_update": 2}, ema_decay=0.5)
    batch = draw(policy)
    poison(trained, monkeypatch, policy, from_part)
    before = [trained.weights(which).flat for which in ("trained", "averaged")]
    with pytest.raises(FloatingPointError, match=f"update {from_part} in iteration 0"):
        trained.step(batch)
    after = [trained.weights(which).flat for which in ("trained", "averaged")]
    assert trained.version == 0
    assert np.isfinite(after).all()
    assert np.array_equal(after, before) == (from_part == 0)  # earlier parts of the batch have been applied


def test_the_average_follows_the_policy(policy: Policy, draw: Draw) -> None:
    """A fifth of the old average and four fifths of the new weights, once the decay has warmed up to its 0.2."""
    trained, batch = learner(policy, lr=1e-2, ema_decay=0.2), draw(policy)
    for _ in range(3):
        trained.step(batch)
    average = trained.weights("averaged").flat
    trained.step(batch)
    plain = trained.weights().flat
    np.testing.assert_allclose(trained.weights("averaged").flat, 0.2 * average + 0.8 * plain, atol=1e-6)
    assert np.array_equal(trained.weights().flat, plain)  # asking for the average leaves the policy alone
    assert np.abs(average - plain).max() > 1e-3


def test_without_an_average_the_weights_themselves_are_given(policy: Policy) -> None:
    trained = learner(policy)
    assert np.array_equal(trained.weights("averaged").flat, trained.weights().flat)


def test_a_restored_learner_continues_bit_for_bit(
    policy_config: PolicyConfig, policy: Policy, draw: Draw, tmp_path: Path
) -> None:
    """With optimizer moments, a falling rate, an average, the snapshot of a round under way, and the updates' order."""
    objective = {"round_length": 3, "kl_weight": 0.1, "steps_per_update": 1, "beta": 50}
    straight = learner(policy, objective, seed=4, iterations=5, ema_decay=0.9, lr=5e-3)
    for version in range(2):
        straight.step(draw(policy, version, iteration=version))
    straight.save(tmp_path, {"cursor": 17, "name": "run"})
    batches = []
    expected = []
    for version in (2, 3):
        batches.append(draw(policy, version, iteration=version))
        expected.append(straight.step(batches[-1]).metrics)

    other = Policy.load(policy_config, seed=9)
    restored = learner(other, objective, seed=4, iterations=5, ema_decay=0.9, lr=5e-3)
    assert restored.restore(tmp_path) == {"cursor": 17, "name": "run"}
    assert restored.version == 2
    assert [restored.step(batch).metrics for batch in batches] == expected
    assert restored.version == straight.version == 4
    assert restored.weights().checksum == straight.weights().checksum
    assert restored.weights("averaged").checksum == straight.weights("averaged").checksum
    assert np.array_equal(other.weights(REFERENCE_ADAPTER)[0], policy.weights(REFERENCE_ADAPTER)[0])


def test_a_run_that_was_extended_has_the_learning_rate_of_the_longer_run(
    policy_config: PolicyConfig, policy: Policy, draw: Draw, tmp_path: Path
) -> None:
    done = learner(policy, {}, iterations=2, lr=8e-3, lr_schedule="linear")
    for version in range(2):
        done.step(draw(policy, version, iteration=version))
    done.save(tmp_path)
    assert done.optimizer.param_groups[0]["lr"] == 0
    other = Policy.load(policy_config)
    extended = learner(other, {}, iterations=8, lr=8e-3, lr_schedule="linear")
    extended.restore(tmp_path)
    rates = [extended.step(draw(other, version, iteration=version)).metrics["lr"] for version in (2, 3)]
    assert rates == pytest.approx([8e-3 * 6 / 8, 8e-3 * 5 / 8])


def test_the_snapshot_of_a_round_under_way_is_restored(
    policy_config: PolicyConfig, policy: Policy, draw: Draw, tmp_path: Path
) -> None:
    straight = learner(policy, {"round_length": 9}, lr=1e-2)
    start = policy.weights()[0]
    straight.step(draw(policy))
    straight.save(tmp_path)
    other = Policy.load(policy_config, seed=9)
    learner(other, {"round_length": 9}, lr=1e-2).restore(tmp_path)
    assert np.array_equal(other.weights(REFERENCE_ADAPTER)[0], start)
    assert not np.array_equal(other.weights()[0], start)


def test_the_average_is_saved_as_an_adapter(
    policy_config: PolicyConfig, policy: Policy, draw: Draw, tmp_path: Path
) -> None:
    trained, batch = learner(policy, lr=1e-2, ema_decay=0.5), draw(policy)
    for _ in range(3):
        trained.step(batch)
    trained.save(tmp_path)
    for folder, which in ((tmp_path, "trained"), (tmp_path / "average", "averaged")):
        other = Policy.load(policy_config, seed=1)
        other.load_lora(folder)
        assert np.array_equal(other.weights()[0], trained.weights(which).flat)
    assert trained.weights().checksum != trained.weights("averaged").checksum


def test_a_batch_without_preferences_goes_through(policy: Policy, draw: Draw) -> None:
    update = learner(policy, weight_decay=0.0).step(replace(draw(policy), rewards=torch.full((6,), torch.nan)))
    assert update.version == 1
    assert update.metrics["pairs"] == update.metrics["grad_norm"] == 0


def test_the_pretrained_model_survives_training_bit_for_bit(policy: Policy, draw: Draw) -> None:
    """Structural."""
    batch = draw(policy)
    trained = learner(policy, {"round_length": 2, "kl_weight": 0.1}, lr=1e-2)

    def pretrained() -> Tensor:
        with policy.using(None):
            return policy.predict(batch.latents[:, 0], batch.steps[0].repeat(6), policy.encode(batch.prompts))

    before = pretrained()
    for _ in range(2):
        trained.step(batch)
    assert torch.equal(pretrained(), before)


def nothing_left(batch: Batch) -> Batch:
    """The batch when all of its samples have been left out."""
    return replace(
        batch, latents=batch.latents[:0], next_latents=batch.next_latents[:0], log_probs=batch.log_probs[:0],
        prompts=(), groups=batch.groups[:0], rewards=batch.rewards[:0],
    )  # fmt: skip


@pytest.mark.filterwarnings("error")
def test_a_batch_of_which_nothing_is_left_changes_nothing(policy: Policy, draw: Draw) -> None:
    trained = learner(policy, iterations=4, lr=4e-3, lr_schedule="linear", ema_decay=0.5)
    rates = []
    for version, left in enumerate((False, True, False, True)):
        batch = draw(policy, version)
        before = [trained.weights(which).flat for which in ("trained", "averaged")]
        moments = copy.deepcopy(trained.optimizer.state_dict()["state"])
        update = trained.step(batch if left else nothing_left(batch))
        rates.append(update.metrics["lr"])
        assert update.version == version + 1
        assert (update.metrics["updates"] == 0) == (not left)
        if not left:
            assert np.array_equal([trained.weights(which).flat for which in ("trained", "averaged")], before)
            torch.testing.assert_close(trained.optimizer.state_dict()["state"], moments, rtol=0, atol=0)
    assert rates == pytest.approx([4e-3 * share for share in (1, 0.75, 0.5, 0.25)])  # by iteration, not by update


@pytest.mark.parametrize(("dtype", "rounding"), [("float16", 0.02), ("bfloat16", 0.2)])  # which has 3 bits less
def test_a_half_precision_base_takes_nearly_the_same_step(
    policy_config: PolicyConfig, policy: Policy, draw: Draw, dtype: str, rounding: float
) -> None:
    """Of a loss so small that float16 would lose most of its gradient."""
    batch, moved = draw(policy), {}
    for name in ("float32", dtype):
        other = Policy.load(policy_config.model_copy(update={"dtype": name}))
        trained = learner(other, {"beta": 1e-6, "clip": "none"})
        trained._objective.begin(other, batch, 0)
        part = next(iter(trained._objective.parts(batch, torch.Generator().manual_seed(0))))
        trained._objective.backward(other, batch, part, 64)
        moved[name] = torch.cat([p.grad.flatten() for p in other.parameters if p.grad is not None])
    assert float((moved[dtype] - moved["float32"]).norm() / moved["float32"].norm()) < rounding


def test_what_is_published_is_the_adapter_that_the_objective_acts_with(
    policy: Policy, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trailing adapter: the behaviour policy is that of the batch before, and the ratios of its samples are one."""
    plan = PPOD.plan
    monkeypatch.setattr(PPOD, "plan", lambda self, chain, version=0: replace(plan(self, chain), acts_with="reference"))
    trained = learner(policy, {"reference": "round", "round_length": 2, "steps_per_update": 1}, lr=1e-2)
    before = policy.weights()[0]
    assert np.array_equal(trained.weights().flat, before)  # what the first samplers act with
    trained.step(draw(policy))
    assert np.array_equal(trained.weights().flat, before)  # of the snapshot at the start of the round
    assert np.array_equal(trained.weights("trained").flat, policy.weights()[0])  # which is what evaluations judge
    assert not np.array_equal(policy.weights()[0], before)
    with policy.using("reference"):
        drawn = draw(policy, version=1)
    trained.step(drawn)
    again = learner(policy, {"reference": "round", "round_length": 2, "steps_per_update": 1})
    again.version = 1
    with pytest.raises(RatioError, match="Before update 2"):
        again.step(drawn)  # the policy has moved on, and what acts here is a copy of it
