"""The rewards on CLIP: transformers' own figures, gradients, and checkpoints that must not pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from rewards.aesthetic import Aesthetic, Head
from rewards.clip_reward import ClipReward
from rewards.clip_score import ClipScore
from rewards.pickscore import PickScore
from rewards.preprocessing import normalise, short_side_crop
from rewards.reward import to_images
from shapes.networks import make_tokenizer

SIZE = 32
PROMPTS = ["a red circle", "four blue stars", "a red square and a blue star on a white background", "a red circle"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random CLIP in the published format, with enough spread for scores to vary, and with dropout."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = make_tokenizer(folder)
    layers = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "attention_dropout": 0.3,
    }  # fmt: skip
    text = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "max_position_embeddings": 77}
    text |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    vision = {"image_size": SIZE, "patch_size": 8}
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(text_config=text | layers, vision_config=vision | layers, projection_dim=768))
    with torch.no_grad():
        for name, parameter in clip.named_parameters():
            if parameter.ndim > 1 and name != "logit_scale":
                parameter.mul_(4)
    clip.save_pretrained(folder)
    size = {"height": SIZE, "width": SIZE}
    CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random aesthetic head, as published."""
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("head") / "sac+logos+ava1-l14-linearMSE.pth"
    torch.save({name: 3 * value for name, value in Head().state_dict().items()}, file)
    return file


@pytest.fixture(params=["clip", "pickscore", "aesthetic"])
def reward(request: pytest.FixtureRequest, folder: Path, checkpoint: Path) -> ClipReward:
    if request.param == "aesthetic":
        return Aesthetic(str(checkpoint), str(folder), batch_size=3)
    return {"clip": ClipScore, "pickscore": PickScore}[request.param](str(folder), batch_size=3)


def pictures(height: int = SIZE, width: int = SIZE, count: int = 4) -> np.ndarray:
    """`(count, H, W, 3)` uint8 of blobs in different colours."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 5, 4, 3)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(p).resize((width, height), Image.Resampling.BICUBIC)) for p in coarse])


def of_transformers(folder: Path, pixels: np.ndarray, prompts: Sequence[str]) -> tuple[Tensor, Tensor, float]:
    """Cosines `(B,)`, image features `(B, 768)` and the scale of transformers' own processor and model."""
    processor = CLIPProcessor(CLIPImageProcessorPil.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder))
    inputs = processor(
        text=list(prompts), images=[Image.fromarray(p) for p in pixels], padding=True, truncation=True, max_length=77,
        return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        model = CLIPModel.from_pretrained(folder).eval()
        found = model(**inputs)
    scale = model.logit_scale.exp().item()
    return found.logits_per_image.diagonal() / scale, found.image_embeds, scale


@pytest.mark.parametrize(
    ("height", "width", "tolerance"), [(32, 32, 1e-6), (64, 64, 2e-3), (100, 61, 2e-3), (24, 50, 2e-3)]
)
def test_scores_are_those_of_transformers(
    folder: Path, checkpoint: Path, height: int, width: int, tolerance: float
) -> None:
    """Exactly where nothing is resized, else to what PIL's rounding of resized pictures makes of the cosine."""
    pixels = pictures(height, width)
    cosine, features, scale = of_transformers(folder, pixels, PROMPTS)
    assert cosine.std() > 5 * tolerance
    images = to_images(pixels)
    scores = ClipScore(str(folder)).score(images, PROMPTS)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, cosine, rtol=0, atol=tolerance)
    torch.testing.assert_close(
        PickScore(str(folder)).score(images, PROMPTS), scale * cosine, rtol=0, atol=scale * tolerance
    )
    state = torch.load(checkpoint)
    for layer in (0, 2, 4, 6, 7):
        features = features @ state[f"layers.{layer}.weight"].T + state[f"layers.{layer}.bias"]
    aesthetic = Aesthetic(str(checkpoint), str(folder)).score(images, PROMPTS)
    torch.testing.assert_close(aesthetic, features.squeeze(-1), rtol=1e-4, atol=100 * tolerance)


def test_scores_tell_pictures_and_prompts_apart(reward: ClipReward) -> None:
    images = to_images(pictures())
    scores = reward.score(images, ["a red circle"] * 4)
    assert scores.unique().numel() == 4
    of_prompts = reward.score(images[:1].expand(3, -1, -1, -1), PROMPTS[:3])
    assert of_prompts.unique().numel() == (1 if isinstance(reward, Aesthetic) else 3)


def in_double(reward: ClipReward, folder: Path, prompts: Sequence[str]) -> Callable[[Tensor], Tensor]:
    """The same function in float64, written down once more."""
    model = CLIPModel.from_pretrained(folder, dtype=torch.float64).eval().requires_grad_(False)
    text = reward.text_features(prompts).double()

    def score(images: Tensor) -> Tensor:
        pixels = normalise(short_side_crop(images, SIZE))
        features = F.normalize(model.get_image_features(pixels).pooler_output, dim=-1)
        if isinstance(reward, Aesthetic):
            return Head.forward(reward.head.double(), features)
        return (features * text).sum(-1) * (model.logit_scale.exp() if isinstance(reward, PickScore) else 1)

    return score


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 56)])
def test_the_gradient_equals_central_differences(reward: ClipReward, folder: Path, height: int, width: int) -> None:
    random = torch.Generator().manual_seed(2)
    images = 0.2 + 0.6 * torch.rand(4, 3, height, width, generator=random)
    scores, gradient = reward.score_and_grad(images, PROMPTS)
    torch.testing.assert_close(scores, reward.score(images, PROMPTS))
    assert (gradient.flatten(1).norm(dim=1) > 1e-4).all()
    function = in_double(reward, folder, PROMPTS)
    directions = [torch.randn(images.shape, generator=random, dtype=torch.float64) for _ in range(3)]
    for direction in [*directions, gradient.double() / gradient.norm()]:
        ahead, behind = (function(images.double() + h * direction) for h in (1e-5, -1e-5))
        expected = (ahead - behind) / 2e-5
        torch.testing.assert_close((gradient * direction).sum(dim=(1, 2, 3)), expected, rtol=1e-3, atol=1e-4)


def test_neither_batch_nor_neighbours_matter(reward: ClipReward) -> None:
    images = to_images(pictures(40, 48))
    together, gradients = reward.score_and_grad(images, PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        alone, gradient = reward.score_and_grad(images[i : i + 1], [prompt])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradients[i : i + 1], gradient, rtol=1e-3, atol=1e-5)


def test_a_picture_of_nan_has_no_score_and_spoils_no_other(reward: ClipReward) -> None:
    images = to_images(pictures())
    good = reward.score(images, PROMPTS)
    images[1] = torch.nan
    scores = reward.score(images, PROMPTS)
    assert scores.isnan().tolist() == [False, True, False, False]
    torch.testing.assert_close(scores[[0, 2, 3]], good[[0, 2, 3]], rtol=1e-4, atol=1e-5)


def test_the_network_is_frozen_and_its_dropout_off(reward: ClipReward) -> None:
    images = to_images(pictures())
    scores = reward.score(images, PROMPTS)
    assert not scores.requires_grad
    assert torch.equal(scores, reward.score(images, PROMPTS))
    networks = [reward.clip, reward.head] if isinstance(reward, Aesthetic) else [reward.clip]
    assert not any(module.training for network in networks for module in network.modules())
    assert not any(parameter.requires_grad for network in networks for parameter in network.parameters())


def test_features_are_unit_vectors_of_the_pictures(reward: ClipReward, folder: Path) -> None:
    features = reward.embed(to_images(pictures()))
    torch.testing.assert_close(features, of_transformers(folder, pictures(), PROMPTS)[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4))
    assert torch.pdist(features).min() > 1e-2


def test_a_long_prompt_is_cut_to_77_tokens(folder: Path) -> None:
    long = "a red circle and " * 60
    images = to_images(pictures(count=3))
    scores = ClipScore(str(folder)).score(images, [long, long + "a blue star", "a red circle and " * 2])
    torch.testing.assert_close(scores[:2], of_transformers(folder, pictures(count=2), [long] * 2)[0], rtol=0, atol=1e-5)
    assert abs(scores[2] - ClipScore(str(folder)).score(images[2:], [long])) > 1e-4


def test_half_precision_is_near(folder: Path) -> None:
    images = to_images(pictures())
    exact = ClipScore(str(folder)).score(images, PROMPTS)
    half, gradient = ClipScore(str(folder), dtype="bfloat16").score_and_grad(images, PROMPTS)
    assert half.dtype == gradient.dtype == torch.float32
    assert not torch.equal(half, exact)
    torch.testing.assert_close(half, exact, rtol=0, atol=0.05)


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(folder, tmp_path / "broken"))


@pytest.mark.parametrize("problem", ["missing", "mismatched", "unexpected"])
def test_a_checkpoint_of_another_model_is_refused(broken: Path, problem: str) -> None:
    """transformers would warn of all three and go on with random parameters."""
    state = load_file(broken / "model.safetensors")
    key = "vision_model.encoder.layers.1.mlp.fc1.weight"
    if problem == "missing":
        del state[key]
    elif problem == "mismatched":
        state[key] = state[key][:-1].clone()
    else:
        key = "vision_model.encoder.layers.2.mlp.fc1.weight"
        state[key] = torch.zeros(2)
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"1 {problem} parameters, the first is .*layers.{key.split('.')[3]}.mlp.fc1"):
        ClipScore(str(broken))


def test_the_position_ids_of_old_checkpoints_do_no_harm(broken: Path) -> None:
    state = load_file(broken / "model.safetensors")
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    ClipScore(str(broken))


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_an_incomplete_folder_is_refused_by_name(broken: Path, lost: str) -> None:
    (broken / lost).unlink()
    with pytest.raises(FileNotFoundError, match=r"broken \(options.model\) cannot be loaded"):
        PickScore(str(broken))


def test_a_folder_without_tokenizer_is_refused(broken: Path) -> None:
    """transformers would make one of two tokens, and every prompt would score the same."""
    for file in ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"):
        (broken / file).unlink(missing_ok=True)
    with pytest.raises(ValueError, match="does not hold the tokenizer"):
        PickScore(str(broken))


def test_a_model_that_is_nowhere_is_named_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no CLIP model '.*nowhere'.*options\.model to a folder"):
        ClipScore(str(tmp_path / "nowhere"))


def test_the_head_is_affine_and_has_the_published_size(checkpoint: Path, folder: Path) -> None:
    head = Aesthetic(str(checkpoint), str(folder)).head
    assert sum(parameter.numel() for parameter in head.parameters()) == 927_969
    assert set(head.state_dict()) == {f"layers.{i}.{kind}" for i in (0, 2, 4, 6, 7) for kind in ("weight", "bias")}
    a, b = torch.randn(2, 5, 768)
    torch.testing.assert_close(head((a + b) / 2), (head(a) + head(b)) / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("problem", ["missing", "mismatched", "unexpected", "no tensors"])
def test_a_head_of_another_kind_is_refused(folder: Path, checkpoint: Path, tmp_path: Path, problem: str) -> None:
    state: object = torch.load(checkpoint)
    assert isinstance(state, dict)
    if problem == "missing":
        del state["layers.4.weight"]
    elif problem == "mismatched":
        state["layers.4.weight"] = torch.zeros(64, 129)
    elif problem == "unexpected":
        state["layers.8.weight"] = torch.zeros(1, 1)
    else:
        state = 3
    torch.save(state, tmp_path / "head.pth")
    with pytest.raises(ValueError, match=r"head.pth \(options.checkpoint\) is not an aesthetic head"):
        Aesthetic(str(tmp_path / "head.pth"), str(folder))


def test_a_file_that_is_no_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "head.pth").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="is not a file of tensors"):
        Aesthetic(str(tmp_path / "head.pth"), str(folder))
    with pytest.raises(FileNotFoundError, match=r"no aesthetic head at .*nowhere.pth.*options\.checkpoint"):
        Aesthetic(str(tmp_path / "nowhere.pth"), str(folder))


def test_the_published_head_is_fetched_by_its_address(
    folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(url: str, **how: object) -> dict[str, Tensor]:
        asked.append(url)
        if len(asked) > 1:
            raise URLError("no route to host")
        return torch.load(checkpoint)

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    images = to_images(pictures())
    fetched, local = Aesthetic(model=str(folder)), Aesthetic(str(checkpoint), str(folder))
    assert torch.equal(fetched.score(images, PROMPTS), local.score(images, PROMPTS))
    assert asked[0].endswith("/sac+logos+ava1-l14-linearMSE.pth")
    with pytest.raises(FileNotFoundError, match=r"no route to host.*options\.checkpoint"):
        Aesthetic(model=str(folder))


def test_a_clip_of_another_width_is_refused(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    config = CLIPConfig.from_pretrained(folder)
    config.projection_dim = 512
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    CLIPModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="768 dimensions"):
        Aesthetic(str(checkpoint), str(tmp_path))
