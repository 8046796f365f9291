"""Models that cannot be driven are refused before they are loaded, in one sentence that names the folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.config import PolicyConfig
from actors.model_check import check_model
from actors.policy import Policy
from tests.support.tiny import make_pipeline

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline, to be damaged."""
    return Path(shutil.copytree(tiny_pipeline, tmp_path / "model"))


def config_of(model: Path, **values: Any) -> PolicyConfig:
    return PolicyConfig(model=str(model), device="cpu", steps=3, **values)


def refused(model: Path, said: str, **values: Any) -> None:
    """It is refused alike before it is loaded and by what loads it, in one sentence."""
    config = config_of(model, **values)
    for use in (check_model, Policy.load):
        with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
            use(config)
        assert str(caught.value).endswith(".")
        assert "\n" not in str(caught.value)


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_whole_model_gives_its_chain(tiny_pipeline: Path) -> None:
    chain = check_model(config_of(tiny_pipeline))
    assert chain is not None
    assert torch.equal(chain.std, Policy.load(config_of(tiny_pipeline)).transitions.std)


def test_a_hub_name_is_checked_when_it_is_loaded() -> None:
    assert check_model(PolicyConfig(model="nobody/nothing")) is None


@pytest.mark.parametrize(
    "name",
    ["StableDiffusionXLImg2ImgPipeline", "StableDiffusionInpaintPipeline", "LatentConsistencyModelPipeline"],
)
def test_another_pipeline_is_named(folder: Path, name: str) -> None:
    edit(folder / "model_index.json", _class_name=name)
    refused(folder, f"{folder}.*{name}")


def drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["conv_in.weight"]


def add(tensors: dict[str, torch.Tensor]) -> None:
    tensors["conv_extra.weight"] = torch.zeros(1)


def widen(tensors: dict[str, torch.Tensor]) -> None:
    tensors["conv_in.weight"] = torch.zeros(9, 4, 3, 3)


def quantise(tensors: dict[str, torch.Tensor]) -> None:
    tensors["conv_in.weight"] = tensors["conv_in.weight"].to(torch.int8)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (drop, "lack conv_in"),
        (add, "conv_extra"),
        (widen, "another shape of conv_in"),
        (quantise, "whole numbers as conv_in"),
    ],
)
def test_weights_that_are_not_those_of_the_config_are_refused(folder: Path, damage: Callable, said: str) -> None:
    tensors = load_file(folder / UNET)
    damage(tensors)
    save_file(tensors, folder / UNET)
    refused(folder, said)


@pytest.mark.parametrize("file", [UNET, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
def test_weights_that_are_not_there_torn_or_pointers_are_refused(folder: Path, file: str) -> None:
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])
    refused(folder, "cannot be read")
    (folder / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    refused(folder, "git lfs pull")
    (folder / file).unlink()
    refused(folder, "holds no weights")


@pytest.mark.parametrize("gone", [("tokenizer.json", "vocab.json", "merges.txt"), ("tokenizer.json", "merges.txt")])
def test_a_tokenizer_without_vocabulary_is_refused(folder: Path, gone: tuple[str, ...]) -> None:
    for name in gone:
        (folder / "tokenizer" / name).unlink(missing_ok=True)
    refused(folder, "vocabulary")


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    refused(make_pipeline(tmp_path / "small", text={"vocab_size": 20}), "knows 20")
    refused(make_pipeline(tmp_path / "short", text={"max_position_embeddings": 5}), "takes 5")


def test_a_missing_component_and_a_broken_file_are_named(folder: Path) -> None:
    (folder / "vae/config.json").write_text("{")
    refused(folder, r"vae/config\.json is no JSON")
    (folder / "vae/config.json").unlink()
    refused(folder, r"lacks .*vae/config\.json")
    edit(folder / "model_index.json", text_encoder=[None, None])
    refused(folder, "text_encoder, but has none")


def test_an_image_encoder_is_not_read(folder: Path) -> None:
    """Of IP-Adapter, which nothing here asks."""
    edit(folder / "model_index.json", image_encoder=["transformers", "CLIPVisionModelWithProjection"])
    assert Policy.load(config_of(folder))._family._pipeline.image_encoder is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("image_encoder", 5),
        ("image_encoder", ["transformers"]),
        ("image_encoder", ["somewhere", "CLIPVisionModelWithProjection"]),
        ("image_encoder", ["transformers", "Nope"]),
        ("scheduler", None),
        ("scheduler", ["diffusers", "Nope"]),
        ("scheduler", ["diffusers", 5]),
        ("scheduler", ["transformers", "CLIPTextModel"]),
        ("safety_checker", None),
        ("feature_extractor", 5),
    ],
)
def test_an_index_that_names_no_class_of_what_may_be_there_is_refused(folder: Path, name: str, entry: Any) -> None:
    edit(folder / "model_index.json", **{name: entry})
    refused(folder, f"{folder} has a model_index.json that says .* of its {name}")


def test_parts_that_are_not_loaded_need_not_be_there(folder: Path) -> None:
    edit(folder / "model_index.json", safety_checker=["gone", "Checker"], feature_extractor=["gone", "Extractor"])
    config = config_of(folder)
    check_model(config)
    Policy.load(config)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("file", "key"),
    [
        (UNET, "conv_in.weight"),
        ("vae/diffusion_pytorch_model.safetensors", "decoder.conv_in.bias"),
        ("text_encoder/model.safetensors", "text_model.embeddings.token_embedding.weight"),
    ],
)
def test_weights_that_are_no_numbers_are_refused_with_file_and_key(
    folder: Path, file: str, key: str, value: float
) -> None:
    tensors = load_file(folder / file)
    named = key if key in tensors else key.removeprefix("text_model.")
    tensors[named].flatten()[-1] = value
    save_file(tensors, folder / file, {"format": "pt"})
    config = config_of(folder)
    check_model(config)  # headers alone
    with pytest.raises(ValueError, match=rf"weights {folder}/{file} hold .* in {named}, .*\.$") as caught:
        Policy.load(config)
    assert "\n" not in str(caught.value)


def test_the_shard_with_what_is_no_number_is_named(tmp_path: Path) -> None:
    model = make_pipeline(tmp_path / "model", max_shard_size="20KB")
    shard = sorted((model / "unet").glob("*-of-*.safetensors"))[-1]
    tensors = load_file(shard)
    key = sorted(tensors)[-1]
    tensors[key].fill_(float("nan"))
    save_file(tensors, shard, {"format": "pt"})
    with pytest.raises(ValueError, match=f"weights {shard} hold .* in {key}, as float32"):
        Policy.load(config_of(model))


def test_weights_that_the_number_format_cannot_hold_are_refused_with_it(folder: Path) -> None:
    tensors = load_file(folder / UNET)
    tensors["conv_in.bias"][0] = 1e6
    save_file(tensors, folder / UNET, {"format": "pt"})
    Policy.load(config_of(folder, dtype="bfloat16"))
    with pytest.raises(ValueError, match=r"in conv_in\.bias, as float16; .*policy\.dtype"):
        Policy.load(config_of(folder, dtype="float16"))


def test_unknown_lora_targets_are_refused_with_candidates(folder: Path) -> None:
    refused(folder, "'to_qq'.*to_q", lora_targets=("to_k", "to_qq"))
    refused(folder, "'attn1'", lora_targets=("attn1",))
    Policy.load(config_of(folder, lora_targets=("to_out.0", "conv1", "proj_in")))


@pytest.mark.parametrize("device", ["gpu", "cdua", "meta", "cuda:x"])
def test_an_unknown_device_is_refused(tiny_pipeline: Path, device: str) -> None:
    with pytest.raises(ValueError, match="no device"):
        PolicyConfig(model=str(tiny_pipeline), device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without")
def test_a_device_that_is_not_here_is_refused_when_the_model_is_loaded(tiny_pipeline: Path) -> None:
    with pytest.raises(ValueError, match="no cuda here"):
        Policy.load(PolicyConfig(model=str(tiny_pipeline), device="cuda"))


def test_a_folder_of_one_variant_is_refused_with_the_cure_that_works(tmp_path: Path) -> None:
    model = make_pipeline(tmp_path / "model", variant="fp16")
    refused(model, r"policy\.variant=fp16")
    refused(model, r"no weights of policy\.variant=bf16; it has fp16", variant="bf16")
    assert Policy.load(config_of(model, variant="fp16")).latent_shape == (4, 8, 8)


@pytest.mark.parametrize("saving", [{"max_shard_size": "20KB"}, {"safe_serialization": False}])
def test_shards_and_old_files_are_read(tmp_path: Path, saving: dict[str, Any]) -> None:
    model = make_pipeline(tmp_path / "model", **saving)
    Policy.load(config_of(model))
    shards = sorted((model / "unet").glob("*-of-*"))
    if shards:
        shards[0].unlink()
        refused(model, "lacks 1 of the")


def test_attention_names_of_old_checkpoints_are_read(folder: Path) -> None:
    file = folder / "vae/diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(file)
    for new, old in names.items():
        tensors = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in tensors.items()}
    assert any("proj_attn" in name for name in tensors)
    save_file(tensors, file)
    check_model(config_of(folder))


def test_a_model_without_a_size_is_refused(folder: Path) -> None:
    edit(folder / "unet/config.json", sample_size=None)
    refused(folder, "sample_size is None")


@pytest.mark.parametrize("text", ["[]", "5", "null", '"x"', "[" * 100_000])
@pytest.mark.parametrize(
    "file",
    [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_json_that_is_no_config_is_refused(folder: Path, file: str, text: str) -> None:
    (folder / file).write_text(text)
    refused(folder, "JSON file|by name|no scheduler/scheduler_config.json to read")


@pytest.mark.parametrize(
    "entry", [5, "x", {"a": 1}, ["diffusers"], ["diffusers", 5], ["diffusers", None], ["x", "UNet2DConditionModel"]]
)
def test_an_index_that_names_no_class_is_refused(folder: Path, entry: Any) -> None:
    edit(folder / "model_index.json", unet=entry)
    refused(folder, f"{folder} needs a UNet2DConditionModel as its unet")


@pytest.mark.parametrize("data", [b"<html>not found</html>", b"\x80\x02]q\x00.", bytes(100)])
def test_an_old_file_that_is_something_else_is_refused(folder: Path, data: bytes) -> None:
    (folder / UNET).unlink()
    (folder / UNET).with_suffix(".bin").write_bytes(data)
    refused(folder, "cannot be read")


@pytest.mark.parametrize("text", ["[1]", "{}", '{"weight_map": {}}', '{"weight_map": [1]}', '{"weight_map": {"a": 5}}'])
def test_an_index_of_shards_that_says_nothing_is_refused(folder: Path, text: str) -> None:
    (folder / UNET).with_suffix(".safetensors.index.json").write_text(text)
    refused(folder, "which file holds which weight|by name|no metadata")


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("vae/config.json", {"scaling_factor": None}, "scaling_factor is None"),
        ("vae/config.json", {"scaling_factor": 0}, "scaling_factor is 0"),
        ("vae/config.json", {"scaling_factor": float("nan")}, "scaling_factor is nan"),
        ("vae/config.json", {"scaling_factor": "x"}, "scaling_factor is 'x'"),
        ("unet/config.json", {"sample_size": 10**9}, "sample_size is 1000000000"),
        ("unet/config.json", {"sample_size": True}, "sample_size is True"),
        ("unet/config.json", {"sample_size": [8, 0]}, "sample_size is"),
        ("unet/config.json", {"quantization_config": {"load_in_8bit": True}}, "unet is quantized"),
        ("text_encoder/config.json", {"quantization_config": {"quant_method": "gptq"}}, "text_encoder is quantized"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 0}, "at most 0 tokens"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 2}, "at most 2 tokens"),
    ],
)
def test_values_with_which_nothing_can_be_drawn_are_refused(
    folder: Path, file: str, values: dict[str, Any], said: str
) -> None:
    edit(folder / file, **values)
    refused(folder, said)
