"""LoRA adapters of a denoiser: adding one, acting as one, its parameters, and its file: the same bytes every time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from actors.finite import not_finite
from actors.folded import FoldedLinear

FILE = "pytorch_lora_weights.safetensors"  # as diffusers calls it

AdapterTensors = Mapping[str, Tensor]  # by the parameter's name in the network, without the adapter's


class LoraShape(NamedTuple):
    """What an adapter is like."""

    rank: int
    alpha: float  # its output is scaled by alpha / rank
    targets: tuple[str, ...]  # names of the layers that it adapts, or how they end


DEFAULT = LoraShape(4, 4, ("to_q", "to_k", "to_v", "to_out.0"))  # DDPO's and diffusers'


class Adapters:
    """The adapters of a denoiser; see `actors.variants.Variants`.

    Args:
        network: The denoiser.
        shape: What each of them is like.
        part: What its pipeline calls it, such as `unet`.
    """

    def __init__(self, network: Any, shape: LoraShape, part: str) -> None:
        self._network, self._shape, self._part = network, shape, part

    @property
    def names(self) -> Sequence[str]:
        """See `Variants`."""
        return list(self._network.peft_config)

    def add(self, name: str) -> None:
        """See `Variants`."""
        add_adapter(self._network, name, self._shape)

    def use(self, name: str | None, *, trained: str) -> None:
        """See `Variants`."""
        use_adapter(self._network, name, trained=trained)

    def parameters(self, name: str) -> list[tuple[str, nn.Parameter]]:
        """See `Variants`."""
        return adapter_parameters(self._network, name)

    def write(self, folder: Path, name: str) -> None:
        """See `Variants`; the file is `FILE`."""
        tensors = {key: parameter.detach() for key, parameter in self.parameters(name)}
        write_adapter(folder, tensors, self._network.peft_config[name], self._part)

    def read(self, folder: Path) -> AdapterTensors:
        """See `Variants`."""
        return read_adapter(folder, self._part)


def add_adapter(network: Any, name: str, shape: LoraShape) -> None:
    """Add a fresh adapter, which changes nothing; its parameters are float32 whatever the base is."""
    rank, alpha, targets = shape
    scale: Any = alpha  # peft takes any number, and says int
    config = LoraConfig(r=rank, lora_alpha=scale, init_lora_weights="gaussian", target_modules=list(targets))
    linear = [type(module) for module in network.modules() if isinstance(module, nn.Linear)]
    if all(kind is nn.Linear for kind in linear):  # quantised layers are others, for which peft has forms of its own
        config._register_custom_module({nn.Linear: FoldedLinear})
    network.add_adapter(config, adapter_name=name)
    for _, parameter in adapter_parameters(network, name):
        parameter.data = parameter.data.float()


def use_adapter(network: Any, name: str | None, *, trained: str) -> None:
    """Let an adapter act, or none; whether a graph is built is left alone.

    Args:
        network: That has the adapters.
        name: Of the one that is to act; `None` turns all off.
        trained: The only one whose parameters take gradients, whoever acts.
    """
    if name is None:
        network.disable_adapters()
    else:
        network.enable_adapters()
        network.set_adapter(name)
    for other in network.peft_config:  # peft's own switches toggle gradients
        for _, parameter in adapter_parameters(network, other):
            parameter.requires_grad_(other == trained)


def target_name(layer: str) -> str:
    """What `lora_targets` call a layer: the last part of its name, with the part before where it counts."""
    *_, parent, last = ["", *layer.split(".")]
    return f"{parent}.{last}" if last.isdigit() else last


def adapter_parameters(network: Any, name: str) -> list[tuple[str, nn.Parameter]]:
    """An adapter's parameters by name, sorted."""
    marker = f".{name}."
    return sorted(
        (parameter_name.replace(marker, "."), parameter)
        for parameter_name, parameter in network.named_parameters()
        if "lora_" in parameter_name and marker in parameter_name
    )


def write_adapter(folder: Path, tensors: AdapterTensors, config: LoraConfig, part: str) -> None:
    """Write an adapter of a pipeline's part, such as `unet`, as `FILE`.

    diffusers' `load_lora_weights(folder)` reads it with its rank and alpha.

    The same adapter gives the same bytes: the file's header lists its metadata in no fixed order, so there is one entry
    only, and what peft keeps in sets is sorted.
    """
    settings = {
        f"{part}.{key}": sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {f"{part}.{name}": tensor.contiguous() for name, tensor in tensors.items()},
        folder / FILE,
        metadata={LORA_ADAPTER_METADATA_KEY: json.dumps(settings, sort_keys=True)},
    )


def read_adapter(folder: Path, part: str) -> AdapterTensors:
    """What `write_adapter` wrote into a folder; of its other files none is looked at.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it cannot be read.
    """
    tensors = read_tensors(folder / FILE)
    return {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items()}


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it cannot be read, or holds NaN or infinity.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no adapter {file}.")
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"The adapter {file} cannot be read ({' '.join(str(error).split())}).") from error
    if (name := not_finite(tensors)) is not None:
        raise ValueError(f"The adapter {file} holds NaN or infinity in {name}, so it would draw nothing.")
    return tensors


def check_same(found: AdapterTensors, own: AdapterTensors) -> None:
    """Raises `ValueError` if names or shapes of an adapter are not those of the policy's own."""
    shapes, expected = ({name: tuple(t.shape) for name, t in tensors.items()} for tensors in (found, own))
    if shapes != expected:
        name = min(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
        raise ValueError(
            f"The adapter is of another policy than this: {name} has the shape {shapes.get(name)} where "
            f"{expected.get(name)} is expected; model, lora_rank and lora_targets must be those of its training."
        )


def copy_into(network: Any, name: str, tensors: AdapterTensors) -> None:
    """Overwrite an adapter.

    Raises:
        ValueError: If the tensors are of another adapter; nothing is changed then.
    """
    overwrite(adapter_parameters(network, name), tensors)


@torch.no_grad()
def overwrite(parameters: Sequence[tuple[str, nn.Parameter]], tensors: AdapterTensors) -> None:
    """Overwrite parameters by name; raises as `copy_into`."""
    check_same(tensors, dict(parameters))
    for name, parameter in parameters:
        parameter.copy_(tensors[name])
