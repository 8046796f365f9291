"""An adapter of someone's to start from: found, read in every format that diffusers reads, and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from huggingface_hub import hf_hub_download
from safetensors import safe_open
from torch import Tensor

from actors.adapters import FILE, AdapterTensors, adapter_parameters, read_tensors, target_name
from actors.families.family import Family
from actors.model_files import is_local


def initial_adapter(
    source: str, family: type[Family], network: Any, name: str, rank: int, alpha: int, targets: Sequence[str]
) -> AdapterTensors:
    """The tensors of an adapter, as those of the adapter `name` of this network.

    An alpha other than `alpha` is folded into the second factor, so that the product is the same.

    Args:
        source: A safetensors file, a folder with one, or a hub name.
        family: Of the model.
        network: Its denoiser, with the adapter; weights are not looked at, so they may be on the meta device.
        name: Of the adapter that these will overwrite.
        rank: That it has.
        alpha: That it has.
        targets: Which layers it adapts, as the config names them.

    Raises:
        FileNotFoundError: If there is no such adapter.
        ValueError: If it cannot be read, or is of another kind, rank, model or set of layers.
    """
    file = _find(source)
    given, alphas, settings = _read(file, family, network)
    prefix = f"{family.part}."
    if others := sorted({key.split(".")[0] for key in given if not key.startswith(prefix)}):
        raise ValueError(
            f"The adapter {file} (policy.init_lora) adapts {' and '.join(others)} too, but this policy adapts the "
            f"{family.part} alone; save that part alone."
        )
    tensors = {key.removeprefix(prefix): t for key, t in given.items()}
    own = {key: tuple(parameter.shape) for key, parameter in adapter_parameters(network, name)}
    _check_kind(file, tensors, settings)
    if (ranks := {t.shape[0] for key, t in tensors.items() if ".lora_A." in key}) != {rank}:
        wanted = f"set policy.lora_rank={ranks.pop()}" if len(ranks) == 1 else "only one rank for all is known"
        raise ValueError(f"The adapter {file} (policy.init_lora) is not of policy.lora_rank={rank}; {wanted}.")
    if tensors.keys() != own.keys():
        layers = {module for key in tensors if (module := key.split(".lora_")[0])}
        raise ValueError(
            f"The adapter {file} (policy.init_lora) adapts other layers than policy.lora_targets={list(targets)} are; "
            f"those that it adapts are called {', '.join(sorted({target_name(layer) for layer in layers}))}."
        )
    if wrong := sorted(key for key in own if tuple(tensors[key].shape) != own[key]):
        raise ValueError(
            f"The adapter {file} (policy.init_lora) is of another base model: {wrong[0]} has the shape "
            f"{tuple(tensors[wrong[0]].shape)} where {own[wrong[0]]} is expected."
        )

    def factor(key: str) -> float:
        of_file = alphas.get(key.split(".lora_")[0], settings.get("lora_alpha", rank))
        return of_file / alpha if ".lora_B." in key else 1.0

    return {key: t.float() * factor(key) for key, t in tensors.items()}


def _find(source: str) -> Path:
    path = Path(source).expanduser()
    if not is_local(source):
        try:
            return Path(hf_hub_download(source, FILE))
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"policy.init_lora={source} is no file here, and no {FILE} of it can be had from the hub "
                f"({' '.join(str(error).split())})."
            ) from error
    if path.is_dir():
        if (path / FILE).is_file():
            return path / FILE
        there = sorted(path.glob("*.safetensors"))
        if len(there) != 1:
            raise FileNotFoundError(
                f"policy.init_lora={source} is a folder with {len(there)} safetensors files and no {FILE}; name a file."
            )
        return there[0]
    if not path.is_file():
        raise FileNotFoundError(f"There is no adapter {path.absolute()} (policy.init_lora).")
    return path


def _read(
    file: Path, family: type[Family], network: Any
) -> tuple[dict[str, Tensor], Mapping[str, float], Mapping[str, Any]]:
    """Tensors with their parts' prefixes, each layer's alpha if the file has them, and the settings in its metadata."""
    tensors, prefix = read_tensors(file), f"{family.part}."
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = json.loads((opened.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY, "{}"))
        state, alphas = family.read_lora(tensors, network)
    except Exception as error:  # whatever the conversion of another format stumbles over
        reason = " ".join(str(error).split())
        raise ValueError(
            f"The adapter {file} (policy.init_lora) is in no format that diffusers reads ({reason})."
        ) from error
    settings = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    return state, alphas, settings


def _check_kind(file: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
    strange = [key for key in tensors if not key.endswith((".lora_A.weight", ".lora_B.weight"))]
    unusual = [key for key in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern") if settings.get(key)]
    if strange or unusual or not tensors:
        what = f"{strange[0]} is in it" if strange else f"it has {unusual[0]}" if unusual else "it has no tensors"
        raise ValueError(f"The adapter {file} (policy.init_lora) is no plain LoRA of the denoiser ({what}).")
