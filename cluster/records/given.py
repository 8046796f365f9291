"""What a run was given, kept in its folder: its configuration and its prompts, under a seal that shows if they change.

    config.yaml                    the resolved configuration; its first line is the seal, a checksum of all of this
    prompts/train/, .../held_out/  the prompt files, byte for byte, under their own names, and their start images

The run reads its own copies, wherever its folder is moved and whatever becomes of the originals.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from cluster import yaml_text
from cluster.config import Config, load_config, read_config
from cluster.errors import ConfigError
from cluster.prompts import locate, read_prompts
from cluster.records.files import replacing
from cluster.records.reading import CONFIG, PROMPTS
from cluster.start_images import image_of
from rewards.people.pick_a_pic import read_index

log = logging.getLogger(__name__)

_SPLITS = ("train", "held_out")
_HEAD = "# Seal of the settings below and of the prompts beside them: "


def keep_prompts(config: Config, folder: Path) -> Config:
    """Copy the prompt files of a configuration into a run's folder; returns the configuration that reads the copies.

    Raises:
        ConfigError: If one is gone.
        WriteError: If the folder cannot be written to.
    """
    copies = {}
    for split in _SPLITS:
        if (source := getattr(config.prompts, split)) is None:
            continue
        original = locate(source)
        try:
            content = original.read_bytes()
        except OSError as error:
            raise ConfigError(f"The prompt file {original} cannot be read ({error.strerror}).") from error
        copies[split] = str(folder / PROMPTS / split / original.name)
        with replacing(Path(copies[split])) as file:
            file.write(content)
        for image in filter(None, map(image_of, read_prompts(source))):
            kept = folder / PROMPTS / split / image.relative_to(original.parent.absolute())
            if not kept.exists():
                try:
                    data = image.read_bytes()
                except OSError as error:
                    raise ConfigError(f"The start image {image} cannot be read ({error.strerror}).") from error
                with replacing(kept) as file:
                    file.write(data)
    return config.model_copy(update={"prompts": config.prompts.model_copy(update=copies)})


def pin_data(config: Config) -> Config:
    """The configuration with the checksum of its dataset, which is not copied.

    Raises:
        ConfigError: If it is gone.
    """
    if (data := config.data) is None:
        return config
    try:
        checksum = read_index(Path(data.path), data.split, data.labels == "people").checksum
    except (ValueError, OSError) as error:
        raise ConfigError(f"The dataset {data.path} cannot be read ({error}).") from error
    return config.model_copy(update={"data": data.model_copy(update={"checksum": checksum})})


def save(config: Config, folder: Path) -> None:
    """Write the configuration of a run whose prompts are in its folder, and seal both.

    Raises:
        WriteError: If the folder cannot be written to.
    """
    text = config.dump()
    with replacing(folder / CONFIG) as file:
        file.write(f"{_HEAD}{_seal(text, folder)}\n{text}".encode())


def read(folder: Path) -> Config:
    """The configuration that a run began with, for those who only look: neither rewards nor model need be there.

    Raises:
        ConfigError: If it cannot be read, or if it or the prompts are not what the run began with.
    """
    return read_config(*_given(folder))


def load(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration that a run began with, for whoever goes on with it: all that it needs is known to be there.

    Args:
        folder: Of the run.
        overrides: Settings `key=value` that are to change.

    Raises:
        ConfigError: As `read`, or if it cannot work any more.
    """
    path, own = _given(folder)
    return load_config(path, [*own, *overrides])


def _given(folder: Path) -> tuple[Path, list[str]]:
    """The file of a run's configuration, and the settings that name the prompts in its folder.

    Raises:
        ConfigError: If it cannot be read, or if it or the prompts are not what the run began with.
    """
    path = folder / CONFIG
    try:
        head, _, text = path.read_text(encoding="utf-8").partition("\n")
        sealed = head.startswith(_HEAD)
        whole = not sealed or head == f"{_HEAD}{_seal(text, folder)}"
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} or the prompts beside it cannot be read ({error}).") from error
    if not (head + text).strip():
        raise ConfigError(f"{path} is empty; put back what was in it (the run's report.html shows it, if it has one).")
    if not whole:
        raise ConfigError(
            f"{path} or the files in {folder / PROMPTS} are not what the run began with; put back what was there, or "
            f"delete the first line of {CONFIG} to go on with what is there now."
        )
    if not sealed:
        log.warning("%s has no seal, so nobody can tell whether the run began with it.", path)
    return path, [f"prompts.{split}={json.dumps(str(copy))}" for split, copy in _copies(folder, text).items()]


def _copies(folder: Path, text: str) -> dict[str, Path]:
    """The prompt files in a run's folder: where images lie beside one, that which the configuration names."""
    found = {}
    for split in _SPLITS:
        there = sorted(path for path in (folder / PROMPTS / split).glob("*") if path.is_file() and not _is_torn(path))
        named = [path for path in there if path.name == _name(text, split)] if len(there) > 1 else there
        if there:
            found[split] = (named or there)[-1]
    return found


def _name(text: str, split: str) -> str | None:
    """What a configuration calls the prompt file of a split; `None` if it says nothing that can be read."""
    try:
        return Path(yaml_text.read(text)["prompts"][split]).name
    except (ValueError, TypeError, KeyError):
        return None


def _is_torn(path: Path) -> bool:
    return path.name.endswith(".tmp")


def _seal(text: str, folder: Path) -> str:
    copies = _copies(folder, text)
    sums = [f"{_sum(path)}  {split}" for split, path in copies.items()]
    for split, copy in copies.items():
        images = (path for path in sorted((folder / PROMPTS / split).rglob("*")) if path.is_file() and path != copy)
        sums += [f"{_sum(path)}  {path.relative_to(folder).as_posix()}" for path in images if not _is_torn(path)]
    return hashlib.sha256("\n".join([text, *sums]).encode()).hexdigest()


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
