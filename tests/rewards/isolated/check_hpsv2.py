"""HPSv2 against its own package, on a small model in the published format; runs in the reward's environment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROMPTS, as_images, excite
from PIL import Image

from rewards import make_reward
from rewards.hpsv2 import HPSv2, import_package

Pictures = Callable[[int, int], list[Image.Image]]
Scores = Callable[[str, list[Image.Image]], list[float]]
SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "head_width": 16, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}


@pytest.fixture
def checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A checkpoint as it is published, but of a small model that goes by the name of the large one."""
    import_package()
    from hpsv2.src.open_clip import create_model, factory

    monkeypatch.setitem(factory._MODEL_CONFIGS, "ViT-H-14", SMALL)
    torch.manual_seed(0)
    model = create_model("ViT-H-14")
    excite(model)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "HPS_v2.1_compressed.pt")
    return str(tmp_path / "HPS_v2.1_compressed.pt")


@pytest.fixture
def theirs(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> Scores:
    """The package's own scores of a prompt and pictures."""
    from hpsv2 import img_score

    create = img_score.create_model_and_transforms
    # Without the download of the weights that the checkpoint replaces at once.
    monkeypatch.setattr(img_score, "create_model_and_transforms", lambda name, _, **kw: create(name, None, **kw))
    monkeypatch.setattr(img_score, "model_dict", {})
    monkeypatch.setattr(img_score, "device", "cpu")
    return lambda prompt, pictures: img_score.score(pictures, prompt, cp=checkpoint)


@pytest.mark.parametrize("size", [(224, 224), (300, 200), (97, 160)])
def test_scores_are_those_of_the_package(
    theirs: Scores, checkpoint: str, pictures: Pictures, size: tuple[int, int]
) -> None:
    drawn = pictures(*size)
    expected = np.array([theirs(prompt, drawn) for prompt in PROMPTS])
    assert expected.std(axis=1).min() > 0.01
    assert expected.std(axis=0).min() > 0.01
    reward = make_reward("hpsv2", checkpoint=checkpoint, batch_size=5, device="cpu")  # batches mix prompts
    images = as_images(drawn).repeat(len(PROMPTS), 1, 1, 1)
    prompts = [prompt for prompt in PROMPTS for _ in drawn]
    found = reward.score(images, prompts).numpy().reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_gradients_are_those_of_finite_differences(checkpoint: str, pictures: Pictures) -> None:
    reward = HPSv2(checkpoint=checkpoint, batch_size=3, device="cpu")
    images, prompts = as_images(pictures(240, 224)).clamp(0.1, 0.9), [PROMPTS[0], *PROMPTS]
    _, gradients = reward.score_and_grad(images, prompts)
    reward._model.double()
    direction = torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ahead, behind = (reward.score_chunk(images.double() + sign * 1e-4 * direction, prompts) for sign in (1, -1))
    slopes = (gradients * direction).flatten(1).sum(dim=1)
    assert slopes.abs().min() > 1e-4
    torch.testing.assert_close(slopes, (ahead - behind) / 2e-4, rtol=1e-3, atol=1e-5)


def test_the_cosine_of_features_and_prompt_is_the_score(checkpoint: str, pictures: Pictures) -> None:
    reward = HPSv2(checkpoint=checkpoint, batch_size=3, device="cpu")
    images = as_images(pictures(224, 224))
    features = reward.embed(images)
    assert features.shape == (4, 16)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4))
    text = reward._model.encode_text(reward._tokenize([PROMPTS[0]]), normalize=True)
    torch.testing.assert_close(features @ text[0], reward.score(images, [PROMPTS[0]] * 4))


def test_a_checkpoint_that_does_not_fit_is_refused_by_name(checkpoint: str, tmp_path: Path) -> None:
    weights = torch.load(checkpoint)["state_dict"]
    del weights["visual.proj"], weights["logit_scale"], weights["text_projection"], weights["visual.ln_pre.bias"]
    torch.save({"state_dict": weights}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"4 missing \(logit_scale, text_projection, visual.ln_pre.bias\)"):
        HPSv2(checkpoint=str(tmp_path / "other.pt"))
    torch.save(weights, tmp_path / "bare.pt")
    with pytest.raises(ValueError, match="has no 'state_dict'"):
        HPSv2(checkpoint=str(tmp_path / "bare.pt"))


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(ValueError, match=r"v2\.0, v2\.1"):
        HPSv2(version="v3")  # type: ignore[arg-type]
