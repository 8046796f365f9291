"""The step-aware preference model in its published format: the released formulas, and files that must not pass."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from rewards.clip_reward import ClipReward
from rewards.pickscore import PickScore
from rewards.spm import Spm
from shapes.networks import make_tokenizer

SIZE, WIDTH, PROMPTS = 16, 32, ["a red circle", "four blue stars", "a red circle"]
TIMES = torch.tensor([0.0, 251.0, 951.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random CLIP, as PickScore is published."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = make_tokenizer(folder)
    layers = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "max_position_embeddings": 77}
    text |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    clip = CLIPModel(
        CLIPConfig(
            text_config=text | layers, vision_config=layers | {"image_size": SIZE, "patch_size": 8}, projection_dim=24
        )
    )
    with torch.no_grad():
        for parameter in clip.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    clip.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def published(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint under the names of the released code, with the buffer that old transformers stored."""
    generator = torch.Generator().manual_seed(1)
    shapes = {
        f"model.{name}": tuple(value.shape) for name, value in CLIPModel.from_pretrained(folder).state_dict().items()
    }
    vision = "model.vision_model"
    for layer in range(2):
        shapes[f"{vision}.encoder.layers.{layer}.adaLN_modulation.1.weight"] = (6 * WIDTH, WIDTH)
        shapes[f"{vision}.encoder.layers.{layer}.adaLN_modulation.1.bias"] = (6 * WIDTH,)
    shapes |= {
        f"{vision}.adaLN_modulation.1.weight": (2 * WIDTH, WIDTH),
        f"{vision}.adaLN_modulation.1.bias": (2 * WIDTH,),
    }
    shapes |= {"model.t_embedder.mlp.0.weight": (WIDTH, 256), "model.t_embedder.mlp.0.bias": (WIDTH,)}
    shapes |= {"model.t_embedder.mlp.2.weight": (WIDTH, WIDTH), "model.t_embedder.mlp.2.bias": (WIDTH,)}
    state = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    state["model.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    file = tmp_path_factory.mktemp("spm") / "sd-v1-5_step-aware_preference_model.bin"
    torch.save(state, file)
    return file


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))


def by_hand(state: dict[str, Tensor], images: Tensor, times: Tensor) -> Tensor:
    """Image features `(B, 24)` of the released code, written down once more with nothing but tensors."""
    s = {name.removeprefix("model."): value for name, value in state.items()}

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, s[f"{name}.weight"], s.get(f"{name}.bias"))

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (WIDTH,), s[f"{name}.weight"], s[f"{name}.bias"], 1e-5)

    angles = times[:, None] * torch.exp(-math.log(10000) * torch.arange(128) / 128)
    e = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], dim=1))))
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    patches = F.conv2d((images - mean) / deviation, s["vision_model.embeddings.patch_embedding.weight"], stride=8)
    first = s["vision_model.embeddings.class_embedding"].expand(len(images), 1, -1)
    x = torch.cat([first, patches.flatten(2).mT], dim=1) + s["vision_model.embeddings.position_embedding.weight"]
    x = norm("vision_model.pre_layrnorm", x)
    for number in range(2):
        layer = f"vision_model.encoder.layers.{number}"
        found = linear(f"{layer}.adaLN_modulation.1", F.silu(e)).chunk(6, dim=1)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (part.unsqueeze(1) for part in found)
        y = norm(f"{layer}.layer_norm1", x) * (1 + scale) + shift
        q, k, v = (
            linear(f"{layer}.self_attn.{n}_proj", y).unflatten(2, (2, -1)).transpose(1, 2) for n in ("q", "k", "v")
        )
        attention = (q @ k.mT / (WIDTH // 2) ** 0.5).softmax(dim=-1) @ v
        x = x + gate * linear(f"{layer}.self_attn.out_proj", attention.transpose(1, 2).flatten(2))
        y = norm(f"{layer}.layer_norm2", x) * (1 + scale_mlp) + shift_mlp
        y = linear(f"{layer}.mlp.fc1", y)
        x = x + gate_mlp * linear(f"{layer}.mlp.fc2", y * torch.sigmoid(1.702 * y))
    shift, scale = linear("vision_model.adaLN_modulation.1", F.silu(e)).chunk(2, dim=1)
    pooled = norm("vision_model.post_layernorm", x[:, 0]) * (1 + scale) + shift
    return F.normalize(linear("visual_projection", pooled), dim=1)


def test_a_published_file_is_judged_with_as_in_the_released_code(folder: Path, published: Path, images: Tensor) -> None:
    reward, state = Spm(published, str(folder), batch_size=2), torch.load(published, weights_only=True)
    features = by_hand(state, images, TIMES)
    torch.testing.assert_close(reward.image_features(images, TIMES), features, rtol=1e-4, atol=1e-5)
    expected = state["model.logit_scale"].exp() * (features * reward.text_features(PROMPTS)).sum(dim=1)
    torch.testing.assert_close(reward.score_at(images, PROMPTS, TIMES), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(reward.score(images, PROMPTS), reward.score_at(images, PROMPTS, 0 * TIMES))
    assert (reward.score_at(images, PROMPTS, TIMES) - reward.score(images, PROMPTS)).abs()[1:].min() > 1e-3


def test_before_it_is_trained_it_is_pickscore_at_every_time(folder: Path, images: Tensor) -> None:
    found = Spm(model=str(folder)).score_at(images, PROMPTS, TIMES)
    torch.testing.assert_close(found, PickScore(str(folder)).score(images, PROMPTS), rtol=1e-4, atol=1e-4)


def test_pictures_are_resized_without_antialiasing(folder: Path, published: Path) -> None:
    reward, images = Spm(published, str(folder)), torch.rand(1, 3, 2 * SIZE, 3 * SIZE)
    seen = F.interpolate(images * 2 - 1, (SIZE, 3 * SIZE // 2), mode="bicubic", align_corners=False) / 2 + 0.5
    features = reward.image_features(seen[..., 4 : 4 + SIZE].clamp(0, 1))
    torch.testing.assert_close(reward.image_features(images), features, rtol=1e-4, atol=1e-5)


def test_what_is_saved_is_what_is_loaded(folder: Path, published: Path, images: Tensor, tmp_path: Path) -> None:
    reward = Spm(published, str(folder))
    reward.save(tmp_path / "saved")
    again = Spm(tmp_path / "saved", str(folder))
    assert torch.equal(again.score_at(images, PROMPTS, TIMES), reward.score_at(images, PROMPTS, TIMES))


def test_gradients_flow_into_the_image_and_the_layers_of_time(folder: Path, published: Path, images: Tensor) -> None:
    reward = Spm(published, str(folder), batch_size=2)
    scores, gradient = reward.score_and_grad(images, PROMPTS)
    assert scores.shape == (3,)
    assert gradient.flatten(1).abs().amax(dim=1).min() > 0
    reward.network.requires_grad_(True)
    reward.score_at(images, PROMPTS, TIMES).sum().backward()
    for name, parameter in reward.network.named_parameters():
        if "adaLN" in name or "t_embedder" in name:
            assert parameter.grad is not None
            assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("wrong", ["nothing", "no file", "another model", "a name less"])
def test_other_files_are_refused(folder: Path, published: Path, tmp_path: Path, wrong: str) -> None:
    file = tmp_path / "model.bin"
    state = torch.load(published, weights_only=True)
    if wrong == "nothing":
        with pytest.raises(FileNotFoundError, match="There is no step-aware preference model"):
            Spm(file, str(folder))
        return
    if wrong == "no file":
        file.write_bytes(b"PK")
    elif wrong == "another model":
        torch.save({name: value[:1] for name, value in state.items() if value.ndim}, file)
    else:
        torch.save({name: value for name, value in state.items() if "t_embedder.mlp.0" not in name}, file)
    with pytest.raises(ValueError, match=r"model\.bin \(options.checkpoint\) is no step-aware preference model"):
        Spm(file, str(folder))


def test_it_is_a_clip_reward_with_features(folder: Path, published: Path, images: Tensor) -> None:
    reward = Spm(published, str(folder), batch_size=2)
    assert isinstance(reward, ClipReward)
    torch.testing.assert_close(reward.embed(images), reward.image_features(images))
