"""An adapter of someone's to start from: found, read in every format that diffusers and peft read, and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from huggingface_hub import hf_hub_download
from safetensors import safe_open
from torch import nn

from actors.adapters import DEFAULT, FILE, AdapterTensors, LoraShape, adapter_parameters, read_tensors, target_name
from actors.config import PolicyConfig
from actors.families.family import Family
from actors.model_files import is_local

_PEFT = "base_model.model."  # begins the names in peft's own files, whose settings lie in another beside them


def lora_shape(config: PolicyConfig, family: type[Family] | Family, network: Any) -> LoraShape:
    """What the policy's adapters are like: as the config says, and where it says nothing as `init_lora`, or `DEFAULT`.

    Args:
        config: Of the policy.
        family: Of the model.
        network: Its denoiser without adapters; weights are not looked at, so they may be on the meta device.

    Raises:
        FileNotFoundError: If there is no such adapter.
        ValueError: If it cannot be read, is no plain LoRA of this denoiser, or has several ranks.
    """
    found = DEFAULT
    if config.init_lora is not None and None in (config.lora_rank, config.lora_alpha, config.lora_targets):
        file = find_adapter(config.init_lora)
        tensors, alphas, settings = _read(file, family, network)
        rank = _rank(file, tensors)
        of_layers = {alphas.get(layer, settings.get("lora_alpha", rank)) for layer in _layers(tensors)}
        alpha = of_layers.pop() if len(of_layers) == 1 else rank  # where they differ, each is folded in
        found = LoraShape(rank, int(alpha) if alpha == int(alpha) else alpha, _targets(file, tensors, network))
    return LoraShape(
        found.rank if config.lora_rank is None else config.lora_rank,
        found.alpha if config.lora_alpha is None else config.lora_alpha,
        found.targets if config.lora_targets is None else config.lora_targets,
    )


def initial_adapter(source: str, family: type[Family], network: Any, name: str, shape: LoraShape) -> AdapterTensors:
    """The tensors of an adapter, as those of the adapter `name` of this network.

    An alpha other than the shape's is folded into the second factor, so that the product is the same.

    Args:
        source: A safetensors file, a folder with one, or a hub name.
        family: Of the model.
        network: Its denoiser, with the adapter; weights are not looked at, so they may be on the meta device.
        name: Of the adapter that these will overwrite.
        shape: What that is like.

    Raises:
        FileNotFoundError: If there is no such adapter.
        ValueError: If it cannot be read, or is of another kind, rank, model or set of layers.
    """
    file = find_adapter(source)
    tensors, alphas, settings = _read(file, family, network)
    own = {key: tuple(parameter.shape) for key, parameter in adapter_parameters(network, name)}
    if (found := _rank(file, tensors)) != shape.rank:
        raise ValueError(
            f"The adapter {file} (policy.init_lora) is not of policy.lora_rank={shape.rank}; set "
            f"policy.lora_rank={found}, or null, which takes the file's."
        )
    if tensors.keys() != own.keys():
        names = sorted({target_name(layer) for layer in _layers(tensors)})
        raise ValueError(
            f"The adapter {file} (policy.init_lora) adapts other layers than policy.lora_targets={list(shape.targets)} "
            f"are; those that it adapts are called {', '.join(names)} (null takes the file's)."
        )
    if wrong := sorted(key for key in own if tuple(tensors[key].shape) != own[key]):
        raise ValueError(
            f"The adapter {file} (policy.init_lora) is of another base model: {wrong[0]} has the shape "
            f"{tuple(tensors[wrong[0]].shape)} where {own[wrong[0]]} is expected."
        )

    def factor(key: str) -> float:
        of_file = alphas.get(key.split(".lora_")[0], settings.get("lora_alpha", shape.rank))
        return of_file / shape.alpha if ".lora_B." in key else 1.0

    return {key: t.float() * factor(key) for key, t in tensors.items()}


def find_adapter(source: str) -> Path:
    """The file of an adapter: itself, the one in a folder, or a hub's, which is fetched unless it has been.

    Raises:
        FileNotFoundError: If there is none.
    """
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
    file: Path, family: type[Family] | Family, network: Any
) -> tuple[AdapterTensors, Mapping[str, float], Mapping[str, Any]]:
    """The denoiser's tensors, the alpha of each layer that has one, and the settings in the file's metadata."""
    given, prefix = read_tensors(file), f"{family.part}."
    if strange := [name for name in given if "dora_scale" in name or "lora_magnitude_vector" in name]:
        raise ValueError(
            f"The adapter {file} (policy.init_lora) is no plain LoRA of the denoiser ({strange[0]} is in it)."
        )
    try:
        if given and all(name.startswith(_PEFT) for name in given):
            given = {f"{prefix}{name.removeprefix(_PEFT)}": tensor for name, tensor in given.items()}
            settings = json.loads((file.parent / "adapter_config.json").read_text(encoding="utf-8"))
            if not isinstance(settings, dict):
                raise ValueError("its adapter_config.json holds no values by name")
        else:
            with safe_open(file, framework="pt") as opened:
                metadata = json.loads((opened.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY, "{}"))
            settings = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
        state, alphas = family.read_lora(given, network)
    except Exception as error:  # whatever the conversion of another format stumbles over
        reason = " ".join(str(error).split())
        raise ValueError(
            f"The adapter {file} (policy.init_lora) is in no format that is known here ({reason})."
        ) from error
    if others := sorted({key.split(".")[0] for key in state if not key.startswith(prefix)}):
        raise ValueError(
            f"The adapter {file} (policy.init_lora) adapts {' and '.join(others)} too, but this policy adapts the "
            f"{family.part} alone; save that part alone."
        )
    tensors = {key.removeprefix(prefix): t for key, t in state.items()}
    _check_kind(file, tensors, settings)
    for alpha in (*alphas.values(), settings.get("lora_alpha", 1)):
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < abs(alpha) < math.inf:
            raise ValueError(
                f"The adapter {file} (policy.init_lora) has the alpha {alpha!r}, which leaves nothing of it; save it "
                "with a number other than 0."
            )
    return tensors, alphas, settings


def _check_kind(file: Path, tensors: AdapterTensors, settings: Mapping[str, Any]) -> None:
    strange = [key for key in tensors if not key.endswith((".lora_A.weight", ".lora_B.weight"))]
    unusual = [key for key in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern") if settings.get(key)]
    if strange or unusual or not tensors:
        what = f"{strange[0]} is in it" if strange else f"it has {unusual[0]}" if unusual else "it has no tensors"
        raise ValueError(f"The adapter {file} (policy.init_lora) is no plain LoRA of the denoiser ({what}).")


def _layers(tensors: AdapterTensors) -> set[str]:
    return {key.split(".lora_")[0] for key in tensors}


def _rank(file: Path, tensors: AdapterTensors) -> int:
    ranks = {t.shape[0] for key, t in tensors.items() if key.endswith(".lora_A.weight")}
    if len(ranks) != 1:
        raise ValueError(
            f"The adapter {file} (policy.init_lora) has layers of the ranks {sorted(ranks)}; only one rank for all is "
            "known."
        )
    return ranks.pop()


def _targets(file: Path, tensors: AdapterTensors, network: Any) -> tuple[str, ...]:
    """What to call the layers: by the ends of their names if no other layer has such, else by their whole names."""
    layers = _layers(tensors)
    there = {name for name, module in network.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    if strange := sorted(layers - there):
        raise ValueError(
            f"The adapter {file} (policy.init_lora) is of another base model: it adapts {strange[0]}, which this one "
            "does not have."
        )
    names = {target_name(layer) for layer in layers}
    hit = {name for name in there if any(name == end or name.endswith(f".{end}") for end in names)}
    return tuple(sorted(names if hit == layers else layers))
