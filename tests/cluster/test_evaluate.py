"""The command: the models' own pictures, each drawn and judged once, whoever broke off; figures, sentences, files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet

import cluster.matrix.working
from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import EVALUATION
from cluster.config import Config
from cluster.evaluate import main
from cluster.prompts import make_requests, read_prompts
from cluster.trained import find
from learner import checkpoint
from rewards import make_reward
from rewards.reward import Reward, to_images
from tests.support.inline import work_inline
from tests.support.run_folder import make_run
from tests.support.tiny_dino import make_dino

Make = Callable[..., Config]
HELD_OUT = ("a red cross", "a blue circle")  # of the run


@pytest.fixture
def run(make_config: Make) -> Path:
    """A run of seed 5 that asks for requests of four."""
    return make_run(make_config("policy.steps=4", "seed=5", "name=mine"))


class Broken(Exception):
    """What breaks an evaluation off."""


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, but for pictures of it for people."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if path.suffix != ".png"}


def evaluate(monkeypatch: pytest.MonkeyPatch, out: Path, *words: str) -> tuple[int, list[Any]]:
    """The exit status of the command, and the jobs that its actors were given."""
    jobs: list[Any] = []
    work_inline(monkeypatch, jobs.append)
    return main([*words, "--out", str(out)]), jobs


def test_scores_are_those_of_the_models_own_pictures(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [str(run), "--samples", "4", "--rewards", "jpeg_compressibility", "--features", "shapes_gold"]
    assert evaluate(monkeypatch, out, *words)[0] == 0
    told = capsys.readouterr().out
    assert "shapes_agreement (trained on)" in told
    assert "jpeg_compressibility (not trained on)" in told
    rows = parquet.read_table(out / "evaluation.parquet").to_pylist()
    assert [row["model"] for row in rows] == ["base"] * 8 + ["mine-000004"] * 8
    policy, judge = Policy.load(find(str(run)).policy), make_reward("jpeg_compressibility")
    expected = []
    for adapter in (None, "policy"):
        with policy.using(adapter):
            for request in make_requests(HELD_OUT, 4, 4, seed=5, iteration=EVALUATION):
                pixels, _ = rollout(policy, request)
                expected += judge.score(to_images(pixels), request.prompts).tolist()
    assert [row["jpeg_compressibility"] for row in rows] == pytest.approx(expected, abs=0)
    assert expected[:8] != expected[8:]
    result = json.loads((out / "evaluation.json").read_text())
    base, mine = result["models"]
    wins = [(a > b) + (a == b) / 2 for a, b in zip(expected[8:], expected[:8], strict=True)]
    assert mine["rewards"]["jpeg_compressibility"]["win_rate"]["value"] == pytest.approx(np.mean(wins))
    assert mine["rewards"]["jpeg_compressibility"]["mean"]["value"] == pytest.approx(np.mean(expected[8:]))
    assert "win_rate" not in base["rewards"]["jpeg_compressibility"]
    assert result["trained_on"] == ["shapes_agreement"]
    assert set(mine["features"]) == {"shapes_gold"}
    assert all(math.isfinite(estimate["value"]) for estimate in mine["features"]["shapes_gold"].values())
    assert {line["reward"] for line in result["fronts"]} == set(mine["rewards"])
    assert (out / "fronts.png").is_file()
    assert (out / "grid.png").is_file()


def test_an_evaluation_that_broke_off_goes_on_to_the_same_files(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(run), "--samples", "4", "--features", "shapes_gold"]
    status, all_jobs = evaluate(monkeypatch, tmp_path / "whole", *words)
    assert status == 0
    expected = files(tmp_path / "whole")
    for breaks in (1, 3, 6):
        jobs: list[Any] = []

        def seen(job: Any, jobs: list[Any] = jobs, breaks: int = breaks) -> None:
            if len(jobs) == breaks:
                raise Broken
            jobs.append(job)

        work_inline(monkeypatch, seen)
        assert main([*words, "--out", str(tmp_path / "broken")]) == 1
    status, left = evaluate(monkeypatch, tmp_path / "broken", *words)
    assert status == 0
    assert files(tmp_path / "broken") == expected
    assert 0 < len(left) < len(all_jobs)
    assert evaluate(monkeypatch, tmp_path / "broken", *words) == (0, [])  # nothing is left to do


def test_another_reward_or_model_is_added_and_nothing_done_twice(
    run: Path, make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert evaluate(monkeypatch, out, str(run), "--samples", "4")[0] == 0
    status, jobs = evaluate(monkeypatch, out, str(run), "--samples", "4", "--rewards", "brightness")
    assert status == 0
    assert {job.column.name for job in jobs} == {"brightness"}
    other = make_run(make_config("policy.steps=4", "seed=6", "name=other"), iteration=8)
    adapter = other / "checkpoints/iteration-000008"
    status, jobs = evaluate(monkeypatch, out, str(run), str(adapter), "--samples", "4", "--rewards", "brightness")
    assert status == 0
    assert {job.draw.model.name for job in jobs} == set()  # its adapter is the same: of one seed
    status, jobs = evaluate(monkeypatch, out, str(run), "--samples", "4", "guidance=1.5")
    assert {job.draw.model.name for job in jobs} == {"base", "mine-000004"}  # draws otherwise, and so does its base


def test_checkpoints_of_one_run_share_samplers_and_the_base(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nudged: Path
) -> None:
    started: list[Any] = []
    work_inline(monkeypatch)
    start = cluster.matrix.working.start_samplers
    monkeypatch.setattr("cluster.matrix.working.start_samplers", lambda *args: started.append(args) or start(*args))
    assert main([str(run), "--all", "--samples", "4", "--out", str(tmp_path / "out")]) == 0
    assert len(started) == 1
    rows = parquet.read_table(tmp_path / "out/evaluation.parquet").to_pylist()
    scores = {name: [r["shapes_agreement"] for r in rows if r["model"] == name] for name in {r["model"] for r in rows}}
    assert set(scores) == {"base", "mine-000004", "mine-000008"}
    policy, judge = Policy.load(find(str(nudged)).policy), make_reward("shapes_agreement")
    expected = []
    for request in make_requests(HELD_OUT, 4, 4, seed=5, iteration=EVALUATION):
        expected += judge.score(to_images(rollout(policy, request)[0]), request.prompts).tolist()
    assert scores["mine-000008"] == pytest.approx(expected, abs=0)
    assert len({tuple(of) for of in scores.values()}) == 3


@pytest.fixture
def nudged(run: Path) -> Path:
    """A second checkpoint of the run, of another adapter."""
    policy = Policy.load(find(str(run)).policy)
    with checkpoint.writing(run / "checkpoints", 8) as folder:
        for parameter in policy.parameters:
            parameter.data.mul_(1.5)
        policy.save_lora(folder)
    return run / "checkpoints/iteration-000008"


def test_the_variance_is_split_and_a_chain_without_noise_has_no_part(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert evaluate(monkeypatch, out, str(run), "--samples", "4", "--variance", "3", "2", "eta=0")[0] == 0
    for record in json.loads((out / "evaluation.json").read_text())["models"]:
        parts = record["variance"]["shapes_agreement"]
        assert parts["chain"] == 0  # of a chain without noise
        assert parts["total"] == pytest.approx(parts["prompt"] + parts["noise"] + parts["both"] + parts["chain"])


def test_json_is_all_that_is_printed(
    tiny_pipeline: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "p.csv"
    prompts.write_text("Prompts,Category\na red circle,Colors\na blue cross,Colors\n")
    words = [str(tiny_pipeline), "--prompts", str(prompts), "--rewards", "brightness", "--samples", "2", "--json"]
    assert evaluate(monkeypatch, tmp_path / "out", *words, "steps=2")[0] == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "out/evaluation.json").read_text())
    (record,) = result["models"]
    assert record["base"]
    assert result["prompts"] == 2


REFUSED = {
    "has no image features": "{run} --features jpeg_compressibility",
    "'dino' has image features and no score; name it with --features": "{run} --rewards dino",
    "did you mean 'jpeg_compressibility'": "{run} --rewards jpg_compressibility",
    "nowhere.txt cannot be read": "{run} --prompts nowhere.txt",
    "is named twice": "{run} {run}",
    "two initial noises and two chains at least": "{run} --variance 1 2",
    "weight": "{run} rewards.clip.wight=1",
    "brings its adapter with it": "{run} lora_rank=3",
    "Say what is to be drawn": "{model}",
    "name some with --rewards": "{model} --prompts {prompts}",
    "features are measured beside scores": "{model} --prompts {prompts} --features shapes_gold",
    "Name what is to be judged": "guidance=3",
    "There is no dataset nowhere": "{run} --pairs nowhere",
    "--split is of a dataset": "{run} --split test",
    "learner.lr=3 is none of the settings": "{run} learner.lr=3",
    "the start image": "{run} --prompts {pictures}",
}


def test_what_cannot_be_is_refused_before_any_actor(
    run: Path,
    tiny_pipeline: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"run": run, "model": tiny_pipeline, "prompts": run / "prompts/train/train.txt"}
    places["pictures"] = tmp_path / "pictures.jsonl"
    places["pictures"].write_text('{"prompt": "a cat", "image": "none.png", "strength": 0.5}')
    for said, words in REFUSED.items():
        status, jobs = evaluate(monkeypatch, tmp_path / "out", *words.format(**places).split())
        assert (status, jobs) == (1, []), words
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert said.lower() in " ".join(error.split()).lower()
        assert "traceback" not in error
    assert not (tmp_path / "out").exists()
    for out, said in ((run, "is a run; name another folder"), (places["prompts"], "is a file; name a folder")):
        assert evaluate(monkeypatch, out, str(run)) == (1, [])
        assert said in " ".join(capsys.readouterr().err.split())


def test_features_can_be_those_of_a_network_without_a_score(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dino = make_dino(tmp_path / "dino")
    words = ["--samples", "4", "--features", "dino", f"rewards.dino.options.model={dino}"]
    assert evaluate(monkeypatch, tmp_path / "out", str(run), *words)[0] == 0
    policy, network = Policy.load(find(str(run)).policy), make_reward("dino", model=str(dino))
    result = json.loads((tmp_path / "out/evaluation.json").read_text())
    for record, adapter in zip(result["models"], (None, "policy"), strict=True):
        assert set(record["rewards"]) == {"shapes_agreement", "shapes_gold"}
        with policy.using(adapter):
            drawn = [
                rollout(policy, request) for request in make_requests(HELD_OUT, 4, 4, seed=5, iteration=EVALUATION)
            ]
        features = torch.cat([network.embed(to_images(pixels)) for pixels, _ in drawn])
        expected = np.mean([torch.pdist(prompt).mean().item() for prompt in features.split(4)])
        assert expected > 1e-3
        assert record["features"]["dino"]["diversity"]["value"] == pytest.approx(expected, rel=1e-4)


def test_a_damaged_picture_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert evaluate(monkeypatch, out, str(run), "--samples", "4")[0] == 0
    expected = files(out)
    path = sorted(out.glob("parts/*/000000.pictures.npz"))[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:100])  # torn: drawn anew
    assert evaluate(monkeypatch, out, str(run), "--samples", "4")[0] == 0
    assert files(out) == expected
    path.write_bytes(whole[:60] + bytes(40) + whole[100:])
    capsys.readouterr()
    assert evaluate(monkeypatch, out, str(run), "--samples", "4", "--rewards", "brightness")[0] == 1
    assert "is damaged" in capsys.readouterr().err


class Picky(Reward):
    """Raises at a request of crosses, and has no features of any picture."""

    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        if "a red cross" in prompts:
            raise ValueError("no crosses")
        return images.mean((1, 2, 3))

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        raise ValueError("no features")


def test_pictures_that_a_reward_raises_at_are_missing_and_the_others_judged(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    words = [str(run), "--samples", "4", "--features", "picky", f"rewards.picky={{kind: {__name__}:Picky, weight: 0}}"]
    assert evaluate(monkeypatch, out, *words)[0] == 0
    rows = parquet.read_table(out / "evaluation.parquet").to_pylist()
    assert {row["prompt"] for row in rows} == set(HELD_OUT)
    assert all(math.isnan(row["picky"]) == (row["prompt"] == "a red cross") for row in rows)
    for record in json.loads((out / "evaluation.json").read_text())["models"]:
        scores = [row["picky"] for row in rows if row["model"] == record["model"] and row["prompt"] == HELD_OUT[1]]
        assert record["rewards"]["picky"]["missing"] == 4
        assert record["rewards"]["picky"]["mean"]["value"] == pytest.approx(np.mean(scores))
        assert record["features"]["picky"]["diversity"]["value"] is None
    assert [r.getMessage().count("no crosses") for r in caplog.records if "'picky'" in r.getMessage()] == [1]
    assert evaluate(monkeypatch, out, *words) == (0, [])


def test_a_list_of_pictures_and_texts_begins_from_its_pictures(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As TEdBench is published."""
    (tmp_path / "originals").mkdir()
    for name in ("red", "blue"):
        Image.new("RGB", (32, 32), name).save(tmp_path / f"originals/{name}.png")
    listed = [{"img_name": f"{name}.png", "target_text": "a green cross"} for name in ("red", "blue")]
    (tmp_path / "input_list.json").write_text(json.dumps(listed))
    prompts = str(tmp_path / "input_list.json")
    words = [str(run), "--prompts", prompts, "--samples", "2", "--rewards", "brightness"]
    assert evaluate(monkeypatch, tmp_path / "out", *words)[0] == 0
    rows = parquet.read_table(tmp_path / "out/evaluation.parquet").to_pylist()
    policy, expected = Policy.load(find(str(run)).policy), []
    for adapter in (None, "policy"):
        with policy.using(adapter):
            for request in make_requests(read_prompts(prompts), 2, 4, seed=5, iteration=EVALUATION, steps=4):
                assert request.first_step == 1  # int(4 x .8) steps are left
                expected += rollout(policy, request)[0].mean(axis=(1, 2, 3)).tolist()
    assert [255 * row["brightness"] for row in rows] == pytest.approx(expected, rel=1e-4)
    assert len(set(expected)) == 8
