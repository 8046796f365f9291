"""Pictures on disk: those of the run's rollouts, made again from themselves, never lost and never overwritten."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cluster.generate
from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import EVALUATION
from cluster.config import Config
from cluster.generate import main
from cluster.prompts import make_requests
from cluster.records.png import read_facts, read_pixels, write_png
from cluster.trained import find
from tests.support.run_folder import make_run

Make = Callable[..., Config]
PROMPTS = ("a red circle", "a blue square", "a green cross")  # of the run


@pytest.fixture
def run(make_config: Make) -> Path:
    """A run of seed 5 that asks for requests of four."""
    return make_run(make_config("policy.lora_alpha=6", "policy.steps=4", "seed=5"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where pictures go."""
    return tmp_path / "out"


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(read_pixels(path)) for path in folder.glob("0*.png")}


def test_with_the_runs_prompts_and_seed_they_are_the_pictures_of_its_evaluations(run: Path, out: Path) -> None:
    assert main([str(run), "--prompts", str(run / "prompts/train/train.txt"), "--samples", "2", "--out", str(out)]) == 0
    policy = Policy.load(find(str(run)).policy)
    expected = {}
    for request in make_requests(PROMPTS, 2, 4, seed=5, iteration=EVALUATION):
        images, _ = rollout(policy, request)
        for index, sample, image in zip(request.prompt_index, request.sample_index, images, strict=True):
            expected[f"{index:04d}-5-{sample:02d}.png"] = image
    found = pixels(out)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    assert Image.open(out / "grid.png").width > 2 * 96


def test_the_file_says_how_it_was_made(run: Path, out: Path) -> None:
    assert main([str(run), PROMPTS[0], "--seeds", "7", "guidance=1.5", "--out", str(out)]) == 0
    facts = read_facts(out / "0000-7-00.png")
    assert (facts["prompt"], facts["seed"], facts["base"]) == (PROMPTS[0], 7, False)
    assert facts["checkpoint"] == str(run / "checkpoints" / "iteration-000004")
    assert facts["policy"]["guidance"] == 1.5
    assert facts["policy"]["steps"] == 4


def test_every_picture_can_be_made_again_from_itself(run: Path, out: Path, tmp_path: Path) -> None:
    """Of the trained and of the base model, whatever its place in its batch was, however many were in it."""
    words = [*PROMPTS, "--samples", "2", "--seeds", "0,3", "--base", "--out", str(out)]
    assert main([str(run), *words]) == 0
    first = pixels(out)
    assert len(first) == 24
    assert not np.array_equal(first["0001-3-01.png"], first["0001-3-01-base.png"])
    for name in ("0001-3-01.png", "0001-3-01-base.png", "0002-0-00.png"):
        assert main([str(out / name), "--out", str(tmp_path / "again")]) == 0
        assert np.array_equal(pixels(tmp_path / "again")[name], first[name])
        assert read_facts(tmp_path / "again" / name) | {"batch": 0} == read_facts(out / name) | {"batch": 0}
    assert main([str(out / "0002-0-00.png"), "guidance=0", "--out", str(tmp_path / "other")]) == 0
    assert not np.array_equal(pixels(tmp_path / "other")["0002-0-00.png"], first["0002-0-00.png"])


def test_pictures_that_begin_from_pictures(run: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """In one list with others, made again from themselves, unless the picture has become another."""
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    rows = [{"prompt": "a"}, {"prompt": "a", "image": "red.png", "strength": 0.5}, {"prompt": "b"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main([str(run), "--prompts", str(tmp_path / "p.jsonl"), "--out", str(out)]) == 0
    first = pixels(out)
    assert first.keys() == {f"000{number}-5-00.png" for number in range(3)}
    for name in first:
        assert main([str(out / name), "--out", str(tmp_path / "again")]) == 0
    again = pixels(tmp_path / "again")
    assert all(np.array_equal(first[name], again[name]) for name in first)
    Image.new("RGB", (30, 20), "blue").save(tmp_path / "red.png")
    assert main([str(out / "0001-5-00.png"), "--out", str(tmp_path / "third")]) == 1
    assert "is another picture now" in capsys.readouterr().err
    assert main([str(out / "0001-5-00.png"), "steps=1", "--out", str(tmp_path / "third")]) == 1
    assert "leaves none of policy.steps=1" in capsys.readouterr().err
    (tmp_path / "red.png").unlink()
    assert main([str(out / "0001-5-00.png"), "--out", str(tmp_path / "third")]) == 1
    assert "red.png cannot be read" in capsys.readouterr().err


def test_the_base_is_the_pretrained_model(run: Path, out: Path, tiny_pipeline: Path) -> None:
    assert main([str(run), PROMPTS[0], "--base", "--out", str(out / "both")]) == 0
    words = ["steps=4", "--seeds", "5", "--batch", "1", "--out", str(out / "bare")]
    assert main([str(tiny_pipeline), PROMPTS[0], *words]) == 0
    both, bare = pixels(out / "both"), pixels(out / "bare")
    assert np.array_equal(both["0000-5-00-base.png"], bare["0000-5-00.png"])
    assert not np.array_equal(both["0000-5-00.png"], bare["0000-5-00.png"])


def test_what_is_there_is_kept_and_what_is_missing_is_made(run: Path, out: Path, monkeypatch: Any) -> None:
    words = [str(run), *PROMPTS, "--out", str(out), "--batch", "2"]
    assert main(words) == 0
    whole, times = pixels(out), {path: path.stat().st_mtime_ns for path in out.glob("0*.png")}
    (out / "0001-5-00.png").unlink()
    assert main(words) == 0
    again = pixels(out)
    assert all(np.array_equal(again[name], whole[name]) for name in whole)
    assert {path.name for path, time in times.items() if path.stat().st_mtime_ns != time} == {"0001-5-00.png"}
    monkeypatch.setattr(Policy, "load", None)  # nothing is left to do
    assert main(words) == 0


def test_nothing_else_is_overwritten(run: Path, out: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(run), PROMPTS[0], "--out", str(out)]) == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert main([str(run), PROMPTS[0], "guidance=3", "--out", str(out)]) == 1
    assert "made otherwise (of another policy)" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    Image.new("RGB", (8, 8)).save(out / "0000-9-00.png")
    assert main([str(run), PROMPTS[0], "--seeds", "9", "--out", str(out)]) == 1
    assert "does not say how it was made" in capsys.readouterr().err
    Image.new("RGB", (8, 8)).save(out / "grid.png")
    assert main([str(run), PROMPTS[0], "--out", str(out)]) == 1
    assert "is no grid of this command" in capsys.readouterr().err
    assert Image.open(out / "grid.png").size == (8, 8)


def test_a_folder_that_cannot_be_written_to_is_known_before_the_model_is_loaded(
    run: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out.write_text("a file")
    monkeypatch.setattr(Policy, "load", None)
    assert main([str(run), PROMPTS[0], "--out", str(out)]) == 1
    assert f"{out} cannot be written to" in capsys.readouterr().err


def test_a_request_to_stop_keeps_what_was_made(
    run: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = [str(run), *PROMPTS, "--batch", "1", "--out", str(out)]
    real, calls = cluster.generate.rollout, []

    def interrupted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(5)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(cluster.generate, "rollout", interrupted)
        assert main(words) == 130
    assert "stopped by SIGINT after 1 picture; the same command goes on" in capsys.readouterr().err
    assert pixels(out).keys() == {"0000-5-00.png"}
    assert main(words) == 0
    assert len(pixels(out)) == 3


def test_pictures_that_are_not_finite_are_not_written(
    run: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    decode = Policy.decode

    def broken(self: Policy, latents: Any) -> Any:
        images = decode(self, latents)
        images[1] = float("nan")
        return images

    monkeypatch.setattr(Policy, "decode", broken)
    assert main([str(run), *PROMPTS, "--out", str(out)]) == 1
    assert "1 of 3 pictures are not finite" in capsys.readouterr().err
    assert pixels(out).keys() == {"0000-5-00.png", "0002-5-00.png"}
    assert (out / "grid.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Give what is to be drawn"),
        (["a", "--prompts", "x"], "one of both"),
        (["--prompts", "nowhere.txt"], "The prompt file nowhere.txt cannot be read"),
        (["a\x07b"], "holds the character"),
        (["a", "--seeds", "x"], "are no seeds"),
        (["a", "--samples", "0"], "not a whole number"),
        (["a", "stepps=3"], "did you mean 'policy.steps'"),
        (["a", "eta=2"], "at most 1"),
        (["a", "--ema"], "no average"),
        (["red " * 99], "set policy.prompt_windows="),
        (["a", "height=17"], "error: policy.height is 17"),
    ],
)
def test_bad_words_are_refused_in_one_line(
    run: Path, out: Path, capsys: pytest.CaptureFixture, words: list[str], said: str
) -> None:
    try:
        status = main([str(run), *words, "--out", str(out)])
    except SystemExit as end:
        status = int(str(end.code))
    error = capsys.readouterr().err
    assert status == 1
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_prompt_where_the_model_was_forgotten_is_refused(capsys: pytest.CaptureFixture) -> None:
    assert main(["a very long prompt of many words " * 9]) == 1
    assert capsys.readouterr().err == (
        f"error: {('a very long prompt of many words ' * 9)[:60]!r}... is no run, no checkpoint and no model, which "
        "comes first.\n"
    )


def test_a_picture_is_made_again_only_by_what_made_it(
    run: Path, out: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main([str(run), PROMPTS[0], "--out", str(out)]) == 0
    picture = str(out / "0000-5-00.png")
    assert main([picture, "another prompt"]) == 1
    assert "made again as it was" in capsys.readouterr().err
    adapter = run / "checkpoints" / "iteration-000004" / "pytorch_lora_weights.safetensors"
    shutil.copy(adapter, out / "kept")
    with adapter.open("ab") as file:
        file.write(b" ")
    assert main([picture, "--out", str(out / "again")]) == 1
    assert "another adapter now" in capsys.readouterr().err
    adapter.unlink()
    assert main([picture, "--out", str(out / "again")]) == 1
    assert "cannot be made again: policy.init_lora=" in capsys.readouterr().err
    assert main([str(tiny_pipeline), "a", "--base"]) == 1
    assert "no adapter" in capsys.readouterr().err
    shutil.copytree(tiny_pipeline, out / "half")
    shutil.rmtree(out / "half" / "tokenizer")
    assert main([str(out / "half"), "a", "--out", str(out / "again")]) == 1
    assert f"The model's {out / 'half' / 'tokenizer'}" in capsys.readouterr().err


def test_an_adapter_that_is_named_is_held_to_as_a_checkpoint_s_is(
    run: Path, out: Path, tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    adapter = tmp_path / "mine.safetensors"
    shutil.copy(run / "checkpoints" / "iteration-000004" / "pytorch_lora_weights.safetensors", adapter)
    assert main([str(tiny_pipeline), "a", f"init_lora={adapter}", "steps=2", "--out", str(out)]) == 0
    facts = read_facts(out / "0000-0-00.png")
    assert facts["sha256"] == hashlib.sha256(adapter.read_bytes()).hexdigest()
    assert facts["checkpoint"] is None
    picture = str(out / "0000-0-00.png")
    assert main([picture, "--out", str(tmp_path / "again")]) == 0
    assert np.array_equal(pixels(tmp_path / "again")["0000-0-00.png"], pixels(out)["0000-0-00.png"])
    with adapter.open("ab") as file:
        file.write(b" ")
    assert main([picture, "--out", str(tmp_path / "third")]) == 1
    assert "another adapter now" in capsys.readouterr().err
    assert main([picture, "init_lora=null", "--out", str(tmp_path / "third")]) == 0
    assert not np.array_equal(pixels(tmp_path / "third")["0000-0-00.png"], pixels(out)["0000-0-00.png"])


def test_what_it_needs_of_memory_is_said_and_compared(
    run: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = [str(run), *PROMPTS, "--samples", "2", "--batch", "3", "--out", str(out)]
    monkeypatch.setattr(cluster.generate, "memory_here", lambda: (1e6, []))
    with monkeypatch.context() as patch:
        patch.setattr(Policy, "load", None)
        assert main(words) == 1
    said = capsys.readouterr()
    assert re.search(r"memory: this process needs about \S+ GB \(process", said.out)
    assert said.err.startswith("error: This machine has 0.001 GB of memory, but what is loaded for this process takes")
    assert "a smaller --batch" in said.err
    monkeypatch.setattr(cluster.generate, "memory_here", lambda: (1e12, []))
    assert main(words) == 0


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_memory_that_runs_out_is_a_sentence(
    run: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, error: Exception
) -> None:
    def full(*_: Any) -> None:
        raise error

    monkeypatch.setattr(cluster.generate, "rollout", full)
    assert main([str(run), *PROMPTS, "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: \w+ \w+ has no memory left for so many pictures at a time; set .*--batch.*\.\n", said)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "x"),
        ("seed", -1),
        ("seed", 1.5),
        ("prompt_index", -1),
        ("sample", [1]),
        ("batch", [1, 1]),
        ("batch", [1, -1]),
        ("batch", [1]),
        ("checkpoint", 5),
        ("base", "no"),
        ("prompt", 5),
        ("start", {}),
        ("start", "red.png"),
        ("policy", 5),
    ],
)
def test_what_others_wrote_into_a_picture_is_not_believed(
    tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture, key: str, value: Any
) -> None:
    facts = {
        "prompt": "a", "start": None, "seed": 0, "prompt_index": 0, "sample": 0, "batch": [1, 0], "checkpoint": None,
        "sha256": None, "base": False, "policy": {"model": str(tiny_pipeline), "device": "cpu"},
    }  # fmt: skip
    write_png(tmp_path / "a.png", Image.new("RGB", (16, 16)), facts | {key: value})
    assert main([str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: The picture {tmp_path / 'a.png'} ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
