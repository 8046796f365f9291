"""DINO's features: those of transformers' own models and processor, picture by picture; models that must not pass."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModel,
    BitImageProcessorPil,
    CLIPConfig,
    Dinov2Config,
    Dinov2Model,
    PreTrainedConfig,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from rewards.dino import CROPPED, RESIZED, Dino
from rewards.preprocessing import IMAGENET_MEAN, IMAGENET_STD, normalise, short_side_crop
from rewards.reward import to_images
from tests.support.tiny_dino import MODELS, make_dino

SHAPES = [(256, 256), (64, 64), (300, 190), (100, 270)]


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dino(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dino(tmp_path_factory.mktemp("only"))


def pictures(height: int, width: int, count: int = 4) -> np.ndarray:
    """`(count, H, W, 3)` uint8 of blobs in different colours."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 5, 4, 3)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(p).resize((width, height), Image.Resampling.BICUBIC)) for p in coarse])


def pixels_of_transformers(folder: Path, pixels: np.ndarray) -> Tensor:
    """What its own processor makes of pictures, `(B, 3, 224, 224)`."""
    processor = BitImageProcessorPil.from_pretrained(folder)
    return processor([Image.fromarray(picture) for picture in pixels], return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_pictures_are_seen_as_by_the_processor_of_dinov2(dinov2: Path, height: int, width: int) -> None:
    """Exactly where nothing is resized, else to PIL's rounding."""
    pixels = pictures(height, width)
    seen = normalise(short_side_crop(to_images(pixels), RESIZED, CROPPED), IMAGENET_MEAN, IMAGENET_STD)
    expected = pixels_of_transformers(dinov2, pixels)
    tolerance = 1e-5 if min(height, width) == RESIZED else 1.5 / 255 / min(IMAGENET_STD)
    torch.testing.assert_close(seen, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_features_are_the_class_tokens_of_transformers(folder: Path, height: int, width: int) -> None:
    pixels = pictures(height, width)
    with torch.no_grad():
        network = AutoModel.from_pretrained(folder).eval()
        expected = F.normalize(network(pixels_of_transformers(folder, pixels)).last_hidden_state[:, 0])
    features = Dino(str(folder)).embed(to_images(pixels))
    assert features.dtype == torch.float32
    tolerance = 1e-5 if min(height, width) == RESIZED else 5e-3
    torch.testing.assert_close(features, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4))
    assert torch.pdist(features).min() > 10 * tolerance


def test_neither_batch_nor_neighbours_matter(folder: Path) -> None:
    images = to_images(pictures(40, 48, count=5))
    together = Dino(str(folder), batch_size=2).embed(images)
    torch.testing.assert_close(together, Dino(str(folder)).embed(images), rtol=0, atol=1e-5)
    alone = torch.cat([Dino(str(folder)).embed(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_the_network_is_frozen_and_nothing_in_it_is_random(folder: Path) -> None:
    """Neither dropout nor a pooler that no DINO brings."""
    images = to_images(pictures(48, 48))
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        dino = Dino(str(folder))
        found += [dino.embed(images), dino.embed(images)]
        assert not any(parameter.requires_grad for parameter in dino.network.parameters())
    assert all(torch.equal(features, found[0]) for features in found)


def test_gradients_flow_from_the_features_into_the_pictures(dinov2: Path) -> None:
    images = to_images(pictures(40, 48)).requires_grad_()
    Dino(str(dinov2)).embed(images)[:, 0].sum().backward()
    assert images.grad is not None
    assert (images.grad.flatten(1).norm(dim=1) > 0).all()


def test_it_has_no_score(dinov2: Path) -> None:
    scores = Dino(str(dinov2), batch_size=2).score(to_images(pictures(8, 8, count=3)), [""] * 3)
    assert scores.shape == (3,)
    assert scores.isnan().all()


def test_the_default_has_so_many_parameters() -> None:
    with torch.device("meta"):
        published = Dinov2Model(Dinov2Config(image_size=518))
    assert sum(parameter.numel() for parameter in published.parameters()) == Dino.parameters


@pytest.fixture
def broken(dinov2: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(dinov2, tmp_path / "broken"))


def test_a_checkpoint_that_is_no_safetensors_is_read(broken: Path, dinov2: Path) -> None:
    """As facebook/dino-vits16 is published."""
    torch.save(load_file(broken / "model.safetensors"), broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    images = to_images(pictures(48, 48))
    assert torch.equal(Dino(str(broken)).embed(images), Dino(str(dinov2)).embed(images))


@pytest.mark.parametrize("problem", ["missing", "mismatched", "unexpected"])
def test_a_checkpoint_of_another_model_is_refused(broken: Path, problem: str) -> None:
    """transformers would warn of all three and go on with random parameters."""
    state, key = load_file(broken / "model.safetensors"), "encoder.layer.1.mlp.fc1.weight"
    if problem == "missing":
        del state[key]
    elif problem == "mismatched":
        state[key] = state[key][:-1].clone()
    else:
        key = "encoder.layer.2.mlp.fc1.weight"
        state[key] = torch.zeros(2)
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"not of the DINO .* 1 {problem} parameters, the first is .*layer.{key[14]}"):
        Dino(str(broken))


def test_a_model_that_is_no_dino_is_refused(tmp_path: Path) -> None:
    CLIPConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"\(options.model\) is no DINO: its config.json says 'clip', and .* dinov2"):
        Dino(str(tmp_path))


def test_a_model_of_a_type_that_nobody_knows_is_no_dino(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "dinov9"}')
    with pytest.raises(ValueError, match=r"is no DINO: its config.json says 'dinov9'"):
        Dino(str(tmp_path))


def test_a_model_that_the_hub_keeps_back_is_not_called_missing_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def gated(model: str) -> None:
        raise OSError("You are trying to access a gated repo.\nMake sure to have access to it.")

    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", gated)
    with pytest.raises(FileNotFoundError) as caught:
        Dino("facebook/dinov3")
    assert str(caught.value) == (
        "There is no DINO model 'facebook/dinov3': neither a folder nor the hub gives one (You are trying to access a "
        "gated repo); set the reward's options.model to a folder that holds one, or log in to the hub where it has to "
        "know who asks."
    )


def test_a_plain_vit_that_learned_otherwise_is_refused(tmp_path: Path) -> None:
    """It has a pooler, or a classifier."""
    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, patch_size=32)
    for made in (ViTModel, ViTForImageClassification):
        made(config).save_pretrained(tmp_path / made.__name__)
        with pytest.raises(ValueError, match=r"not of the DINO .* 2 unexpected parameters"):
            Dino(str(tmp_path / made.__name__))


def test_an_incomplete_folder_is_refused_by_name(broken: Path, tmp_path: Path) -> None:
    (broken / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"^The DINO model in .*broken \(options.model\) cannot be loaded"):
        Dino(str(broken))
    for text in ("", "{}", None):
        if text is None:
            (broken / "config.json").unlink()
        else:
            (broken / "config.json").write_text(text)
        with pytest.raises(FileNotFoundError, match=r"^There is no DINO model '.*broken': [^\n]*options\.model[^\n]*$"):
            Dino(str(broken))
    with pytest.raises(FileNotFoundError, match=r"^There is no DINO model '.*nowhere': [^\n]*options\.model[^\n]*$"):
        Dino(str(tmp_path / "nowhere"))
