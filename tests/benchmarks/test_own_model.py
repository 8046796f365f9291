"""The page *your own model and reward*: what it shows is what is tested, so it cannot rot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import own_model
from cluster.config import load_config
from cluster.prompts import read_prompts
from cluster.records.reading import Records
from rewards import make_reward
from tests.support.tiny import make_pipeline


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The page's files beside a model, whose tokenizer spells the page's words letter by letter."""
    own_model.write_files(tmp_path)
    model = make_pipeline(tmp_path / "my_model", text={"max_position_embeddings": 77})
    said = json.loads((model / "tokenizer" / "tokenizer_config.json").read_text())
    (model / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(said | {"model_max_length": 77}))
    return tmp_path


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the current folder of someone who types `python -m`."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    return folder


def test_the_pages_config_loads_from_its_folder(here: Path) -> None:
    config = load_config(here / "my.yaml")
    assert Path(config.pipeline).name == "my_model"
    assert set(config.rewards) == {"named_colours"}
    assert len(read_prompts(config.prompts.train)) == 8


def test_nothing_of_the_embedded_world_is_in_it(here: Path) -> None:
    assert "shapes" not in load_config(here / "my.yaml").model_dump_json()


def test_the_pages_shortest_config_loads(here: Path) -> None:
    config = load_config(here / "shortest.yaml")
    assert set(config.rewards) == {"named_colours"}
    assert "shapes" not in config.model_dump_json()


def test_the_pages_prompts_with_metadata_reach_its_reward(here: Path) -> None:
    prompts = read_prompts(str(here / "prompts.jsonl"))
    images = torch.zeros(len(prompts), 3, 4, 4)
    wanted = [torch.tensor(prompt.metadata["colour"]) / 255 for prompt in prompts]
    images[0] = wanted[0][:, None, None]
    found = make_reward("my_metadata_reward:one_colour").score(images, prompts)
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert (found[1:] < 0).all()


def test_the_pages_reward_says_what_it_means(here: Path) -> None:
    reward = make_reward("my_reward:named_colours")
    teal = torch.tensor([0, 140, 140])[:, None] / 255
    brown = torch.tensor([130, 70, 25])[:, None] / 255
    images = torch.ones(4, 3, 10, 10)
    images[1, :, 0, :4] = teal  # half of what is asked of one colour of two
    images[2, :, 0, :] = teal
    images[3, :, 0, :], images[3, :, 1, :] = teal, brown
    found = reward.score(images, ["a big teal ring above a big brown bar"] * 4)
    torch.testing.assert_close(found, torch.tensor([0, 0.25, 0.5, 1]))
    assert reward.score(images[:1], ["a cat"]).isnan().all()


def test_the_pages_class_scores_as_its_function_does(here: Path) -> None:
    images = torch.rand(3, 3, 8, 8)
    prompts = ["a big teal ring", "a big navy bar on sand", "a big lime ring above a big pink bar"]
    of_class = make_reward("my_reward_class:NamedColours", share=0.05).score(images, prompts)
    torch.testing.assert_close(of_class, make_reward("my_reward:named_colours", share=0.05).score(images, prompts))


def test_change_is_in_deviations_within_a_prompt(tmp_path: Path) -> None:
    """Prompts that differ in level do not widen the deviation; other splits and iterations between do not count."""
    rows = [
        (iteration, split, prompt, level + offset + rise)
        for iteration, rise in ((0, 0.0), (4, 7.0), (8, 1.0))
        for split in ("train", "held_out", "training")
        for prompt, level in ((0, 0.0), (1, 100.0 if split == "train" else 5.0))
        for offset in (-1.0, 1.0)
    ]
    names = ("iteration", "split", "prompt_index", "mine")
    pq.write_table(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), tmp_path / "samples.parquet")
    before, after, within = own_model.change(tmp_path / "samples.parquet", "mine")
    assert (before, after) == (50.0, 51.0)
    assert within == pytest.approx(np.sqrt(2))


def test_a_run_that_fails_ends_the_command_with_its_status(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        own_model.run(tmp_path, "-c", "import sys; sys.exit(3)")
    assert ended.value.code == 3
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_the_pages_run_and_its_report(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The whole command with an untrained model, smaller."""
    small = ["iterations=1", "prompts.per_iteration=2", "prompts.samples=4", "samplers.request_size=4"]
    own_model.main([str(folder), *small, "policy.device=cpu", "policy.steps=3", "evaluation.samples=2"])
    assert "named_colours: " in capfd.readouterr().out
    (run,) = (folder / "runs").iterdir()
    assert "eval/train/named_colours" in Records(run).metrics()
    page = (run / "report.html").read_text()
    assert "named_colours" in page
