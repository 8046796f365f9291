"""What a model must be so that a policy can drive it, read from its folder before anything is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from actors.adapters import add_adapter, target_name
from actors.config import PolicyConfig
from actors.families import FAMILIES, family_of
from actors.families.family import Family
from actors.full_weights import check_full
from actors.initial_adapter import initial_adapter, lora_shape
from actors.model_files import is_local, local_folder, read_json
from actors.transitions import Transitions, make_transitions


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
    family = find_family(folder)
    network = family.check(folder, config)
    _check_guidance(config)
    _check_windows(config, family, folder)
    if config.negative_prompt is not None:
        check_prompts(config, [config.negative_prompt], folder)
    check_full(config, network)
    if config.train == "lora":
        _check_lora(config, family, network)
    try:
        levels = family.noise_levels(folder, config)
        if config.shift is not None and levels.prediction != "velocity":
            raise ValueError(
                f"policy.shift is {config.shift:g}, but only a flow model's noise levels can be shifted; leave it "
                "null, and choose the training timesteps with policy.spacing."
            )
        return make_transitions(
            levels, config.solver, config.eta, config.noisy_steps, config.final_sigma, config.adapted_steps
        )
    except ValueError as error:
        said = str(error).rstrip(".")
        raise ValueError(f"{said}." if str(folder) in said else f"{said} (the model is {folder}).") from error


def partly_adapted(config: PolicyConfig) -> int | Literal["auto"] | None:
    """`policy.adapted_steps` where it leaves out steps of the chain, as a number; `None` where the adapter acts in all.

    Of a model that is still on the hub nobody knows what auto leaves out; then it is said as it is.

    Raises:
        FileNotFoundError, ValueError: As `check_model`, if the model has to be asked.
    """
    steps, length = config.adapted_steps, config.steps
    if steps == "auto" and (chain := check_model(config)) is not None:
        steps, length = chain.adapted_steps, len(chain)
    return None if steps == length else steps


def find_family(folder: Path) -> type[Family]:
    """The family of a pipeline's folder.

    Raises:
        FileNotFoundError: If it has no index.
        ValueError: If the pipeline is of no family that is known.
    """
    found = read_json(folder / "model_index.json").get("_class_name")
    if not isinstance(found, str) or found not in FAMILIES:
        raise ValueError(
            f"The model {folder} is a {found}, but only text to image by {', '.join(FAMILIES)} is known; set "
            "policy.model to one of these."
        )
    return family_of(found)


def check_prompts(config: PolicyConfig, prompts: Sequence[str], folder: Path | None = None) -> None:
    """Refuse prompts of which the text encoder would not read the end.

    Args:
        config: The policy's.
        prompts: Any number.
        folder: Where the model is, as for `check_model`; one that is still on the hub is not asked.

    Raises:
        FileNotFoundError: If the model is not there.
        ValueError: If a prompt fills more than `config.prompt_windows`.
    """
    if folder is None:
        if not is_local(config.model):
            return
        folder = local_folder(config.model)
    family = find_family(folder)
    counts, tokens = family.count_windows(folder, prompts)
    if not (long := [number for number, count in enumerate(counts) if count > config.prompt_windows]):
        return
    first = prompts[long[0]]
    others = f" and {len(long) - 1:,} more of {len(prompts):,} do" if len(long) > 1 else " does"
    most = family.most_windows(folder)
    raised = f"set policy.prompt_windows={max(counts)}, or " if max(counts) <= most else ""
    raise ValueError(
        f"The prompt {first[:60] + '...' if len(first) > 60 else first!r}{others} not fit into "
        f"{_windows(config.prompt_windows)} of the {tokens} tokens that the model's text encoder reads at once"
        f"{'' if raised else f', of which it can be told {most}'}; {raised}shorten what is longer."
    )


def reads_whole(config: PolicyConfig, prompts: Sequence[str], folder: Path) -> list[bool]:
    """Of which prompts the text encoder would read the end, see `check_prompts`."""
    family, tokens = find_family(folder), _tokens_of_window(folder)
    # No token of ASCII text is shorter than a letter, but for those at its ends.
    asked = list(dict.fromkeys(prompt for prompt in prompts if len(prompt) + 2 > tokens or not prompt.isascii()))
    counts = dict(zip(asked, family.count_windows(folder, asked)[0], strict=True)) if asked else {}
    return [counts.get(prompt, 1) <= config.prompt_windows for prompt in prompts]


@cache
def _tokens_of_window(folder: Path) -> int:
    return find_family(folder).count_windows(folder, [])[1]


def _windows(count: int) -> str:
    return f"{count} window{'s' if count > 1 else ''}"


def _check_windows(config: PolicyConfig, family: type[Family], folder: Path) -> None:
    if config.prompt_windows > (most := family.most_windows(folder)):
        raise ValueError(
            f"policy.prompt_windows is {config.prompt_windows}, but the model {folder} can be told "
            f"{_windows(most)} of a prompt at most; set policy.prompt_windows={most}."
        )


def _check_guidance(config: PolicyConfig) -> None:
    if config.guidance > 1:
        return
    settings = {"negative_prompt": config.negative_prompt is not None, "guidance_rescale": config.guidance_rescale > 0}
    for name in (name for name, given in settings.items() if given):
        raise ValueError(
            f"policy.{name} does nothing where policy.guidance is {config.guidance:g}, which is no guidance; leave it "
            "out, or set policy.guidance above 1."
        )


def _check_lora(config: PolicyConfig, family: type[Family], network: Any) -> None:
    here = config.init_lora is None or is_local(config.init_lora)
    shape = lora_shape(config, family, network) if here else None
    _check_lora_targets(network, shape.targets if shape else config.lora_targets or ())
    if shape and config.init_lora is not None:
        with torch.device("meta"):
            add_adapter(network, "initial", shape)
        initial_adapter(config.init_lora, family, network, "initial", shape)


def _check_lora_targets(network: nn.Module, targets: Sequence[str]) -> None:
    modules = dict(network.named_modules())
    layers = {name for name, module in modules.items() if isinstance(module, (nn.Linear, nn.Conv2d))}
    for target in targets:
        hit = {name for name in modules if name == target or name.endswith(f".{target}")}
        if hit and hit <= layers:
            continue
        known = sorted({target_name(name) for name in layers})
        near = difflib.get_close_matches(target, known, n=3, cutoff=0.5) or known
        raise ValueError(
            f"policy.lora_targets names {target!r}, but the model has no linear or convolutional layers of that name; "
            f"there are {', '.join(near)}."
        )
