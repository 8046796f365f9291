"""Evaluation: closed forms of diversity, and what is asked of the rollouts and made of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import energy_distance

from actors.trajectories import EVALUATION, Request
from cluster.config import Config
from cluster.evaluation import (
    distance,
    diversity,
    evaluate,
    features,
    leaves_out,
    sample_grid,
)
from cluster.prompts import make_requests
from cluster.sources.rollouts import Rollout

Make = Callable[..., Config]


def rollout(request: Request, scores: dict[str, Any], features: Any = None) -> Rollout:
    arrays = {name: np.asarray(values, np.float32) for name, values in scores.items()}
    embedding = None if features is None else np.asarray(features, np.float32)
    return Rollout(request, 3, 0.0, 1.0, None, None, arrays, embedding)  # type: ignore[arg-type]


def features_of(points: dict[int, list[float]], size: int) -> list[Rollout]:
    """Rollouts of requests of some size whose samples lie on a line, by prompt."""
    samples = len(next(iter(points.values())))
    rows = np.array([[x] for prompt in sorted(points) for x in points[prompt]])
    requests = make_requests(tuple(f"p{i}" for i in points), samples, size, seed=0)
    return [rollout(r, {}, rows[i * size : i * size + len(r.prompts)]) for i, r in enumerate(requests)]


@pytest.mark.parametrize("size", [2, 3, 4, 6])
def test_diversity_compares_within_a_prompt_however_requests_are_cut(size: int) -> None:
    # Mean distances 2/3 and 20/3; the thousand between the prompts plays no part.
    found = diversity(features_of({0: [0, 0, 1], 1: [1000, 1000, 1010]}, size))
    assert found == pytest.approx((2 / 3 + 20 / 3) / 2)


def test_every_prompt_counts_the_same_when_samples_are_missing() -> None:
    rollouts = features_of({0: [0, 1, 2, 3], 1: [0, 8, 0, 8]}, 2)
    lost = rollout(rollouts[3].request, {})
    # Prompt 0: (1+2+3+1+2+1)/6; prompt 1: one pair is left, 8 apart.
    assert diversity([*rollouts[:3], lost]) == pytest.approx((10 / 6 + 8) / 2)


def test_a_prompt_with_one_sample_left_takes_no_part() -> None:
    rollouts = features_of({0: [0, 4, 0], 1: [0, 8, 9]}, 4)  # the second request holds two samples of prompt 1
    lost = rollout(rollouts[1].request, {})
    assert diversity([rollouts[0], lost]) == pytest.approx(8 / 3)


def test_diversity_is_unknown_when_no_features_could_be_computed() -> None:
    lost = [rollout(request, {}) for request in make_requests(("a", "b"), 2, 2, seed=0)]
    assert math.isnan(diversity(lost))


def test_nothing_has_moved_from_itself_but_for_the_pairs_of_one_seed() -> None:
    rollouts = features_of({0: [0, 1, 5], 1: [2, 4, 9]}, 2)
    base = features(rollouts)
    assert base is not None
    assert distance(rollouts, base) == pytest.approx(0, abs=1e-6)


def test_the_energy_distance_of_two_far_points_is_twice_their_distance() -> None:
    rollouts = features_of({0: [7, 7, 7], 1: [3, 3, 3]}, 3)
    base = np.array([[1.0]] * 3 + [[1.0]] * 3, np.float32)
    assert distance(rollouts, base) == pytest.approx((2 * 6 + 2 * 2) / 2)


def test_the_distance_agrees_with_the_two_sample_statistic_in_one_dimension() -> None:
    rng = np.random.default_rng(0)
    now, before = rng.normal(1, 1, 400), rng.normal(0, 1, 400)
    rollouts = features_of({0: list(now)}, 400)
    # Szekely's statistic in one dimension is twice the integral of the squared difference of distribution functions.
    assert distance(rollouts, before[:, None].astype(np.float32)) == pytest.approx(
        energy_distance(now, before) ** 2, abs=0.02
    )


def test_lost_features_of_either_side_are_left_out() -> None:
    rollouts = features_of({0: [0, 4, 8, 8]}, 2)
    base = np.array([[0.0], [4.0], [np.nan], [8.0]], np.float32)
    assert distance(rollouts, base) == pytest.approx(0, abs=1e-6)
    assert math.isnan(distance([rollout(rollouts[0].request, {})], base[:2]))


class FakeRollouts:
    """Finishes evaluation requests last first; sample i of every prompt scores i, and one of them cannot be judged."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, Request, int, Any, Any]] = []
        self.done: dict[Any, Rollout] = {}

    def submit(self, key: Any, request: Request, version: int, weights: Any = None, features: Any = None) -> None:
        self.asked.append((key, request, version, weights, features))

    def wait(self) -> None:
        key, request, *_ = self.asked[-1 - sum(1 for _ in self.done)]
        index = np.array(request.sample_index, np.float32)
        scores = {"shapes_agreement": np.where(index == 3, np.nan, index), "shapes_gold": index * 10}
        self.done[key] = rollout(request, scores, index[:, None])
        self.ready = {key}

    def take(self, key: Any) -> Rollout | None:
        assert key != "training"
        if key in self.ready:
            self.ready.remove(key)
            return self.done[key]
        return None

    def finished(self, keys: Any) -> dict[Any, Rollout]:
        return {key: found for key in keys if (found := self.take(key)) is not None}


@pytest.fixture
def config(make_config: Make) -> Config:
    return make_config("evaluation.samples=4", "evaluation.held_out_samples=2", "seed=5")


def test_every_prompt_of_both_lists_is_sampled_and_scored(config: Config) -> None:
    rollouts = FakeRollouts()
    metrics, splits = evaluate(config, rollouts, version=3)  # type: ignore[arg-type]
    assert metrics["eval/train/shapes_agreement"] == pytest.approx((0 + 1 + 2) / 3)  # NaN left out
    assert metrics["eval/train/shapes_gold"] == pytest.approx(15)
    assert metrics["eval/held_out/shapes_agreement"] == pytest.approx(0.5)
    assert metrics["eval/train/diversity"] == pytest.approx(10 / 6)
    assert metrics["eval/held_out/diversity"] == pytest.approx(1)
    rows = {
        split: [row for r in found for row in zip(r.request.prompt_index, r.request.sample_index, strict=True)]
        for split, found in splits.items()
    }
    assert rows == {
        "train": [(p, s) for p in range(3) for s in range(4)],
        "held_out": [(p, s) for p in range(2) for s in range(2)],
    }


def test_evaluation_noise_is_fixed_and_shared_with_nothing_else(config: Config) -> None:
    first, second = FakeRollouts(), FakeRollouts()
    evaluate(config, first, version=3)  # type: ignore[arg-type]
    evaluate(config, second, version=4)  # type: ignore[arg-type]
    requests = [request for _, request, *_ in first.asked]
    assert requests == [request for _, request, *_ in second.asked]
    assert {request.seed for request in requests} == {5}
    assert min(request.iteration for request in requests) >= EVALUATION
    keys = [(r.iteration, p, s) for r in requests for p, s in zip(r.prompt_index, r.sample_index, strict=True)]
    assert len(set(keys)) == len(keys) == 3 * 4 + 2 * 2


def test_what_an_exported_adapter_does_is_measured_beside_it(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training prompts once more, from the same noise; and the KL of all chains."""
    config = make_config("evaluation.samples=4", "policy.steps=3", "policy.adapted_steps=2")
    _, splits = evaluate(config, FakeRollouts(), 3)  # type: ignore[arg-type]
    assert list(splits) == ["train", "held_out", "train_everywhere"]
    asked = {split: [r.request for r in found] for split, found in splits.items()}
    assert all(r.kl and not r.everywhere for r in (*asked["train"], *asked["held_out"]))
    assert asked["train_everywhere"] == [replace(r, everywhere=True) for r in asked["train"]]
    all_steps = make_config("policy.steps=3", "policy.adapted_steps=3")
    assert list(evaluate(all_steps, FakeRollouts(), 3)[1]) == ["train", "held_out"]  # type: ignore[arg-type]
    auto = make_config("policy.steps=3", "policy.adapted_steps=auto")
    assert "train_everywhere" in evaluate(auto, FakeRollouts(), 3)[1]  # type: ignore[arg-type]
    monkeypatch.setattr("actors.transitions._HEAVY", 1.0)  # then auto leaves out none
    assert list(evaluate(auto, FakeRollouts(), 3)[1]) == ["train", "held_out"]  # type: ignore[arg-type]


def test_the_kl_is_a_mean_over_the_pictures(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts, take = FakeRollouts(), FakeRollouts.take

    def with_kl(self: FakeRollouts, key: Any) -> Rollout | None:
        found = take(self, key)
        return found and replace(found, kl=float(len(found.request.prompts)))

    assert not any(name.endswith("/kl") for name in evaluate(config, rollouts, 3)[0])  # type: ignore[arg-type]
    monkeypatch.setattr(FakeRollouts, "take", with_kl)
    metrics, splits = evaluate(config, FakeRollouts(), 3)  # type: ignore[arg-type]
    sizes = [len(r.request.prompts) for r in splits["train"]]
    assert metrics["eval/train/kl"] == pytest.approx(sum(size * size for size in sizes) / sum(sizes))


def test_version_weights_and_features_are_passed_on(config: Config, make_config: Make) -> None:
    rollouts, averaged = FakeRollouts(), object()
    evaluate(config, rollouts, 3, averaged)  # type: ignore[arg-type]
    assert {tuple(rest) for _, _, *rest in rollouts.asked} == {(3, averaged, "shapes_agreement")}


def test_the_distance_is_measured_once_there_is_something_to_measure_from(config: Config) -> None:
    _, splits = evaluate(config, FakeRollouts(), 0)  # type: ignore[arg-type]
    base = {split: features(found) for split, found in splits.items()}
    metrics, _ = evaluate(config, FakeRollouts(), 3, None, base)  # type: ignore[arg-type]
    assert metrics["eval/train/distance"] == pytest.approx(0, abs=1e-6)
    assert metrics["eval/held_out/distance"] == pytest.approx(0, abs=1e-6)
    moved = {split: values + 100 for split, values in base.items() if values is not None}
    assert evaluate(config, FakeRollouts(), 3, None, moved)[0]["eval/train/distance"] > 100  # type: ignore[arg-type]


def test_without_features_there_is_no_diversity(make_config: Make) -> None:
    rollouts = FakeRollouts()
    metrics, _ = evaluate(make_config("evaluation.features=null"), rollouts, 3)  # type: ignore[arg-type]
    assert {features for *_, features in rollouts.asked} == {None}
    assert not [name for name in metrics if name.endswith("diversity")]


def with_lists(make_config: Make, tmp_path: Path, lines: int, *overrides: str) -> Config:
    for name in ("train", "held_out"):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {i}\n" for i in range(lines)))
    return make_config("evaluation.samples=2", "evaluation.held_out_samples=2", "prompts.per_iteration=4", *overrides)


def asked_of(config: Config) -> list[list[str]]:
    rollouts = FakeRollouts()
    evaluate(config, rollouts, 3)  # type: ignore[arg-type]
    texts = [prompt for _, request, *_ in rollouts.asked for prompt in request.prompts]
    return [list(dict.fromkeys(text for text in texts if text.startswith(name))) for name in ("train", "held_out")]


@pytest.mark.parametrize(
    ("setting", "count"), [("", 64), ("evaluation.prompts=5", 5), ("evaluation.prompts=null", 300)]
)
def test_a_long_list_is_evaluated_on_the_same_part_every_time(
    make_config: Make, tmp_path: Path, setting: str, count: int
) -> None:
    first = asked_of(with_lists(make_config, tmp_path, 300, *filter(None, [setting])))
    assert [len(prompts) for prompts in first] == [count, count]
    assert first == asked_of(with_lists(make_config, tmp_path, 300, "seed=8", *filter(None, [setting])))


@pytest.mark.parametrize("lines", [3, 64])
def test_a_short_list_is_evaluated_whole(make_config: Make, tmp_path: Path, lines: int) -> None:
    expected = [[f"{name} {i}" for i in range(lines)] for name in ("train", "held_out")]
    assert asked_of(with_lists(make_config, tmp_path, lines)) == expected


def test_what_is_left_out_of_a_list_is_said(make_config: Make, tmp_path: Path) -> None:
    assert leaves_out(with_lists(make_config, tmp_path, 4000)) == (
        "evaluations ask for 64 of the 4,000 training prompts and 64 of the 4,000 held-out prompts, the same every "
        "time (evaluation.prompts=null asks for all)"
    )
    assert leaves_out(with_lists(make_config, tmp_path, 64)) is None
    assert leaves_out(with_lists(make_config, tmp_path, 4000, "evaluation.prompts=null")) is None


def test_progress_is_told_from_nothing_to_nearly_all(config: Config) -> None:
    told: list[tuple[int, int]] = []
    evaluate(config, FakeRollouts(), 3, progress=lambda *numbers: told.append(numbers))  # type: ignore[arg-type]
    assert told == [(0, 16), (4, 16), (8, 16), (12, 16)]


@pytest.mark.filterwarnings("error")
def test_what_no_reward_could_judge_is_unknown_and_no_warning_of_numpy(config: Config) -> None:
    class Unjudged(FakeRollouts):
        def take(self, key: Any) -> Rollout | None:
            done = super().take(key)
            if done is not None:
                done.scores["shapes_gold"][:] = np.nan
            return done

    metrics, _ = evaluate(config, Unjudged(), 3)  # type: ignore[arg-type]
    assert math.isnan(metrics["eval/train/shapes_gold"])
    assert math.isfinite(metrics["eval/train/shapes_agreement"])


@pytest.mark.parametrize("size", [2, 5, 12])
def test_a_sample_grid_puts_requests_together_and_fetches_only_what_it_shows(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = make_requests(("p0", "p1", "p2", "p3"), 3, size, seed=0)
    stored = {}  # images whose red says the prompt and whose green the sample, by number of the request
    for number, asked in enumerate(requests):
        stored[number] = np.zeros((len(asked.prompts), 8, 8, 3), np.uint8)
        stored[number][..., 0] = 40 + 10 * np.array(asked.prompt_index)[:, None, None]
        stored[number][..., 1] = 40 + 10 * np.array(asked.sample_index)[:, None, None]
    rollouts = [Rollout(asked, 0, 0.0, 1.0, i, None, {}) for i, asked in enumerate(requests)]  # type: ignore[arg-type]
    fetched: list[int] = []
    monkeypatch.setattr("cluster.evaluation.ray.get", lambda number: fetched.append(number) or stored[number])
    sheet = np.asarray(sample_grid(rollouts, rows=2, columns=2))
    cells = {tuple((pixel[:2] - 40) // 10) for pixel in sheet[sheet[..., 2] == 0] if pixel[0] >= 40 <= pixel[1]}
    assert cells == {(0, 0), (0, 1), (1, 0), (1, 1)}
    shown = {0, 1, 3, 4}  # samples in request order
    assert sorted(fetched) == sorted({row // size for row in shown})


def test_a_reward_with_features_alone_has_no_score_to_record(make_config: Make) -> None:
    config = make_config("rewards={shapes_gold: {weight: 1}, dino: {weight: 0}}", "evaluation.features=dino")
    metrics, _ = evaluate(config, FakeRollouts(), 3)  # type: ignore[arg-type]
    figures = {"shapes_agreement", "shapes_gold", "diversity"}
    assert metrics.keys() == {f"eval/{split}/{figure}" for split in ("train", "held_out") for figure in figures}
