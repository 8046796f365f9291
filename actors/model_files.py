"""The files of a model folder: where it is, and which tensors its weights hold, read from their headers alone."""

from __future__ import annotations

import difflib
import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import HFValidationError, validate_repo_id
from safetensors import safe_open

# Names of a component's weights by suffix, in the order of preference, as either library saves them.
DIFFUSERS = {"safetensors": "diffusion_pytorch_model", "bin": "diffusion_pytorch_model"}
TRANSFORMERS = {"safetensors": "model", "bin": "pytorch_model"}
_COUNTS = ("position_ids", "num_batches_tracked")  # tensors of whole numbers that say nothing of quantisation
_POINTER = b"version https://git-lfs"


def is_local(model: str) -> bool:
    """Whether a model's name is a folder's rather than a hub name such as `org/model`.

    A name below a folder that is here, such as `runs/typo`, is a folder's, unless it has been fetched from the hub.
    """
    path = Path(model)
    if path.is_absolute() or path.exists() or model.count("/") != 1 or not _is_hub_name(model):
        return True
    return (
        path.parent.is_dir() and not (Path(HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model")).exists()
    )


def _is_hub_name(model: str) -> bool:
    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return True


def local_folder(model: str) -> Path:
    """The folder of a model that `is_local`.

    Raises:
        FileNotFoundError: If it holds no pipeline.
    """
    path = Path(model).expanduser()
    if (path / "model_index.json").is_file():
        return path
    advice = "set policy.model to the folder of one, to a hub name such as 'org/model', or to 'shapes'."
    if path.exists():
        raise FileNotFoundError(f"There is no diffusers pipeline in {path.absolute()} (no model_index.json); {advice}")
    beside = [folder.name for folder in path.parent.glob("*/")] if path.parent.is_dir() else []
    near = "".join(f" (near it is {name!r})" for name in difflib.get_close_matches(path.name, beside, n=1))
    if model.count("/") == 1 and _is_hub_name(model):
        advice = f"to take {model} from the hub, fetch it first (hf download {model}): {path.parent} is a folder here."
    raise FileNotFoundError(f"There is no diffusers pipeline {path.absolute()}, nor such a folder{near}; {advice}")


def fetch(model: str, variant: str | None) -> Path:
    """The folder of any model; one with a hub name is downloaded unless it has been.

    Raises:
        FileNotFoundError: If there is none.
    """
    if is_local(model):
        return local_folder(model)
    try:
        return _download(model, variant)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"The model {model} is no folder here and cannot be had from the hub ({' '.join(str(error).split())}); "
            "look at policy.model, policy.variant and the connection, or give the folder of a copy."
        ) from error


def on_disk(model: str, variant: str | None) -> Path | None:
    """The folder of a model that is here, or has been fetched from the hub before; `None` of one that has not, whole.

    Raises:
        FileNotFoundError: If the folder holds no pipeline.
    """
    if is_local(model):
        return local_folder(model)
    try:
        return _download(model, variant, local_files_only=True)
    except (OSError, ValueError):
        return None


def _download(model: str, variant: str | None, **how: bool) -> Path:
    left_out: dict[str, Any] = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    return Path(DiffusionPipeline.download(model, variant=variant, **left_out, **how))


def read_json(path: Path) -> dict[str, Any]:
    """The values by name that a JSON file holds.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"The model lacks {path}; download or save it again.")
    refuse_pointer(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The model's {path} is no JSON file ({error}); download or save the model again.") from error
    if not isinstance(values, dict):
        raise ValueError(f"The model's {path} holds no values by name; download or save the model again.")
    return values


def refuse_pointer(path: Path) -> None:
    """Raises `ValueError` if a file is what Git leaves in the place of a large file that was not fetched."""
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise ValueError(f"The model's {path} is a Git LFS pointer, not the file itself; run `git lfs pull` there.")


def tensor_shapes(folder: Path, stems: dict[str, str], variant: str | None) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor in a component's weights, by name, without loading any.

    Args:
        folder: Of the component.
        stems: Name of its weights without variant, by suffix, in the order of preference.
        variant: Which of several sets of weights; one that this component lacks means its plain ones, as in diffusers.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If they cannot be read.
    """
    shapes = [_shapes(file) for file in weight_files(folder, stems, variant)]
    return {name: shape for of_file in shapes for name, shape in of_file.items()}


def count_parameters(folder: Path, variant: str | None) -> dict[str, int]:
    """How many numbers each network of a pipeline's folder has, by the headers of its weights alone."""
    found = {}
    for name in read_json(folder / "model_index.json"):
        for stems in (DIFFUSERS, TRANSFORMERS):
            if any(path for stem in stems.values() for path in (folder / name).glob(f"{stem}.*")):
                shapes = tensor_shapes(folder / name, stems, variant)
                found[name] = sum(math.prod(shape) for shape in shapes.values())
    return found


def weight_files(folder: Path, stems: dict[str, str], variant: str | None) -> list[Path]:
    """The files that hold a component's weights; takes and raises as `tensor_shapes`."""
    for asked in dict.fromkeys((variant, None)):
        for suffix, stem in stems.items():
            if files := _files(folder, stem, suffix, asked):
                return files
    if others := variants(folder, stems):
        raise FileNotFoundError(
            f"The model's {folder} holds only weights of the variant {' and '.join(others)}; set "
            f"policy.variant={others[0]}."
        )
    wanted = " or ".join(f"{stem}.{suffix}" for suffix, stem in stems.items())
    raise FileNotFoundError(f"The model's {folder} holds no weights ({wanted}); download or save the model again.")


def holder(folder: Path, stems: dict[str, str], variant: str | None, name: str) -> tuple[Path, str]:
    """Which file of a component's weights holds a tensor, and under which name; takes and raises as `tensor_shapes`."""
    files = weight_files(folder, stems, variant)
    found = [(file, key) for file in files for key in _shapes(file) if plain_name(key) == plain_name(name)]
    return found[0] if found else (files[0], name)  # the file has an older name for it


def plain_name(name: str) -> str:
    """The name of a text encoder's tensor in all versions of transformers."""
    return name.removeprefix("text_model.")


def variants(folder: Path, stems: dict[str, str]) -> list[str]:
    """The variants of which a component has weights."""
    found = set()
    for suffix, stem in stems.items():
        pattern = rf"{re.escape(stem)}(\.{suffix}\.index)?\.(?P<variant>\w+)(-\d+-of-\d+)?\.({suffix}|json)"
        matches = (re.fullmatch(pattern, path.name) for path in folder.glob(f"{stem}.*"))
        found |= {match["variant"] for match in matches if match}
    return sorted(found - {"index"})


def _files(folder: Path, stem: str, suffix: str, variant: str | None) -> list[Path]:
    kind = f".{variant}" if variant else ""
    whole, index = folder / f"{stem}{kind}.{suffix}", folder / f"{stem}.{suffix}.index{kind}.json"
    if index.is_file():
        places = read_json(index).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise ValueError(f"The model's {index} does not say which file holds which weight; download it again.")
        if not isinstance(read_json(index).get("metadata"), dict):
            raise ValueError(
                f"The model's {index} has no metadata, without which diffusers reads none; download it again."
            )
        shards = sorted(set(places.values()))
        if missing := [name for name in shards if not (folder / name).is_file()]:
            raise FileNotFoundError(
                f"The model's {folder} lacks {len(missing)} of the {len(shards)} files of its weights, such as "
                f"{missing[0]}; download it again."
            )
        return [folder / name for name in shards]
    return [whole] if whole.is_file() else []


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    refuse_pointer(file)
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            whole = {name for name, part in slices.items() if "F" not in part.get_dtype()}  # F32, BF16, F8_E4M3
        else:
            state = torch.load(file, map_location="meta", weights_only=True)
            shapes = {name: tuple(value.shape) for name, value in state.items() if isinstance(value, torch.Tensor)}
            whole = {name for name in shapes if not state[name].is_floating_point()}
    except Exception as error:  # whatever readers of files that are something else stumble over
        reason = " ".join(str(error).split())
        raise ValueError(
            f"The model's weights {file} cannot be read ({reason}); download or save the model again."
        ) from error
    if quantised := sorted(name for name in whole if not name.endswith(_COUNTS)):
        raise ValueError(
            f"The model's weights {file} hold whole numbers as {quantised[0]}; quantised weights are not known, take "
            "those in float32, bfloat16 or float16."
        )
    return shapes
