"""What a model must be so that this policy can drive it, read from its folder before anything is loaded.

Nothing here looks at the numbers of a weight: JSON files, the headers of the weights and the vocabulary say enough to
refuse in one sentence what would otherwise end in a tensor error, or worse, in pictures that follow no prompt.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from actors.adapters import add_adapter, target_name
from actors.config import PolicyConfig
from actors.initial_adapter import initial_adapter
from actors.model_files import (
    STEMS,
    TRANSFORMERS,
    is_local,
    local_folder,
    plain_name,
    read_json,
    refuse_pointer,
    tensor_shapes,
    variants,
)
from actors.schedules import read_scheduler
from actors.transitions import Transitions, make_transitions

PIPELINE = "StableDiffusionPipeline"
_COMPONENTS = {  # library and classes
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer", "CLIPTokenizerFast"),
}
# What a pipeline may have besides, and of what class; the last two are not loaded, whatever they are.
_OPTIONAL: dict[str, tuple[Any, type]] = {
    "scheduler": (diffusers, diffusers.SchedulerMixin),
    "image_encoder": (transformers, transformers.PreTrainedModel),
    "safety_checker": (None, object),
    "feature_extractor": (None, object),
}
_LARGEST = 4096  # side of latents; pictures of 32,768 pixels
_FEWEST = 3  # tokens that say something: one between those of begin and end
# Inputs beside latents, timestep and text that some UNets want, and whose they are.
_CONDITIONING = {
    "addition_embed_type": "added conditioning, as SDXL has",
    "class_embed_type": "class labels",
    "num_class_embeds": "class labels",
    "time_cond_proj_dim": "an embedding of the guidance scale, as distilled (LCM) models have",
    "encoder_hid_dim_type": "another encoder's conditioning",
}


def check_model(config: PolicyConfig, folder: Path | None = None) -> Transitions | None:
    """Refuse a model that cannot be loaded whole or cannot be driven.

    Args:
        config: The policy's.
        folder: Where the model is, if `config.model` is a hub name that has been fetched.

    Returns:
        The chain that the policy will sample; `None` if the model is still on the hub, which is then only checked when
        it is loaded.

    Raises:
        FileNotFoundError: If something is not there.
        ValueError: If the model is of another kind, damaged, or does not fit the config.
    """
    if folder is None:
        if not is_local(config.model):
            return None
        folder = local_folder(config.model)
    _check_index(folder, config.variant)
    unet = _check_networks(folder, config.variant)
    _check_lora_targets(unet, config.lora_targets)
    if config.init_lora is not None and is_local(config.init_lora):
        shape = (config.lora_rank, config.lora_alpha, config.lora_targets)
        with torch.device("meta"):
            add_adapter(unet, "initial", *shape)
        initial_adapter(config.init_lora, unet, "initial", *shape)
    try:
        return make_transitions(read_scheduler(str(folder)), config.steps, config.sampler, config.eta)
    except ValueError as error:
        said = str(error).rstrip(".")
        raise ValueError(f"{said}." if str(folder) in said else f"{said} (the model is {folder}).") from error


def latent_shape(unet: UNet2DConditionModel) -> tuple[int, int, int]:
    """(C, H, W) of a UNet's states.

    Raises:
        ValueError: If its config says no size.
    """
    size = unet.config.sample_size
    height, width = size if isinstance(size, Sequence) and len(size) == 2 else (size, size)
    if not all(type(side) is int and 0 < side <= _LARGEST for side in (height, width)):
        raise ValueError(
            f"The UNet's sample_size is {size!r}; the model's unet/config.json must say the side of its latents, or "
            "their height and width."
        )
    return unet.config.in_channels, height, width


def _check_index(folder: Path, variant: str | None) -> None:
    index = read_json(folder / "model_index.json")
    found = index.get("_class_name")
    if found != PIPELINE:
        raise ValueError(
            f"The model {folder} is a {found}, but only the {PIPELINE} (Stable Diffusion 1 and 2, text to image) is "
            "known; set policy.model to one."
        )
    for name, (library, *classes) in _COMPONENTS.items():
        entry = index.get(name) or [None, None]
        origin, component = entry if isinstance(entry, list) and len(entry) == 2 else (library, entry)
        if component not in classes or origin != library:
            is_what = "has none" if component is None else f"has a {component} of {origin}"
            raise ValueError(f"The model {folder} needs a {classes[0]} as its {name}, but {is_what}.")
    for name, (module, base) in _OPTIONAL.items():
        if not _names_class(entry := index.get(name, [None, None]), module, base):
            raise ValueError(
                f"The model {folder} has a model_index.json that says {str(entry)[:80]} of its {name}, which is no "
                "library and class; download or save the model again."
            )
    if index.get("image_encoder", [None, None]) != [None, None]:
        read_json(folder / "image_encoder" / "config.json")
        tensor_shapes(folder / "image_encoder", TRANSFORMERS, variant)


def _names_class(entry: Any, module: Any, base: type) -> bool:
    """Whether an entry names nothing, or a class of a library; which one does not matter where there is no module."""
    if not isinstance(entry, list) or len(entry) != 2:
        return False
    if module is None or entry == [None, None]:
        return True
    made = getattr(module, str(entry[1]), None)
    return entry[0] == module.__name__ and isinstance(made, type) and issubclass(made, base)


def _check_networks(folder: Path, variant: str | None) -> UNet2DConditionModel:
    if variant and not any(variant in variants(folder / name, stems) for name, stems in STEMS.items()):
        there = sorted({found for name, stems in STEMS.items() for found in variants(folder / name, stems)})
        raise FileNotFoundError(
            f"The model {folder} has no weights of policy.variant={variant}; it has "
            f"{' and '.join(there) or 'only those without a variant'}."
        )
    with torch.device("meta"):
        unet = _made(folder / "unet", UNet2DConditionModel.from_config)
        vae = _made(folder / "vae", AutoencoderKL.from_config)
        text = _made(folder / "text_encoder", lambda config: CLIPTextModel(CLIPTextConfig.from_dict(config)))
    _check_inputs(folder, unet, vae, text)
    for name, network in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        found: dict[str, Any] = dict(tensor_shapes(folder / name, STEMS[name], variant))
        if name != "text_encoder":
            network._fix_state_dict_keys_on_load(found)  # names of old checkpoints, as diffusers reads them
        _check_tensors(folder / name, network, found)
    _check_tokenizer(folder, text.config)
    return unet


def _made(folder: Path, make: Any) -> Any:
    config = read_json(folder / "config.json")
    if config.get("quantization_config") is not None:
        raise ValueError(f"The model's {folder} is quantized, which is not known; take the model's plain weights.")
    try:
        return make(config)
    except Exception as error:  # whatever a constructor does with values that make no network
        reason = " ".join(str(error).split())
        raise ValueError(
            f"The model's {folder}/config.json describes no network that can be built ({reason})."
        ) from error


def _check_inputs(folder: Path, unet: UNet2DConditionModel, vae: AutoencoderKL, text: CLIPTextModel) -> None:
    ins, outs, latents = unet.config.in_channels, unet.config.out_channels, vae.config.latent_channels
    if ins != latents:
        raise ValueError(
            f"The model {folder} has a UNet of {ins} input channels where its VAE gives latents of {latents}: it "
            "inpaints, edits or upscales pictures, and only text to image is known."
        )
    if outs != ins:
        raise ValueError(
            f"The model {folder} has a UNet that gives {outs} channels for latents of {ins}; only predictions of the "
            "noise or the velocity, without a variance, are known."
        )
    if (vae.config.in_channels, vae.config.out_channels) != (3, 3):
        raise ValueError(f"The model {folder} has a VAE that does not decode to pictures of 3 channels.")
    scale = vae.config.scaling_factor
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale) or scale == 0:
        raise ValueError(
            f"The model {folder} has a VAE whose scaling_factor is {scale!r}, which latents cannot be divided by; look "
            "at its vae/config.json."
        )
    for key, whose in _CONDITIONING.items():
        if unet.config.get(key) is not None:
            raise ValueError(
                f"The model {folder} has a UNet that asks for {whose} ({key}={unet.config[key]!r}), which this policy "
                "does not give; set policy.model to a Stable Diffusion 1 or 2 model."
            )
    width, widths = text.config.hidden_size, unet.config.cross_attention_dim
    if set(widths if isinstance(widths, (list, tuple)) else (widths,)) != {width}:
        raise ValueError(
            f"The model {folder} has a text encoder of width {width} where its UNet attends to {widths}; they are of "
            "different models."
        )
    latent_shape(unet)


def _check_tensors(folder: Path, network: nn.Module, found: Mapping[str, tuple[int, ...]]) -> None:
    expected = {plain_name(name): tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {plain_name(name): shape for name, shape in found.items() if not name.endswith("position_ids")}
    problems = (
        ("lack", sorted(expected.keys() - given.keys())),
        ("hold what config.json does not describe:", sorted(given.keys() - expected.keys())),
        ("hold another shape of", sorted(n for n in expected.keys() & given.keys() if expected[n] != given[n])),
    )
    for what, names in problems:
        if names:
            raise ValueError(
                f"The model's weights in {folder} {what} {names[0]}"
                + (f" and {len(names) - 1} more of {len(expected)} tensors" if len(names) > 1 else "")
                + "; config.json and weights are of different models, or the model was not saved whole."
            )


def _check_tokenizer(folder: Path, text: CLIPTextConfig) -> None:
    place = folder / "tokenizer"
    files = {name: place / name for name in ("tokenizer.json", "vocab.json", "merges.txt")}
    there = {name for name, path in files.items() if path.is_file()}
    for name in there:
        refuse_pointer(files[name])
    if "tokenizer.json" not in there and not {"vocab.json", "merges.txt"} <= there:
        raise FileNotFoundError(
            f"The model's {place} has no vocabulary (tokenizer.json, or vocab.json and merges.txt), so all prompts "
            "would mean the same; download or save the model again."
        )
    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(place))
        ids = tokenizer([f"{letter} " * 3 for letter in "abcdefgh"]).input_ids
    except Exception as error:  # whatever a tokenizer does with files that are torn
        reason = " ".join(str(error).split())
        raise ValueError(f"The model's {place} cannot be read ({reason}); download or save the model again.") from error
    if len({tuple(row) for row in ids}) == 1:
        raise ValueError(f"The model's {place} knows no letters, so all prompts would mean the same; fetch it again.")
    if len(tokenizer) > text.vocab_size:
        raise ValueError(
            f"The model's {place} has {len(tokenizer)} tokens and its text encoder knows {text.vocab_size}; they are "
            "of different models."
        )
    if tokenizer.model_max_length < _FEWEST:
        raise ValueError(
            f"The model's {place} makes at most {tokenizer.model_max_length} tokens, so all prompts would mean the "
            "same; set model_max_length in its tokenizer_config.json."
        )
    if tokenizer.model_max_length > text.max_position_embeddings:
        raise ValueError(
            f"The model's {place} makes up to {tokenizer.model_max_length} tokens where its text encoder takes "
            f"{text.max_position_embeddings}; set model_max_length in its tokenizer_config.json."
        )


def _check_lora_targets(unet: UNet2DConditionModel, targets: Sequence[str]) -> None:
    modules = dict(unet.named_modules())
    layers = {name for name, module in modules.items() if isinstance(module, (nn.Linear, nn.Conv2d))}
    for target in targets:
        hit = {name for name in modules if name == target or name.endswith(f".{target}")}
        if hit and hit <= layers:
            continue
        known = sorted({target_name(name) for name in layers})
        near = difflib.get_close_matches(target, known, n=3, cutoff=0.5) or known
        raise ValueError(
            f"policy.lora_targets names {target!r}, but the UNet has no linear or convolutional layers of that name; "
            f"there are {', '.join(near)}."
        )
