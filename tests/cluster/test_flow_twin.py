"""Flow matching is trained, not only run: the twin's own configuration raises the reward and the gold score."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config import load_config
from cluster.crew.crew import dismiss, make_crew
from cluster.records.rundir import RunDirectory
from tests.cluster.test_end_to_end import PLACEMENT, carry_out

CONFIG = Path(__file__).parents[2] / "configs" / "shapes_flow.yaml"
# The same prompts and noise before and after, so that little is left to chance.
SHORT = ["seed=1", "evaluation={samples: 8, features: null}"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_ppod_raises_reward_and_gold_score_of_the_flow_matching_twin(tmp_path: Path) -> None:
    config = load_config(CONFIG, [f"folder={tmp_path}", "name=run", *SHORT])
    run = RunDirectory.create(config)
    crew = make_crew(config, PLACEMENT)
    try:
        carry_out(config, run, crew)
    finally:
        dismiss(crew)
    for reward, rise in (("shapes_agreement", 0.2), ("shapes_gold", 0.02)):
        (_, before), (_, after) = run.metrics()[f"eval/train/{reward}"]
        assert after > before + rise, reward
