"""Prompts that begin from a picture: where it is, how far back the chain goes, and what cannot work."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import StableDiffusionImg2ImgPipeline
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import EVALUATION
from cluster.config import Config, load_config
from cluster.crew.crew import dismiss, make_crew
from cluster.errors import ConfigError
from cluster.prompts import make_request, make_requests, read_prompts
from cluster.records import given as kept
from cluster.records.rundir import RunDirectory
from cluster.sources.source import RequestMaker
from cluster.start_images import check_starts, first_step, image_of, load_start
from cluster.trained import find
from learner.objectives.objective import Plan
from rewards.prompt import Prompt
from tests.cluster.test_end_to_end import PLACEMENT, carry_out
from tests.support.tiny import write_config

Make = Callable[..., Config]


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (16, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def write(folder: Path, *rows: Any, name: str = "p.jsonl") -> Path:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


class Scheduler:
    """What diffusers' pipeline asks of one where it chooses the timesteps."""

    order = 1

    def __init__(self, steps: int) -> None:
        self.timesteps = list(range(steps))


@given(st.integers(1, 60), st.floats(0.001, 1))
def test_the_first_step_is_that_of_diffusers(steps: int, strength: float) -> None:
    class Pipeline:
        scheduler = Scheduler(steps)

    left, _ = StableDiffusionImg2ImgPipeline.get_timesteps(Pipeline(), steps, strength, "cpu")
    prompt = Prompt("a", {"image": "/a.png", "strength": strength})
    assert list(range(first_step(prompt, steps), steps)) == left


def test_a_path_is_meant_from_the_prompt_files_folder(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    path = write(tmp_path, {"prompt": "a", "image": "in/a.png", "strength": 0.5, "n": 3}, "b", {"prompt": "c", "n": 1})
    first, *others = read_prompts(str(path))
    assert image_of(first) == tmp_path / "in" / "a.png"
    assert (first_step(first, 10), first.metadata["n"]) == (5, 3)
    assert [image_of(prompt) for prompt in others] == [None, None]
    (tmp_path / "p.csv").write_text("prompt,image,strength,n\na,in/a.png,1,2\nb,,,3\n")
    first, second = read_prompts(str(tmp_path / "p.csv"))
    assert (image_of(first), first_step(first, 10), image_of(second)) == (tmp_path / "in" / "a.png", 0, None)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"image": "a.png"}, "no 'strength'"),
        ({"image": "a.png", "strength": 0}, "but 0"),
        ({"image": "a.png", "strength": 1.1}, "but 1.1"),
        ({"image": "a.png", "strength": True}, "but True"),
        ({"image": "a.png", "strength": "0.5"}, "but '0.5'"),
        ({"strength": 0.5}, "the image None is no text"),
        ({"image": 3, "strength": 0.5}, "the image 3 is no text"),
        ({"image": {"bytes": "x"}}, "is no text, the path"),
        ({"image": "../a.png", "strength": 0.5}, "outside of the prompt file's folder"),
        ({"image": "/tmp/a.png", "strength": 0.5}, "outside of the prompt file's folder"),
    ],
)
def test_what_is_no_start_is_refused_with_its_line(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    path = write(tmp_path, "fine", {"prompt": "a", **values})
    with pytest.raises(ValueError, match=r"line 2 has") as caught:
        read_prompts(str(path))
    assert said in str(caught.value)


def test_pictures_are_loaded_upright_and_in_colour(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", size=(8, 4))
    assert load_start(path).shape == (4, 8, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("L", (8, 4), 200).save(tmp_path / "b.jpg", exif=exif)
    assert load_start(tmp_path / "b.jpg").shape == (8, 4, 3)


def test_a_run_refuses_pictures_that_it_cannot_have(make_config: Make, tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "a", "image": "a.png", "strength": 0.5})
    with pytest.raises(ConfigError, match=r"start image .*a\.png cannot be read"):
        make_config(f"prompts.train={path}")
    (tmp_path / "a.png").write_bytes(picture(tmp_path / "b.png").read_bytes()[:50])
    with pytest.raises(ConfigError, match=r"start image .*a\.png cannot be read"):
        make_config("prompts.per_iteration=1", f"prompts.held_out={path}")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a", 0.5), ("b", 0.9)], "begin at different steps"),
        ([("a", 0.5), "b"], "begin at different steps"),
        ([("a", 1.0), "b"], "begin at different steps"),  # both begin with step 0, one from a picture
        ([("a", 0.15), ("b", 0.15)], "leaves none of policy.steps=5; give at least 0.2"),
        ([("a", 0.2), ("b", 0.2)], "of which none adds noise"),
    ],
)
def test_a_run_refuses_starts_that_cannot_be_trained_together(
    make_config: Make, tmp_path: Path, rows: list[Any], said: str
) -> None:
    picture(tmp_path / "a.png")
    records = [r if isinstance(r, str) else {"prompt": r[0], "image": "a.png", "strength": r[1]} for r in rows]
    with pytest.raises(ConfigError, match=said):
        make_config("policy.steps=5", "policy.noisy_steps=[0,4]", f"prompts.train={write(tmp_path, *records)}")


def test_each_prompt_of_a_picture_is_looked_at(tmp_path: Path) -> None:
    path = str(picture(tmp_path / "a.png"))
    weak, strong = (Prompt("a", {"image": path, "strength": strength}) for strength in (0.1, 0.9))
    for prompts in ((weak, strong), (strong, weak)):
        with pytest.raises(ValueError, match="leaves none"):
            check_starts(prompts, steps=5)


def test_a_picture_is_read_to_its_end_and_none_is_washed_out(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for name in ("a.jpg", "a.png"):
        Image.fromarray(noise).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)).save(tmp_path / "deep.png")
    for name, said in {"a.jpg": "truncated", "a.png": "cannot be read", "deep.png": "more than 8 bits"}.items():
        with pytest.raises(ValueError, match=said):
            check_starts([Prompt("a", {"image": str(tmp_path / name), "strength": 0.5})], steps=5)


def test_a_run_that_begins_from_pictures_says_where(make_config: Make, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    records = [{"prompt": text, "image": "a.png", "strength": 0.61} for text in ("a", "b")]
    assert make_config("policy.steps=10", f"prompts.train={write(tmp_path, *records)}").first_step == 4
    assert make_config().first_step == 0


def test_requests_hold_samples_that_begin_alike(tmp_path: Path) -> None:
    """Each with its own picture, named as it would be in any order."""
    for colour in ("red", "blue"):
        picture(tmp_path / f"{colour}.png", colour)
    rows = ["a", ("b", "red", 0.5), "c", ("d", "blue", 0.5), ("e", "red", 1.0)]
    path = write(tmp_path, *(r if isinstance(r, str) else
                             {"prompt": r[0], "image": f"{r[1]}.png", "strength": r[2]} for r in rows))  # fmt: skip
    requests = make_requests(read_prompts(str(path)), 2, 3, seed=1, steps=4)
    named = [(p, i, s) for r in requests for p, i, s in zip(r.prompts, r.prompt_index, r.sample_index, strict=True)]
    assert sorted(named) == [(p, i, s) for i, p in enumerate("abcde") for s in (0, 1)]
    assert [(r.prompts, r.first_step, r.start is None) for r in requests] == [
        (("a", "a", "c"), 0, True), (("c",), 0, True),
        (("b", "b", "d"), 2, False), (("d",), 2, False), (("e", "e"), 0, False),
    ]  # fmt: skip
    starts = requests[2].start
    assert starts is not None
    assert [tuple(start[0, 0]) for start in starts] == [(255, 0, 0), (255, 0, 0), (0, 0, 255)]


def test_a_run_keeps_the_pictures_that_it_began_with(make_config: Make, tmp_path: Path) -> None:
    """Beside its prompts, under the seal, whatever becomes of the originals and wherever its folder goes."""
    given = tmp_path / "given"
    picture(given / "a.png")
    picture(given / "in" / "z.png", "blue")
    path = write(given, *({"prompt": p, "image": i, "strength": 0.9} for p, i in (("a", "a.png"), ("b", "in/z.png"))))
    config = kept.keep_prompts(make_config(f"prompts.train={path}"), tmp_path / "run")
    kept.save(config, tmp_path / "run")
    path.rename(tmp_path / "gone")
    (tmp_path / "run").rename(tmp_path / "moved")
    picture(given / "a.png", "green")
    prompts = read_prompts(kept.load(tmp_path / "moved").prompts.train)
    assert prompts == ("a", "b")
    images = [image_of(prompt) for prompt in prompts]
    assert images == [tmp_path / "moved" / "prompts" / "train" / name for name in ("a.png", "in/z.png")]
    request = make_request(prompts.__getitem__, [0, 1], 1, 0, EVALUATION, steps=10)
    assert request.start is not None
    assert [tuple(np.asarray(start)[0, 0]) for start in request.start] == [(255, 0, 0), (0, 0, 255)]
    picture(tmp_path / "moved" / "prompts" / "train" / "in" / "z.png", "green")
    with pytest.raises(ConfigError, match="not what the run began with"):
        kept.load(tmp_path / "moved")


def test_without_start_images_nothing_is_asked_of_them() -> None:
    check_starts(("a", Prompt("b", {"n": 3})), steps=4)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_ppod_trains_on_pictures_to_begin_from(tmp_path: Path) -> None:
    """The whole run, held-out prompts from noise included; no step before the first one is stored."""
    picture(tmp_path / "a.png", size=(30, 20))
    rows = [{"prompt": text, "image": "a.png", "strength": 0.7} for text in ("a red circle", "a star", "a cross")]
    words = [f"prompts.train={write(tmp_path, *rows)}", "iterations=2", "policy.steps=6", "name=run"]
    config = load_config(write_config(tmp_path), words)
    run = RunDirectory.create(config)
    crew = make_crew(config, PLACEMENT)
    try:
        carry_out(config, run, crew)
    finally:
        dismiss(crew)
    found = run.metrics()
    assert [iteration for iteration, _ in found["loss"]] == [1, 2]
    assert found["ratio/first"][0][1] <= 1e-5
    policy = Policy.load(find(str(run.path)).policy)
    requests = RequestMaker(find(str(run.path)).run, [Plan((2, 3, 4))])  # type: ignore[arg-type]
    pictures, _ = rollout(policy, requests[0])
    assert requests[0].first_step == 2
    fresh, _ = rollout(policy, replace(requests[0], first_step=0, start=None))
    assert not np.array_equal(pictures, fresh)
