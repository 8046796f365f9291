"""ImageReward against its own package, on a small model in the published formats; runs in the reward's environment."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PROMPTS, as_images, excite
from PIL import Image

from rewards import make_reward
from rewards.image_reward import ImageReward, import_package

Pictures = Callable[[int, int], list[Image.Image]]
Files = dict[str, str]
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a red circle four blue star ##s on the left"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Options of the reward: a checkpoint, a configuration and a tokenizer as they are published, but small."""
    (tmp_path / "bert-base-uncased").mkdir()
    (tmp_path / "bert-base-uncased" / "vocab.txt").write_text("\n".join(WORDS.split()))
    config = {
        "hidden_size": 768, "num_hidden_layers": 2, "num_attention_heads": 12, "intermediate_size": 64,
        "vocab_size": 30524, "max_position_embeddings": 512, "type_vocab_size": 2, "pad_token_id": 0,
        "hidden_act": "gelu", "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02, "encoder_width": 768, "add_cross_attention": True,
    }  # fmt: skip
    (tmp_path / "med_config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)  # where the package finds the tokenizer under the name that it asks the hub for
    import_package()
    from ImageReward.ImageReward import ImageReward as Model
    from ImageReward.models.BLIP import blip, blip_pretrain, vit

    small = partial(vit.VisionTransformer, img_size=224, patch_size=32, embed_dim=48, depth=2, num_heads=3)
    monkeypatch.setattr(blip_pretrain, "create_vit", lambda *_: (small(drop_path_rate=0.1), 48))
    monkeypatch.setattr(blip_pretrain, "init_tokenizer", blip.init_tokenizer)
    torch.manual_seed(0)
    model = Model("med_config.json")
    excite(model)
    torch.save(model.state_dict(), "ImageReward.pt")
    tokenizer = str(tmp_path / "bert-base-uncased")
    return {"checkpoint": "ImageReward.pt", "med_config": "med_config.json", "tokenizer": tokenizer}


@pytest.fixture
def theirs(files: Files) -> Any:
    """The package's own model."""
    from ImageReward.utils import load

    return load(files["checkpoint"], device="cpu", med_config=files["med_config"])


def test_scores_are_those_of_the_package(theirs: Any, files: Files, pictures: Pictures) -> None:
    drawn = pictures(224, 224)  # so that nothing is resized
    expected = np.array([[theirs.score(prompt, picture) for picture in drawn] for prompt in PROMPTS])
    assert expected.std(axis=1).min() > 0.1
    assert expected.std(axis=0).min() > 0.01
    reward = make_reward("image_reward", **files, batch_size=5, device="cpu")  # batches mix prompts
    images = as_images(drawn).repeat(len(PROMPTS), 1, 1, 1)
    prompts = [prompt for prompt in PROMPTS for _ in drawn]
    found = reward.score(images, prompts).numpy().reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("size", [(300, 261), (97, 160)])
def test_pictures_are_prepared_as_in_the_package(
    theirs: Any, files: Files, pictures: Pictures, size: tuple[int, int]
) -> None:
    drawn, seen = pictures(*size), []
    expected = torch.stack([theirs.preprocess(picture) for picture in drawn])
    reward = ImageReward(**files, device="cpu")
    reward._model.blip.visual_encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    reward.score(as_images(drawn), [PROMPTS[0]] * len(drawn))
    # PIL rounds to whole levels twice; a shift by one pixel would be four times as much.
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1.5 / 255 / 0.26)


def test_gradients_are_those_of_finite_differences(files: dict[str, str], pictures: Pictures) -> None:
    reward = ImageReward(**files, batch_size=3, device="cpu")
    images, prompts = as_images(pictures(240, 224)).clamp(0.1, 0.9), [PROMPTS[0], *PROMPTS]
    _, gradients = reward.score_and_grad(images, prompts)
    reward._model.double()
    direction = torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ahead, behind = (reward.score_chunk(images.double() + sign * 1e-4 * direction, prompts) for sign in (1, -1))
    slopes = (gradients * direction).flatten(1).sum(dim=1)
    assert slopes.abs().min() > 1e-3
    torch.testing.assert_close(slopes, (ahead - behind) / 2e-4, rtol=1e-3, atol=1e-5)


def test_a_checkpoint_that_does_not_fit_is_refused_by_name(files: dict[str, str]) -> None:
    weights = torch.load(files["checkpoint"])
    weights["mlp.head.weight"] = weights.pop("mlp.layers.0.weight")
    weights["mlp.layers.7.weight"] = torch.zeros(2, 16)
    torch.save(weights, "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt is not of this model") as caught:
        ImageReward(**{**files, "checkpoint": "other.pt"})
    assert "1 missing (mlp.layers.0.weight)" in str(caught.value)
    assert "1 unknown (mlp.head.weight)" in str(caught.value)
    assert "1 of another shape (mlp.layers.7.weight)" in str(caught.value)
