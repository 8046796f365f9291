"""A policy's adapter, or its denoiser with the adapter in it, as other libraries read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from actors.adapters import AdapterTensors, LoraShape, add_adapter, copy_into, write_adapter
from actors.config import PolicyConfig
from actors.families.family import Family
from actors.initial_adapter import initial_adapter, lora_shape
from actors.model_check import check_model, find_family
from actors.model_files import fetch, read_json

_NAME = "exported"


@dataclass(frozen=True)
class Adapter:
    """An adapter that is to be handed on.

    Args:
        family: Of its model.
        folder: Of its model.
        variant: Of its model's weights.
        kind: Class of the denoiser.
        shape: What it is like.
        tensors: float32, by the parameter's name in the denoiser.
    """

    family: type[Family]
    folder: Path
    variant: str | None
    kind: type[nn.Module]
    shape: LoraShape
    tensors: AdapterTensors

    @classmethod
    def of(cls, config: PolicyConfig) -> Adapter:
        """The adapter that a policy starts from, `init_lora`, read without the weights of its model.

        Raises:
            FileNotFoundError: If model or adapter are not there.
            ValueError: If one of them cannot be read, or they do not fit each other.
        """
        assert config.init_lora is not None
        folder = fetch(config.model, config.variant)
        family = find_family(folder)
        network = family.check(folder, config)
        shape = lora_shape(config, family, network)
        with torch.device("meta"):
            add_adapter(network, _NAME, shape)
        tensors = initial_adapter(config.init_lora, family, network, _NAME, shape)
        return cls(family, folder, config.variant, type(network), shape, tensors)

    @property
    def settings(self) -> LoraConfig:
        """What it is like, as peft has it."""
        alpha: Any = self.shape.alpha  # peft takes any number, and says int
        return LoraConfig(r=self.shape.rank, lora_alpha=alpha, target_modules=list(self.shape.targets))


def write_diffusers(adapter: Adapter, folder: Path, dtype: torch.dtype) -> None:
    """Write a folder that a pipeline's `load_lora_weights(folder)` reads, with rank and alpha."""
    write_adapter(folder, _cast(adapter.tensors, dtype), adapter.settings, adapter.family.part)


def write_peft(adapter: Adapter, folder: Path, dtype: torch.dtype) -> None:
    """Write a folder that `PeftModel.from_pretrained(denoiser, folder)` reads."""
    settings = adapter.settings
    settings.base_model_name_or_path, settings.inference_mode = str(adapter.folder), True
    settings.save_pretrained(str(folder))
    named = {f"base_model.model.{name}": tensor for name, tensor in _cast(adapter.tensors, dtype).items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def write_comfy(adapter: Adapter, file: Path, dtype: torch.dtype) -> None:
    """Write a file for ComfyUI: kohya's names for UNets, and diffusers' for transformers, which it reads too."""
    save_file(_cast(adapter.family.comfy(adapter.tensors, adapter.shape), dtype), file, metadata={"format": "pt"})


def merged_pipeline(adapter: Adapter, dtype: torch.dtype) -> DiffusionPipeline:
    """A whole pipeline whose denoiser has the adapter in its weights; they are added in float32."""
    kind: Any = adapter.kind
    part, source = adapter.family.part, str(adapter.folder)
    network = kind.from_pretrained(source, subfolder=part, variant=adapter.variant, dtype=torch.float32)
    add_adapter(network, _NAME, adapter.shape)
    copy_into(network, _NAME, adapter.tensors)
    network.fuse_lora()
    network.unload_lora()
    return _pipeline(part, network, adapter.folder, adapter.variant, dtype)


def full_pipeline(config: PolicyConfig, dtype: torch.dtype) -> DiffusionPipeline:
    """A whole pipeline with the denoiser `init_weights`.

    Raises:
        FileNotFoundError: If one of them is not there.
        ValueError: If one of them cannot be read, or they do not fit each other.
    """
    source = fetch(config.model, config.variant)
    family = find_family(source)
    kind: Any = type(family.check(source, config))
    check_model(config, source)
    network = kind.from_pretrained(config.init_weights, dtype=torch.float32)
    return _pipeline(family.part, network, source, config.variant, dtype)


def _pipeline(part: str, network: Any, source: Path, variant: str | None, dtype: torch.dtype) -> DiffusionPipeline:
    """The pipeline of a folder with another denoiser."""
    # A pipeline that was saved without an encoder, or fetched without its safety checker, is only loaded if it is told.
    absent = {
        name: None
        for name, entry in read_json(source / "model_index.json").items()
        if isinstance(entry, list) and (entry[0] is None or not (source / name).is_dir())
    }
    given = {part: nn.Module.to(network, dtype), **absent}  # diffusers' own warns of what it would keep
    return DiffusionPipeline.from_pretrained(str(source), variant=variant, dtype=dtype, **given)


def _cast(tensors: AdapterTensors, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
