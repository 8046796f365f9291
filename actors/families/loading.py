"""Loading a pipeline for any family: its networks frozen, checked, as thrifty as the config asks, and where it says."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from actors.config import PolicyConfig
from actors.families.parts import made
from actors.finite import check_finite
from actors.model_files import read_json
from actors.quantising import quantisation

Stems = Mapping[str, dict[str, str]]


def load_pipeline(
    kind: type[diffusers.DiffusionPipeline],
    folder: Path,
    config: PolicyConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    stems: Stems,
    vae_dtype: torch.dtype | None = None,
    **given: Any,
) -> Any:
    """A pipeline of a folder, with its networks in evaluation mode, without gradients.

    The denoiser is on the device, text encoders are there or on the CPU as `policy.encoders` says (prompts are encoded
    where they are), and the VAE is on the CPU until the family moves it at its first use: most learners never use it.

    Args:
        kind: The pipeline's class.
        folder: That the family's `check` lets pass.
        config: Of the policy.
        device: Of the denoiser; the meta device makes networks without weights, of which the size can be told.
        dtype: Of the networks.
        stems: Names of the weights by suffix, of each network that the family uses, by its name in the pipeline.
        vae_dtype: Of the VAE; `None`: that of the others.
        given: Components that are not to be read from the folder, and other arguments of the pipeline.

    Raises:
        ValueError: If a weight is NaN or infinite.
    """
    dtypes = {"default": dtype, "vae": vae_dtype or dtype}
    if device.type == "meta":
        blanks = {name: _blank(folder, name, dtypes.get(name, dtype)) for name in _components(folder, given)}
        pipeline = kind(**blanks | given)
    else:
        if config.quantise is not None:
            given["quantization_config"] = quantisation(config.quantise, _denoiser(stems), dtype)
        pipeline = kind.from_pretrained(folder, variant=config.variant, dtype=dtypes, **given)
        check_finite({name: getattr(pipeline, name) for name in stems}, folder, stems, config.variant)
    for name in stems:
        network = getattr(pipeline, name).eval().requires_grad_(False)
        if name == "vae":
            _spare(network, config)
        elif not (name.startswith("text_encoder") and config.encoders == "cpu"):
            network.to(device)
    return pipeline


def _denoiser(stems: Stems) -> str:
    return next(name for name in stems if name in ("unet", "transformer"))


def _spare(vae: Any, config: PolicyConfig) -> None:
    if config.vae_slicing:
        vae.enable_slicing()
    if config.vae_tiling:
        vae.enable_tiling()
    if config.checkpointing:
        vae.enable_gradient_checkpointing()


def _components(folder: Path, given: Mapping[str, Any]) -> list[str]:
    index = read_json(folder / "model_index.json")
    return [name for name, entry in index.items() if isinstance(entry, list) and entry[0] and name not in given]


def _blank(folder: Path, name: str, dtype: torch.dtype) -> Any:
    """A component without its weights, or one that has none."""
    library, kind = read_json(folder / "model_index.json")[name]
    made_of: Any = getattr(import_module(library), kind)
    if issubclass(made_of, diffusers.ModelMixin):
        return nn.Module.to(made(folder / name, made_of.from_config), dtype)  # diffusers' own warns of nothing
    if issubclass(made_of, transformers.PreTrainedModel):
        return made(folder / name, lambda values: made_of(made_of.config_class.from_dict(values))).to(dtype)
    return made_of.from_pretrained(folder / name)
