"""The exact tilt against closed forms, methods at equal reward against values by hand, and the commands end to end."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.policy import Policy
from benchmarks.methods.grid import Cell, cells, load_grid
from benchmarks.tilt import front
from benchmarks.tilt.__main__ import main
from benchmarks.tilt.compare import NUMBERS, Exact
from benchmarks.tilt.draws import Drawn, draw
from benchmarks.tilt.equal import MEASURES, at_reward, claims
from benchmarks.tilt.judging import Judged, grounds
from benchmarks.tilt.paths import models_of
from benchmarks.tilt.pictures import at_quickest
from benchmarks.tilt.sheets import of_run, of_tilt
from benchmarks.tilt.tilt import (
    Spread,
    beta_at,
    deviation,
    distances,
    divergence,
    effective_sizes,
    energy,
    expected,
    frechet,
    tilted,
)
from cluster.config import Config, load_words
from cluster.measures.spread import mean_pairwise_distance
from cluster.records.rundir import RunDirectory
from cluster.trained import Trained
from learner import checkpoint
from learner.learner import Learner, LearnerConfig
from learner.objectives.ddpo import DDPOConfig
from shapes.captions import KINDS, all_captions
from shapes.render import render
from shapes.worlds import WORLDS

N = 200_000


@pytest.fixture(scope="module")
def normal() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(N)


@pytest.mark.parametrize(
    ("reward", "beta", "mean", "variance"),
    [
        (lambda x: x, 0.5, 0.5, 1.0),
        (lambda x: -((x - 1) ** 2) / 2, 2.0, 2 / 3, 1 / 3),
        (lambda x: -((x - 1) ** 2) / 2, -0.5, -1.0, 2.0),
    ],
)
def test_a_gaussian_is_tilted_as_in_closed_form(normal: np.ndarray, reward, beta, mean, variance) -> None:
    groups = np.zeros(N, int)
    weights = tilted(reward(normal), groups, beta)
    found = float(expected(normal, weights, groups))
    error = 4 * (variance / effective_sizes(weights, groups)[0]) ** 0.5
    assert found == pytest.approx(mean, abs=error)
    assert expected((normal - found) ** 2, weights, groups) == pytest.approx(variance, rel=0.05)


def test_the_effective_size_of_a_gaussian_is_as_in_closed_form(normal: np.ndarray) -> None:
    """n exp(-beta^2) where the reward is x: 1 / E[w^2] with w = exp(beta x - beta^2 / 2)."""
    groups = np.zeros(N, int)
    for beta in (0.3, 0.6, 1.0):
        (size,) = effective_sizes(tilted(normal, groups, beta), groups)
        assert size == pytest.approx(N * np.exp(-(beta**2)), rel=0.05)


def test_effective_sizes_go_from_all_to_one() -> None:
    reward, groups = np.array([0.0, 1.0, 5.0, 5.0]), np.array([0, 0, 1, 1])
    assert effective_sizes(tilted(reward, groups, 0.0), groups).tolist() == [2, 2]
    assert effective_sizes(tilted(reward, groups, 1e4), groups).tolist() == [1, 2]


def test_each_prompt_is_tilted_by_itself() -> None:
    """What is added to a prompt's rewards moves no weight, and all prompts count alike."""
    reward, groups = np.array([0.0, 1.0, 2.0, 0.0, 1.0]), np.array([0, 0, 0, 1, 1])
    weights = tilted(reward, groups, 1.5)
    np.testing.assert_allclose(tilted(reward + 7 * groups, groups, 1.5), weights)
    np.testing.assert_allclose([weights[groups == group].sum() for group in (0, 1)], [1, 1])
    by_prompt = [np.average(reward[groups == group], weights=weights[groups == group]) for group in (0, 1)]
    assert expected(reward, weights, groups) == pytest.approx(np.mean(by_prompt))
    assert deviation(reward + 7 * groups, groups) == pytest.approx(((2 / 3 + 1 / 4) / 2) ** 0.5)


def test_the_beta_of_a_reward_is_found_again() -> None:
    reward, groups = np.random.default_rng(1).standard_normal(600), np.arange(600) % 3
    for beta in (-2.0, 0.0, 0.7, 4.0):
        target = float(expected(reward, tilted(reward, groups, beta), groups))
        assert beta_at(reward, groups, target) == pytest.approx(beta, abs=1e-6)
    assert np.isnan(beta_at(reward, groups, 10.0))
    assert np.isnan(beta_at(reward, groups, -10.0))


def test_diversity_without_weights_is_the_mean_distance_of_pairs() -> None:
    features, groups = np.random.default_rng(0).standard_normal((20, 5)), np.arange(20) % 2
    found = Spread(features, groups).diversity(tilted(np.zeros(20), groups, 1.0))
    assert found == pytest.approx(np.mean([mean_pairwise_distance(features[groups == of]) for of in (0, 1)]))


def test_one_sample_alone_has_no_diversity_and_is_at_no_distance_from_itself() -> None:
    rng = np.random.default_rng(0)
    features, groups = rng.normal(3, 1, (40, 64)).astype(np.float32), np.repeat([0, 1], 20)
    reward = np.zeros(40)
    reward[7] = 1.0  # at beta 40 all but e^-40 of the first prompt's weight
    assert np.isnan(Spread(features, groups).diversity(tilted(reward, groups, 40.0)))
    spread = Spread(np.repeat(features[:1], 40, axis=0), groups)
    assert spread.diversity(tilted(np.zeros(40), groups, 1.0)) < 0.01  # float32 of |a|^2 + |b|^2 - 2 ab
    assert all((np.diag(between) == 0).all() for between in spread._distances)


def test_the_diversity_of_a_tilted_gaussian_is_as_in_closed_form() -> None:
    """E|X - X'| = 2 sigma / sqrt(pi), here with sigma^2 = 1 / (1 + beta)."""
    x = np.random.default_rng(0).standard_normal(3000)
    groups = np.zeros(3000, int)
    found = Spread(x[:, None], groups).diversity(tilted(-(x**2) / 2, groups, 3.0))
    assert found == pytest.approx(2 * 0.5 / np.pi**0.5, rel=0.05)


def test_a_weight_counts_as_so_many_samples() -> None:
    features = np.random.default_rng(0).standard_normal((6, 3))
    times = np.array([1, 3, 2, 1, 1, 2])
    others = np.random.default_rng(1).standard_normal((50, 3))
    expected_ = frechet(features.repeat(times, axis=0), np.ones(times.sum()), others, np.ones(50))
    assert frechet(features, times / 7, others, np.ones(50)) == pytest.approx(expected_)


def test_the_frechet_distance_of_gaussians_is_as_in_closed_form() -> None:
    """Of independent dimensions: the squared differences of means and of deviations."""
    random_ = np.random.default_rng(0)
    x = random_.standard_normal((40_000, 2)) * [1, 2]
    y = random_.standard_normal((40_000, 2)) * [3, 2] + [0, 1]
    even = np.ones(len(x))
    assert frechet(x, even, y, even) == pytest.approx(1 + 4, rel=0.05)
    assert frechet(x, even, x, even) == pytest.approx(0, abs=1e-9)


def test_distances_are_euclidean() -> None:
    random_ = np.random.default_rng(0)
    x, y = random_.standard_normal((7, 4)), random_.standard_normal((5, 4))
    np.testing.assert_allclose(distances(x, y), np.linalg.norm(x[:, None] - y[None], axis=2), atol=1e-9)


def test_the_energy_distance_has_no_bias_and_sees_a_shift() -> None:
    random_ = np.random.default_rng(0)
    groups = np.arange(800) % 2
    same, x, y = [], random_.standard_normal((800, 1)), random_.standard_normal((800, 1))
    for _ in range(20):
        same.append(energy(random_.standard_normal((40, 1)), groups[:40], x, groups))
    assert abs(np.mean(same)) < 3 * np.std(same) / 20**0.5 + 0.01
    # Far apart it is twice the shift, less the two spreads 2 / sqrt(pi).
    assert energy(x + 100, groups, y, groups) == pytest.approx(200 - 4 / np.pi**0.5, rel=0.01)


def test_divergence_by_hand() -> None:
    found = divergence(np.array([0.5, 0.5]), np.array([0.25, 0.75]))
    assert found == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))
    assert divergence(np.array([0.2, 0.8, 0.0]), np.array([0.2, 0.8, 0.0])) == 0
    assert np.isfinite(divergence(np.array([0.5, 0.5, 0.0]), np.array([1.0, 0.0, 0.0])))


def test_figures_at_a_reward_lie_on_the_path_where_it_first_gets_there() -> None:
    path = {"reward": [0.0, 1.0, 0.5, 3.0], "diversity": [0.8, 0.6, 0.7, 0.2], "beta": [0.0, 1.0, float("nan"), 2.0]}
    assert at_reward(path, 0.25) == pytest.approx({"reward": 0.25, "diversity": 0.75, "beta": 0.25})
    assert at_reward(path, 1.0) == pytest.approx({"reward": 1.0, "diversity": 0.6, "beta": 1.0})  # nobody's NaN
    later = at_reward(path, 2.0)
    assert later is not None
    assert later["diversity"] == pytest.approx(0.7 - 0.5 * 0.6)
    assert at_reward(path, 3.5) is None
    assert at_reward(path, -1.0) == pytest.approx({"reward": 0.0, "diversity": 0.8, "beta": 0.0})


def figures(**known: float) -> dict[str, float]:
    return dict.fromkeys(MEASURES, 1.0) | known


def test_a_method_is_ahead_at_more_than_two_standard_errors_of_pairs() -> None:
    ours = {"a": {0: figures(diversity=0.9), 1: figures(diversity=0.5), 2: figures(diversity=0.7)}}
    theirs = {"b": {0: figures(diversity=0.8, distance=2.0), 1: figures(diversity=0.4), 2: figures(diversity=0.61)}}
    made = {claim.measure: claim for claim in claims(ours, theirs)}
    lead = np.array([0.1, 0.1, 0.09])
    assert made["diversity"].lead == pytest.approx(lead.mean())
    assert made["diversity"].error == pytest.approx(lead.std(ddof=1) / 3**0.5)
    assert (made["diversity"].verdict, made["diversity"].seeds) == ("ahead", 3)
    # Less of it is better; one seed alone decides nothing, and equals are not apart.
    assert (made["distance"].lead, made["distance"].verdict) == (pytest.approx(1 / 3), "open")
    assert made["frechet"].verdict == "open"
    (swapped,) = (claim for claim in claims(theirs, ours) if claim.measure == "diversity")
    assert (swapped.lead, swapped.verdict) == (pytest.approx(-made["diversity"].lead), "behind")
    alone = claims({"a": {0: figures(diversity=5.0), 7: figures()}}, theirs)
    assert {(claim.seeds, claim.verdict) for claim in alone} == {(1, "open")}


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_backgrounds_are_named_as_they_were_drawn(world) -> None:
    rng, names = random.Random(0), list(world.backgrounds)
    captions = [c for kind in KINDS for c in all_captions(kind, world=world) if c.background]
    captions = rng.sample(captions, 60)
    pictures = np.stack([render(caption, rng) for caption in captions])
    found = grounds(pictures, world)
    assert found.argmax(axis=1).tolist() == [names.index(caption.background) for caption in captions]
    strange = np.full((1, world.size, world.size, 3), (255, 0, 255), np.uint8)
    assert grounds(strange, world).tolist() == [[0, 0, 0, 1]]


def made_up(count: int, seed: int, rows: np.ndarray | None = None) -> Judged:
    """Two prompts whose reward, features and background hang together."""
    random_ = np.random.default_rng(seed)
    x = random_.standard_normal((count, 4)).astype(np.float32)
    ground = np.eye(4)[np.digitize(x[:, 0], [-0.5, 0.5])]
    made = Judged(np.arange(count) % 2, x[:, 0].astype(float), x[:, 1].astype(float), ground, x, x)
    if rows is None:
        return made
    return Judged(*(getattr(made, name)[rows] for name in made.__dataclass_fields__))


def test_a_policy_that_is_the_tilt_is_found_to_be_it() -> None:
    tilt = Exact(made_up(4000, 0))
    weights = tilted(made_up(4000, 1).reward, made_up(4000, 1).groups, 0.8)
    random_ = np.random.default_rng(2)
    rows = [random_.choice(4000, 600, p=weights * (np.arange(4000) % 2 == group)) for group in (0, 1)]
    found = tilt.beside(made_up(4000, 1, np.concatenate(rows)))
    assert found.beta == pytest.approx(0.8, abs=0.1)
    assert found.reward == pytest.approx(0.8, abs=0.1)
    assert found.diversity == pytest.approx(found.tilt_diversity, rel=0.05)
    assert found.grounds_kl < 0.02
    assert 0 <= found.frechet < 6 * found.frechet_floor
    # Another policy of the same reward is far from it: what is best of the pretrained model, again and again.
    base = made_up(4000, 1)
    best = np.nonzero((base.reward > 0.7) & (base.reward < 0.9))[0]
    narrow = tilt.beside(made_up(4000, 1, best))
    assert narrow.beta == pytest.approx(found.beta, abs=0.15)
    assert narrow.diversity < 0.95 * narrow.tilt_diversity
    assert narrow.grounds_kl > 0.2
    assert narrow.frechet > 10 * found.frechet


def test_a_policy_beyond_every_tilt_has_figures_of_its_own_alone() -> None:
    base = made_up(200, 0)
    found = Exact(base).beside(replace(made_up(60, 1), reward=np.full(60, 50.0)))
    assert np.isnan([found.beta, found.frechet, found.grounds_kl, found.tilt_diversity]).all()
    assert np.isfinite([found.reward, found.gold, found.diversity, found.distance]).all()


def test_pictures_of_the_tilt_are_drawn_by_its_weights_each_under_its_prompt() -> None:
    made = made_up(2000, 0)
    pixels = np.zeros((2000, 1, 1, 3), np.uint8)
    pixels[:, 0, 0] = np.stack([np.arange(2000) // 256, np.arange(2000) % 256, made.groups], axis=1)
    rewards = [1.5, np.mean([made.reward[made.groups == group].max() for group in (0, 1)]) - 0.01, 50.0]
    *shown, alone, beyond = of_tilt(Exact(made), Drawn(pixels, made.groups), rewards)
    assert beyond == (None, "no tilt has it")
    assert alone == (None, "too few pictures")
    rows = []
    for (cell, words), reward in zip(shown, (made.reward.mean(), 1.5), strict=True):
        assert cell is not None
        assert cell.shape == (2, 2, 1, 1, 3)  # two pictures of each of two prompts
        assert cell[:, :, 0, 0, 2].tolist() == [[0, 1], [0, 1]]
        assert words.startswith(f"reward {reward:.2f}, gold ")
        rows.append(np.tensordot(cell[:, :, 0, 0, :2].astype(int), [256, 1], 1))
    assert made.reward[rows[1]].min() > max(0.5, made.reward[rows[0]].mean())
    assert len(set(rows[1].flatten())) == 4


def test_seconds_are_those_of_the_quickest_run() -> None:
    slow, quick = np.array([[0, 1.5], [10, 2.5]]), np.array([[0, 1.0], [9, 2], [18, 4]])
    assert at_quickest([slow, quick])[0].tolist() == [[0, 1.5], [9, 2.5]]
    assert at_quickest([slow, quick])[1].tolist() == quick.tolist()


WORDS = ("policy.steps=2", "rewards.shapes_agreement.weight=0", "rewards.brightness.weight=4")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "prompts.txt").write_text("a red circle\ntwo blue stars\n")
    return load_words([*WORDS, f"prompts.train={tmp_path / 'prompts.txt'}", f"folder={tmp_path}", "name=run"])


def test_a_draw_goes_on_and_a_larger_one_begins_with_it(config: Config, tmp_path: Path) -> None:
    base = Trained("pretrained", config.policy.model_copy(update={"model": config.pipeline}))
    prompts = ("a red circle", "two blue stars") * 30  # of one part of 60
    first = draw(base, prompts, 60, tmp_path, seed=0, noise=2**63 + 2, bare=True)
    (part,) = tmp_path.glob("*/part-*.npz")
    before, changed = part.read_bytes(), part.stat().st_mtime_ns
    larger = draw(base, prompts, 61, tmp_path, seed=0, noise=2**63 + 2, bare=True)
    assert part.stat().st_mtime_ns == changed  # read, not drawn again
    assert larger.pixels.shape == (120, 32, 32, 3)
    np.testing.assert_array_equal(larger.pixels[:60], first.pixels)
    assert (larger.pixels[60:] != first.pixels).any(axis=(1, 2, 3)).all()
    part.write_bytes(before[: len(before) // 2])  # torn: drawn again, the same
    again = draw(base, prompts, 60, tmp_path, seed=0, noise=2**63 + 2, bare=True)
    np.testing.assert_array_equal(again.pixels, first.pixels)
    draw(base, prompts, 60, tmp_path, seed=1, noise=2**63 + 2, bare=True)
    assert len(list(tmp_path.glob("*/settings.json"))) == 2


@pytest.mark.slow
def test_runs_are_put_beside_the_tilt(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDirectory.create(config)
    policy = Policy.load(config.policy.model_copy(update={"model": config.pipeline}))
    learner = Learner(LearnerConfig(), policy, DDPOConfig().build())
    for learner.version in (0, 1):
        with checkpoint.writing(run.path / "checkpoints", learner.version) as folder:
            learner.save(folder)
    assert {at: model.checkpoint is None for at, model in models_of(run.path, config).items()} == {0: True, 1: False}
    size = ["--images", "96", "--folder", str(tmp_path / "tilt"), "--betas", "0", "1"]
    assert main([*size, "--each", "2", "--runs", str(run.path)]) == 0
    said = capsys.readouterr().out
    assert "over 96 pictures" in said
    assert (tmp_path / "tilt" / "front.png").stat().st_size > 5000
    # A fresh adapter changes nothing: the same noise, the same pictures.
    first, second = (line for line in said.splitlines() if line.startswith("│ run"))
    assert first.split("│")[3:] == second.split("│")[3:]
    # What it has spent, and what it draws: it comes to its own reward at once, and never to a higher one.
    run.record(1, {"reward_queries": 8.0, "network_evaluations": 32.0, "time/iteration": 2.5}, {})
    run.record(3, {"reward_queries": 24.0, "network_evaluations": 96.0, "time/iteration": 2.5}, {})
    cell = Cell("brightness", "ddpo", 0, (), config)
    path = {"iteration": [0.0, 1.0, 2.0, 3.0], "reward": [1.0, 1.0, 1.0, 1.2], "gold": [0.5, 0.5, 0.5, 0.5]}
    assert front.spent(cell, path).tolist() == [[1, 0, 0, 0], [1, 8, 32, 2.5]]  # what came after 2 is not known
    first, second, third, last = of_run(cell, path, [0.9, 1.3], 2, tmp_path / "tilt")
    assert third == (None, "never")
    assert last == (None, "its checkpoint is gone")
    assert first[1] == second[1] == "reward 1.00, gold 0.50"
    np.testing.assert_array_equal(first[0], second[0])
    assert first[0] is not None
    assert first[0].shape == (2, 2, 32, 32, 3)


def test_what_has_no_tilt_is_refused_in_one_line(
    tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = [f"policy.model={tiny_pipeline}", "rewards.brightness.weight=1", "prompts.train=shapes:hard"]
    for words, said in (
        (foreign, "is no model of an embedded world"),
        (["policy.steps=3", "--runs", "nowhere"], "With --runs the settings are the first run's"),
    ):
        assert main(["--folder", str(tmp_path), "--images", "2", *words]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert said in line
    assert not any(tmp_path.glob("*"))  # nothing was drawn


def test_the_fronts_grid_loads_and_has_both_rewards(tmp_path: Path) -> None:
    made = cells(load_grid(str(front.GRID)), tmp_path)
    assert {cell.world for cell in made} == {"brightness", "aesthetic"}
    assert len(made) == 3 * 2 * 13
    for cell in made:
        (weighted,) = (name for name, reward in cell.config.rewards.items() if reward.weight)
        assert cell.config.reward_class(weighted).differentiable
        assert cell.config.checkpoints.keep == 0
    assert {cell.config.objective.beta for cell in made if cell.arm.startswith("nabla")} == {1, 2, 5}


def path(scale: float, diversity: float) -> front.Numbers:
    """A path from a reward of 0 by equal steps, which loses diversity."""
    rewards = [scale * number for number in range(5)]
    return {name: [1.0] * 5 for name in NUMBERS} | {
        "reward": rewards, "diversity": [1 - (1 - diversity) * of for of in rewards]
    }  # fmt: skip


def test_the_table_says_who_keeps_more_at_equal_reward() -> None:
    tilt = Exact(made_up(2000, 0))  # reward 0, deviation 1
    paths = {
        "nabla": {0: path(0.5, 0.9), 1: path(0.5, 0.88)},
        "refl": {0: path(1.0, 0.5), 1: path(1.0, 0.49)},
        "slow": {0: path(0.01, 0.9)},
    }
    lines = front.table("brightness", paths, tilt, ["nabla"])
    at_one = next(line for line in lines if line.startswith("| +1 | nabla | 2 of 2"))
    assert float(at_one.split("|")[6].split()[0]) == pytest.approx(0.89, abs=0.01)  # the mean of .9 and .88
    assert any(line.startswith("| +1 | slow | 0 of 1 |") for line in lines)
    claim = next(line for line in lines if line.startswith("| +1 | nabla | refl | 2 |"))
    assert "ahead" in claim.split("|")[5]
    assert "open" in claim.split("|")[6]
    assert not any("| nabla | slow |" in line for line in lines)
