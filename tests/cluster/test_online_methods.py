"""Policy gradients and forward-process losses with real Ray actors, each for a few iterations and stopped half way.

Four whose state, or whose batches, differ in kind; `tests/learner/test_every_objective.py` resumes all of them without
actors.

What the driver does for them alone: windows that move reach the samplers, and evaluations judge what is learned where
samplers act with what trails behind it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cluster.config import load_config
from cluster.crew.crew import dismiss, make_crew
from cluster.crew.learner_group import LearnerGroup
from cluster.records.rundir import RunDirectory
from learner.actor import Which
from tests.cluster.test_end_to_end import PLACEMENT, carry_out, go_back, same
from tests.support.documented import undocumented

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

# Each objective, and what makes it do all that it can in two samples of two prompts.
OBJECTIVES = {
    "dpok": "{name: dpok, transitions: 6, updates: 2, value: {width: 4}}",
    "grpo": "{name: grpo, window: 2, window_every: 1}",
    "nft": "{name: nft, states: 2, updates: 2}",
    "spo": "{name: spo, candidates: 3, threshold: 0, pairs_per_update: 9}",
}


@pytest.fixture(scope="module")
def settings(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("online")
    (folder / "prompts.txt").write_text("a red circle\nfour blue stars\n")
    (folder / "config.yaml").write_text(f"""
iterations: 3
policy: {{model: {tiny_pipeline}, device: cpu, steps: 4, lora_rank: 2, lora_alpha: 2}}
prompts: {{train: {folder}/prompts.txt, samples: 2, per_iteration: null}}
rewards: {{jpeg_compressibility: {{weight: 1.0}}}}
samplers: {{request_size: 2, max_staleness: 0}}
learner: {{lr: 0.01, ratio_tolerance: 1.0e-3}}
evaluation: {{every: 0, samples: 2, features: null}}
checkpoints: {{every: 1}}
""")
    return folder / "config.yaml"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_run_stopped_half_way_goes_on_bit_for_bit(
    settings: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, weights = list[Which](), LearnerGroup.weights
    monkeypatch.setattr(
        LearnerGroup, "weights", lambda own, which="acting": (asked.append(which), weights(own, which))[1]
    )
    words = [f"objective={OBJECTIVES[name]}", *(["policy.solver=dpm_2m"] if name == "nft" else [])]
    config = load_config(settings, [f"folder={tmp_path}", "name=run", *words])
    run, finals = RunDirectory.create(config), []
    for _ in range(2):
        crew = make_crew(config, PLACEMENT)
        try:
            finals.append(carry_out(config, run, crew))
        finally:
            dismiss(crew)
        early = go_back(run, checkpoints=2)
    assert same(*finals)
    assert not same(finals[0], early)
    assert any(np.abs(values).max() > 0 for key, values in finals[0].items() if "lora_B" in key or "lora.up" in key)
    assert undocumented(run.metrics()) == []
    metrics = run.metrics()
    assert all(np.isfinite(value) for _, value in metrics["grad_norm"])
    # Judged before and after, and the second time after, where another adapter acts.
    assert asked.count("trained") == (3 if name == "nft" else 0)
    window = [value for _, value in metrics.get("noise/first_step", [])]
    assert window == ([0, 1, 2] if name == "grpo" else [])
