"""Full fine-tuning: float32 copies of all weights of a denoiser, of which one takes the place of the pretrained ones.

What an adapter does with a few numbers a copy does with all: memory, optimizer and every publication are as large as
the network. So this is for small ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from actors.adapters import AdapterTensors
from actors.config import PolicyConfig
from actors.families.parts import check_weights
from actors.finite import check_finite
from actors.model_files import DIFFUSERS, read_json

FOLDER = "denoiser"  # of a checkpoint; diffusers reads it
FILE = f"{DIFFUSERS['safetensors']}.safetensors"  # in that folder
_ALL_IN_ONE = "1TB"


class FullWeights:
    """Copies of all parameters of a denoiser; see `Variants`.

    A copy's parameters themselves are put into the layers, so that a graph keeps those that it was built with, whoever
    acts when it is gone back through.

    Args:
        network: The denoiser, float32 and frozen.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        self._pretrained = dict(network.named_parameters())
        names = {id(parameter): name for name, parameter in self._pretrained.items()}
        self._places = [
            (module, key, names[id(parameter)])
            for module in network.modules()
            for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
        ]
        self._copies: dict[str, dict[str, nn.Parameter]] = {}
        self._acting = self._pretrained

    @property
    def names(self) -> Sequence[str]:
        """See `Variants`."""
        return list(self._copies)

    def add(self, name: str) -> None:
        """See `Variants`."""
        pretrained = self._pretrained.items()
        self._copies[name] = {key: nn.Parameter(parameter.detach().clone()) for key, parameter in pretrained}
        self._put(self._copies[name])

    def use(self, name: str | None, *, trained: str) -> None:
        """See `Variants`."""
        self._put(self._pretrained if name is None else self._copies[name])
        for other, copy in self._copies.items():
            for parameter in copy.values():
                parameter.requires_grad_(other == trained)

    def _put(self, parameters: dict[str, nn.Parameter]) -> None:
        for module, key, name in self._places:
            setattr(module, key, parameters[name])
        self._acting = parameters

    def parameters(self, name: str) -> list[tuple[str, nn.Parameter]]:
        """See `Variants`."""
        return sorted(self._copies[name].items())

    def write(self, folder: Path, name: str) -> None:
        """See `Variants`; a folder with its config, for diffusers' `from_pretrained`."""
        acting = self._acting
        self._put(self._copies[name])
        self._network.save_pretrained(folder / FOLDER, max_shard_size=_ALL_IN_ONE)
        self._put(acting)

    def read(self, folder: Path) -> AdapterTensors:
        """See `Variants`."""
        return read_network(folder / FOLDER, self._network)


def read_network(folder: Path, network: Any) -> AdapterTensors:
    """The weights, float32 by name, in a folder that `save_pretrained` of such a network wrote.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If they cannot be read, are of another network, or one is NaN or infinite.
    """
    check_network(folder, network)
    found = type(network).from_pretrained(folder, dtype=torch.float32)
    check_finite({folder.name: found}, folder.parent, {folder.name: DIFFUSERS}, None)
    return dict(found.named_parameters())


def check_network(folder: Path, network: Any) -> None:
    """Refuse a folder that `save_pretrained` of such a network cannot have written, by its files' headers.

    Raises:
        FileNotFoundError: If something is not there.
        ValueError: If it is of another network; both in one sentence.
    """
    kind = read_json(folder / "config.json").get("_class_name")
    if kind != type(network).__name__:
        raise ValueError(f"The denoiser in {folder} is a {kind}, but the model's is a {type(network).__name__}.")
    check_weights(folder, network, DIFFUSERS, None)


def check_full(config: PolicyConfig, network: nn.Module) -> None:
    """Refuse settings that do not go with `policy.train`.

    Args:
        config: The policy's.
        network: Its denoiser without adapters; weights are not looked at, so they may be on the meta device.

    Raises:
        FileNotFoundError: If there is no `init_weights`.
        ValueError: In one sentence.
    """
    if config.train == "lora":
        if config.init_weights is not None:
            raise ValueError(
                "policy.init_weights does nothing where policy.train is lora; set policy.train=full, or "
                "policy.model to a whole pipeline with these weights (cluster.export --format merged)."
            )
        return
    of_adapters = ("init_lora", "lora_rank", "lora_alpha", "lora_targets")
    if given := [f"policy.{name}" for name in of_adapters if getattr(config, name) is not None]:
        raise ValueError(
            f"Without adapters (policy.train=full) nothing is made of {' and '.join(given)}; set "
            f"{' '.join(f'{name}=null' for name in given)}, or policy.train=lora."
        )
    if config.dtype not in ("auto", "float32"):
        raise ValueError(
            f"policy.dtype is {config.dtype}, but policy.train=full trains all weights, and in float32; leave it auto, "
            "or set policy.train=lora."
        )
    if config.init_weights is not None:
        folder = Path(config.init_weights)
        if not (folder / "config.json").is_file():
            inside = f"; take {folder / FOLDER}" if (folder / FOLDER / "config.json").is_file() else ""
            raise FileNotFoundError(
                f"There is no denoiser in {folder} (policy.init_weights): no config.json of save_pretrained{inside}."
            )
        check_network(folder, network)
