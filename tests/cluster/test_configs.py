"""The configurations that come with the repository load and train, with tiny models in the place of real ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from diffusers import DDIMScheduler

from actors.policy import Policy
from actors.rollout import rollout
from actors.schedules import read_scheduler, variance_preserving
from actors.trajectories import Request
from actors.transitions import make_transitions
from cluster.config import load_config
from learner.batch import collate
from learner.learner import Learner
from rewards.people.pick_a_pic import write
from rewards.people.shapes_pairs import make_pair
from shapes.networks import make_scheduler
from tests.support.redness import Redness
from tests.support.tiny import make_pipeline
from tests.support.tiny_flow import make_flux, make_klein, make_sd3
from tests.support.tiny_sdxl import make_sdxl

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def of_velocities(folder: Path) -> Path:
    return make_pipeline(
        folder, scheduler=DDIMScheduler.from_config(make_scheduler().config, prediction_type="v_prediction")
    )


# What writes a tiny model of the kind that a config names, by how the config's name begins.
MODELS: dict[str, Callable[[Path], Path]] = {
    "sd14": make_pipeline,
    "sd15": make_pipeline,
    "sd21": of_velocities,
    "sdxl": make_sdxl,
    "sd35": make_sd3,
    "flux": make_flux,
    "flux2": make_klein,
}
FLOW = ("sd35", "flux", "flux2")
FOR_MODELS = [path for path in CONFIGS if "shapes" not in path.stem]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], list[str]]:
    """From a config to settings that put a tiny model in the place of its own."""

    @cache
    def make(kind: str) -> Path:
        return MODELS[kind](tmp_path_factory.mktemp("configs") / kind)

    def settings(path: Path) -> list[str]:
        # It reads words that it does not know letter by letter.
        kind = path.stem.split("_")[0]
        given = [f"policy.model={make(kind)}", "policy.variant=null", "policy.device=cpu"]
        if kind in FLOW:  # encoders of theirs read long prompts, and a tiny model draws tiny pictures
            return [*given, "policy.height=16", "policy.width=16"]
        return [*given, "policy.prompt_windows=8"]

    return settings


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], list[str]]:
    """From a config to settings that put a few pairs in the place of its dataset, if it has one."""
    folder = tmp_path_factory.mktemp("dataset")
    write(folder / "train.parquet", [make_pair(row) for row in range(4)])
    return lambda path: [f"data.path={folder}"] if "\ndata:" in path.read_text() else []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_a_clusters_keeps_its_runs_where_all_nodes_see_them(
    path: Path,
    model: Callable[[Path], list[str]],
    dataset: Callable[[Path], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    text = path.read_text()
    config = load_config(path, [*dataset(path), *([] if "shapes" in path.stem else model(path))])
    assert Path(config.folder).is_relative_to(ROOT) == ("python -m cluster.train" not in text)


@pytest.mark.slow
@pytest.mark.parametrize("path", FOR_MODELS, ids=lambda path: path.stem)
def test_every_config_of_a_real_model_says_what_was_verified_and_trains_a_tiny_one(
    path: Path,
    model: Callable[[Path], list[str]],
    dataset: Callable[[Path], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two samples of two prompts, one update with the config's own settings; a reward of its own asks no hub."""
    monkeypatch.chdir(ROOT)
    said = " ".join(path.read_text().split("\n\n")[0].replace("\n#", " ").lower().split())
    assert any(label in said for label in ("gated in ci", "proxy in ci", "run once", "not run"))
    config = load_config(path, [*dataset(path), *model(path)])
    policy, objective = Policy.load(config.policy), config.objective.build()
    learner = Learner(config.learner, policy, objective, config.seed, Redness())
    before, plan = policy.weights()[0].copy(), objective.plan(policy.transitions)
    request = Request(
        0, 0, ("ant",) * 2 + ("bat",) * 2, (0, 0, 1, 1), (0, 1) * 2, stored_steps=plan.stored_steps, clean=plan.clean,
        noisy_steps=plan.noisy_steps, candidates=plan.candidates,
    )  # fmt: skip
    judged = np.random.default_rng(0).normal(size=(4, len(plan.stored_steps), plan.candidates))
    drawn, rewards = rollout(policy, request)[1], np.array([0.3, -1.0, 2.0, 0.1], np.float32)
    batch = collate([drawn], rewards, judged=judged if plan.candidates > 1 else None)
    assert np.isfinite(list(learner.step(batch).metrics.values())).all()
    assert np.isfinite(policy.weights()[0]).all()
    assert not np.array_equal(policy.weights()[0], before)


def test_there_are_configs_to_check() -> None:
    assert len(CONFIGS) >= 2


def test_stable_diffusion_trains_most_of_its_chain_within_a_band_of_ratios(
    model: Callable[[Path], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    path = ROOT / "configs" / "sd15_ppod.yaml"
    config = load_config(path, model(path))
    chain = make_transitions(variance_preserving(read_scheduler(config.pipeline), config.policy.steps))
    trained = config.objective.build().plan(chain).stored_steps
    assert len(trained) > config.policy.steps / 2
    assert config.objective.clip_range <= 1e-3
    assert config.batch_size // config.prompts.samples > config.objective.prompts_per_update  # else nothing is clipped
