"""The configurations that come with the repository load, but for models that only a network has."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.schedules import read_scheduler, variance_preserving
from actors.transitions import make_transitions
from cluster.config import load_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def tiny(model: Path) -> list[str]:
    """Settings of a model that reads words which it does not know letter by letter."""
    return [f"policy.model={model}", "policy.prompt_windows=8"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_a_clusters_keeps_its_runs_where_all_nodes_see_them(
    path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    text = path.read_text()
    config = load_config(path, [] if "shapes" in path.stem else tiny(tiny_pipeline))
    assert Path(config.folder).is_relative_to(ROOT) == ("python -m cluster.train" not in text)


def test_there_are_configs_to_check() -> None:
    assert len(CONFIGS) >= 2


def test_stable_diffusion_trains_most_of_its_chain_within_a_band_of_ratios(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(ROOT / "configs" / "sd15_ppod.yaml", tiny(tiny_pipeline))
    chain = make_transitions(variance_preserving(read_scheduler(config.pipeline), config.policy.steps))
    trained = config.objective.build().plan(chain).stored_steps
    assert len(trained) > config.policy.steps / 2
    assert config.objective.clip_range <= 1e-3
    assert config.batch_size // config.prompts.samples > config.objective.prompts_per_update  # else nothing is clipped
