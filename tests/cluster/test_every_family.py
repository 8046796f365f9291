"""Hand-over of every family: pictures are made and made again, and every export is read by what it is for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from peft import PeftModel
from safetensors.torch import load_file

from actors.policy import Policy
from actors.rollout import noise, rollout
from cluster import export, generate
from cluster.records.png import read_pixels
from tests.actors.families.test_every_family import FAMILIES, Family, config_of, request_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def folder(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family.write(tmp_path_factory.mktemp("family") / "pipeline")


@pytest.fixture
def trained(family: Family, folder: Path, nudge: Callable[..., None], tmp_path: Path) -> Policy:
    """A policy without noise whose adapter, of another alpha than rank, is in `tmp_path / "own"`."""
    policy = Policy.load(config_of(family, folder, eta=0.0, lora_rank=2, lora_alpha=5))
    nudge(policy, 0.1)
    policy.save_lora(tmp_path / "own")
    return policy


def load(kind: str, source: Path, folder: Path, part: str, settings: dict[str, Any]) -> Any:
    """The plain pipeline with what was exported, read as its library reads it."""
    pipeline: Any = DiffusionPipeline.from_pretrained(source if kind == "merged" else folder, **settings)
    pipeline.set_progress_bar_config(disable=True)
    if kind == "diffusers":
        pipeline.load_lora_weights(source)
    elif kind == "kohya":
        pipeline.load_lora_weights(source.parent, weight_name=source.name)
    elif kind == "peft":
        setattr(pipeline, part, PeftModel.from_pretrained(getattr(pipeline, part), source).base_model.model)
    return pipeline


@pytest.mark.parametrize("kind", ["diffusers", "peft", "kohya", "merged"])
def test_an_export_draws_the_policys_pictures_in_the_library_that_it_is_for(
    family: Family, folder: Path, trained: Policy, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / ("out.safetensors" if kind == "kohya" else "out")
    words = [f"{name}={value}" for name, value in {"init_lora": tmp_path / "own", **family.settings}.items()]
    assert export.main([str(folder), *words, "--format", kind, "--out", str(out)]) == 0
    request = request_of()
    start = noise(request.keys, 0, trained.latent_shape)
    height, width = trained.picture_size
    pipeline = load(kind, out, folder, trained._family.part, family.load)
    theirs = pipeline(
        prompt=list(request.prompts), latents=family.pack(start), height=height, width=width, output_type="np",
        guidance_scale=trained.config.guidance, num_inference_steps=trained.config.steps, **family.call,
    ).images  # fmt: skip
    latents = torch.from_numpy(np.asarray(rollout(trained, request)[1].clean))
    with torch.no_grad():
        ours = trained.decode(latents).permute(0, 2, 3, 1)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=1e-5, rtol=0)
    if kind != "merged":
        again = Policy.load(config_of(family, folder, init_lora=str(out), lora_rank=None, lora_alpha=None))
        scale, other = (policy.lora.alpha / policy.lora.rank for policy in (trained, again))
        assert again.lora.rank == 2
        flat, index = again.weights()
        second = np.concatenate([np.full(np.prod(shape), ".lora_B." in name) for name, shape in index])
        np.testing.assert_allclose(np.where(second, flat * other / scale, flat), trained.weights()[0], rtol=1e-5)
    else:
        before = {path.relative_to(folder) for path in folder.rglob("*.safetensors")}
        assert before <= {path.relative_to(out) for path in out.rglob("*.safetensors")}
        part = f"{trained._family.part}/diffusion_pytorch_model.safetensors"
        assert load_file(folder / part).keys() == load_file(out / part).keys()


def test_pictures_are_made_and_made_again(family: Family, folder: Path, trained: Policy, tmp_path: Path) -> None:
    """Beside the pretrained model's, at another size than its own."""
    height, width = family.size
    values = {"steps": 4, **family.settings, "init_lora": tmp_path / "own", "height": height, "width": width}
    words = [f"{name}={value}" for name, value in values.items()]
    assert generate.main([str(folder), "a red circle", "a star", "--base", "--out", str(tmp_path / "a"), *words]) == 0
    pictures = {path.name: np.asarray(read_pixels(path)) for path in (tmp_path / "a").glob("0*.png")}
    assert len(pictures) == 4
    assert {picture.shape for picture in pictures.values()} == {(height, width, 3)}
    assert not np.array_equal(pictures["0001-0-00.png"], pictures["0001-0-00-base.png"])
    for name in ("0001-0-00.png", "0001-0-00-base.png"):
        assert generate.main([str(tmp_path / "a" / name), "--out", str(tmp_path / "b")]) == 0
        assert np.array_equal(np.asarray(read_pixels(tmp_path / "b" / name)), pictures[name])
