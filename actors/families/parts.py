"""What the parts of any pipeline are held to: its index, networks that its weights fill, a tokenizer that reads.

Nothing here looks at the numbers of a weight: JSON files, the headers of the weights and the vocabulary say enough to
refuse in one sentence what would otherwise end in a tensor error, or worse, in pictures that follow no prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPTokenizer

from actors.model_files import plain_name, read_json, refuse_pointer, tensor_shapes, variants

_LARGEST = 4096  # side of latents; pictures of 32,768 pixels
_FEWEST = 3  # tokens that say something: one between those of begin and end


def check_components(
    folder: Path, components: Mapping[str, Sequence[str]], optional: Mapping[str, tuple[ModuleType | None, type]]
) -> None:
    """Refuse a pipeline that lacks a component, or has one of another class.

    Args:
        folder: Of the pipeline.
        components: Library and classes that each may have, by name.
        optional: What it may have besides: library and base class; without a library it is not loaded, whatever it is.

    Raises:
        ValueError: If one is missing or of another class.
    """
    index = read_json(folder / "model_index.json")
    for name, (library, *classes) in components.items():
        entry = index.get(name) or [None, None]
        origin, component = entry if isinstance(entry, list) and len(entry) == 2 else (library, entry)
        if component not in classes or origin != library:
            is_what = "has none" if component is None else f"has a {component} of {origin}"
            raise ValueError(f"The model {folder} needs a {classes[0]} as its {name}, but {is_what}.")
    for name, (module, base) in optional.items():
        if not _names_class(entry := index.get(name, [None, None]), module, base):
            raise ValueError(
                f"The model {folder} has a model_index.json that says {str(entry)[:80]} of its {name}, which is no "
                "library and class; download or save the model again."
            )


def _names_class(entry: Any, module: ModuleType | None, base: type) -> bool:
    """Whether an entry names nothing, or a class of a library; which one does not matter where there is no module."""
    if not isinstance(entry, list) or len(entry) != 2:
        return False
    if module is None or entry == [None, None]:
        return True
    made = getattr(module, str(entry[1]), None)
    return entry[0] == module.__name__ and isinstance(made, type) and issubclass(made, base)


def check_variant(folder: Path, variant: str | None, stems: Mapping[str, dict[str, str]]) -> None:
    """Refuse a variant of which no component has weights.

    Args:
        folder: Of the pipeline.
        variant: Asked for; `None` are the plain weights.
        stems: Names of each component's weights by suffix.

    Raises:
        FileNotFoundError: If there are none.
    """
    if variant and not any(variant in variants(folder / name, stems) for name, stems in stems.items()):
        there = sorted({found for name, stems in stems.items() for found in variants(folder / name, stems)})
        raise FileNotFoundError(
            f"The model {folder} has no weights of policy.variant={variant}; it has "
            f"{' and '.join(there) or 'only those without a variant'}."
        )


def made(folder: Path, make: Callable[[dict[str, Any]], Any]) -> Any:
    """A network of a folder's `config.json` on the meta device.

    Args:
        folder: Of the component.
        make: From the config to the network.

    Raises:
        FileNotFoundError: If there is no config.
        ValueError: If the network is quantised, or cannot be built.
    """
    config = read_json(folder / "config.json")
    if config.get("quantization_config") is not None:
        raise ValueError(f"The model's {folder} is quantized, which is not known; take the model's plain weights.")
    try:
        with torch.device("meta"):
            return make(config)
    except Exception as error:  # whatever a constructor does with values that make no network
        reason = " ".join(str(error).split())
        raise ValueError(
            f"The model's {folder}/config.json describes no network that can be built ({reason})."
        ) from error


def check_weights(folder: Path, network: Any, stems: dict[str, str], variant: str | None) -> None:
    """Refuse weights that do not fill a network, by names and shapes.

    Args:
        folder: Of the component.
        network: Made of its config.
        stems: Names of its weights by suffix.
        variant: Of the weights.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If one is missing, too many or of another shape.
    """
    found: dict[str, Any] = dict(tensor_shapes(folder, stems, variant))
    if hasattr(network, "_fix_state_dict_keys_on_load"):
        network._fix_state_dict_keys_on_load(found)  # names of old checkpoints, as diffusers reads them
    given = {plain_name(name): shape for name, shape in found.items() if not name.endswith("position_ids")}
    own = {plain_name(name): tensor for name, tensor in network.state_dict(keep_vars=True).items()}
    # Of one tensor under several names (tied embeddings) a file has one or more.
    saved = {id(tensor) for name, tensor in own.items() if name in given}
    expected = {n: tuple(tensor.shape) for n, tensor in own.items() if n in given or id(tensor) not in saved}
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


def check_tokenizer(place: Path, kind: Any, known: int) -> Any:
    """Refuse a tokenizer to which all prompts are the same, or which its text encoder does not understand.

    Args:
        place: Folder of the tokenizer.
        kind: Its class.
        known: How many tokens the encoder knows.

    Returns:
        The tokenizer.

    Raises:
        FileNotFoundError: If it has no vocabulary.
        ValueError: If it cannot be read, knows no letters, or is of another model than the encoder.
    """
    parts = [name for name in kind.vocab_files_names.values() if name != "tokenizer.json"]
    there = {name for name in ("tokenizer.json", *parts) if (place / name).is_file()}
    for name in there:
        refuse_pointer(place / name)
    if "tokenizer.json" not in there and not set(parts) <= there:
        raise FileNotFoundError(
            f"The model's {place} has no vocabulary (tokenizer.json, or {' and '.join(parts)}), so all prompts "
            "would mean the same; download or save the model again."
        )
    try:
        tokenizer = kind.from_pretrained(str(place))
        ids = tokenizer([f"{letter} " * 3 for letter in "abcdefgh"]).input_ids
    except Exception as error:  # whatever a tokenizer does with files that are torn
        reason = " ".join(str(error).split())
        raise ValueError(f"The model's {place} cannot be read ({reason}); download or save the model again.") from error
    if len({tuple(row) for row in ids}) == 1:
        raise ValueError(f"The model's {place} knows no letters, so all prompts would mean the same; fetch it again.")
    if len(tokenizer) > known:
        raise ValueError(
            f"The model's {place} has {len(tokenizer)} tokens and its text encoder knows {known}; they are of "
            "different models."
        )
    return tokenizer


def check_clip_tokenizer(place: Path, text: CLIPTextConfig) -> None:
    """Refuse a CLIP tokenizer that `check_tokenizer` refuses, or whose window is not its text encoder's.

    Args:
        place: Folder of the tokenizer.
        text: Config of the encoder.

    Raises:
        FileNotFoundError: If it has no vocabulary.
        ValueError: If it cannot be read, knows no letters, or is of another model than the encoder.
    """
    tokenizer = check_tokenizer(place, CLIPTokenizer, text.vocab_size)
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


def latent_side(size: Any, network: str) -> tuple[int, int]:
    """Height and width of latents by a network's `sample_size`.

    Args:
        size: What its config says.
        network: What it is called in an error.

    Raises:
        ValueError: If that is no size.
    """
    height, width = size if isinstance(size, Sequence) and len(size) == 2 else (size, size)
    if not all(type(side) is int and 0 < side <= _LARGEST for side in (height, width)):
        raise ValueError(
            f"The {network}'s sample_size is {size!r}; the model's {network.lower()}/config.json must say the side of "
            "its latents, or their height and width."
        )
    return height, width


def picture_side(name: str, pixels: int, multiple: int) -> int:
    """The side of pictures that `policy.height` or `policy.width` asks for.

    Args:
        name: Of the setting.
        pixels: Its value.
        multiple: What the networks divide it by.

    Raises:
        ValueError: If they cannot.
    """
    if pixels % multiple:
        below = pixels // multiple * multiple
        near = " and ".join(str(side) for side in (below, below + multiple) if side)
        raise ValueError(
            f"policy.{name} is {pixels}, but the model's networks divide the sides of pictures by {multiple}; the "
            f"nearest that will do: {near}."
        )
    return pixels
