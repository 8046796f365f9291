"""The model that a command is given: a run, one of its checkpoints, or a bare model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from actors.adapters import FILE
from actors.config import PolicyConfig
from actors.full_weights import FOLDER
from actors.initial_adapter import find_adapter
from actors.model_files import DIFFUSERS, is_local, weight_files
from cluster.config import Config, change_policy
from cluster.errors import ConfigError
from cluster.records import given
from cluster.records.reading import CONFIG
from learner import checkpoint
from shapes import PIPELINES

_MANIFEST = "manifest.json"
_LONGEST = 255  # bytes of a file's name
# What an adapter brings with it.
_ITS_OWN = ("train", "init_weights", "init_lora", "lora_rank", "lora_alpha", "lora_targets")


@dataclass(frozen=True)
class Trained:
    """A model as it acts, with the adapter of a checkpoint where there is one.

    Args:
        name: What to call what comes of it.
        policy: Its settings; `init_lora` is the checkpoint's adapter, or `init_weights` its denoiser.
        checkpoint: The folder; `None` of a bare model.
        run: The settings of the run that trained it; `None` where that is not known.
    """

    name: str
    policy: PolicyConfig
    checkpoint: Path | None = None
    run: Config | None = None

    @property
    def bare(self) -> bool:
        """Whether it has no weights beside the model's own."""
        return self.policy.init_lora is None and self.policy.init_weights is None

    @cached_property
    def adapter(self) -> Path | None:
        """The file of its adapter, or of the denoiser's weights where all of them were trained.

        Raises:
            FileNotFoundError: If it is not there.
        """
        if (folder := self.policy.init_weights) is not None:
            return weight_files(Path(folder), DIFFUSERS, None)[0]
        return None if self.policy.init_lora is None else find_adapter(self.policy.init_lora)

    @cached_property
    def checksum(self) -> str | None:
        """SHA-256 of that file, or of all that the denoiser's weights are in, as hexadecimal digits."""
        if self.adapter is None:
            return None
        folder = self.policy.init_weights
        return checksum(self.adapter) if folder is None else checksum(*weight_files(Path(folder), DIFFUSERS, None))

    @property
    def source(self) -> str:
        """Where it comes from, for people."""
        return self.policy.model if self.checkpoint is None else str(self.checkpoint)


def find(source: str, settings: Sequence[str] = (), average: bool = False) -> Trained:
    """What a word of the command line names.

    Args:
        source: A run's folder, of which the newest checkpoint counts; a folder of checkpoints, such as a run's `best`;
            a checkpoint's; or a model as `policy.model`.
        settings: `key=value` of the policy that are to differ from the run's.
        average: Take the exponential average of the weights.

    Raises:
        ConfigError: If there is no such thing, or the settings cannot be.
        CheckpointError: If there is no checkpoint that is whole.
    """
    path = Path(source).expanduser()
    if len(path.name.encode()) > _LONGEST:  # a prompt, where what draws it was forgotten
        raise ConfigError(f"{source[:60]!r}... is no run, no checkpoint and no model, which comes first.")
    if (path / CONFIG).is_file():
        return _of_checkpoint(checkpoint.newest(path.absolute() / "checkpoints"), settings, average)
    if os.path.isdir(path) and checkpoint.list_all(path.absolute()):
        return _of_checkpoint(checkpoint.newest(path.absolute()), settings, average)
    if (path / _MANIFEST).is_file():
        return _of_checkpoint(path.absolute(), settings, average)
    if average:
        raise ConfigError(f"{source} is no checkpoint, so it has no average (--ema).")
    if is_local(source) and source not in PIPELINES and not (path / "model_index.json").is_file():
        raise ConfigError(
            f"There is no run ({CONFIG}), no checkpoint ({_MANIFEST}) and no diffusers pipeline (model_index.json) in "
            f"{path.absolute()}."
        )
    policy = change_policy({"model": source}, settings)
    return Trained(Path(policy.model).name, _located(policy))


def checksum(*files: Path) -> str:
    """SHA-256 of files, one after the other, as hexadecimal digits."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            hashlib.file_digest(opened, lambda: digest)
    return digest.hexdigest()


def _of_checkpoint(path: Path, settings: Sequence[str], average: bool) -> Trained:
    iteration, folder = checkpoint.verify(path), path.parent.parent
    if fixed := [word for word in settings if word.removeprefix("policy.").partition("=")[0] in _ITS_OWN]:
        raise ConfigError(f"{fixed[0]!r} cannot be set: the checkpoint {path} brings its adapter with it.")
    run = given.read(folder) if (folder / CONFIG).is_file() else None
    if run is None and not any(word.removeprefix("policy.").startswith("model=") for word in settings):
        raise ConfigError(
            f"The checkpoint {path} lies in no run's folder, so nobody knows of which model it is; add model=... to "
            "the command."
        )
    adapter = path / "average" if average else path
    full = (path / FOLDER).is_dir()
    if not (adapter / (FOLDER if full else FILE)).exists():
        raise ConfigError(
            f"The checkpoint {path} keeps no average of the weights (learner.ema_decay of its run); leave out --ema."
        )
    policy = _located(change_policy(run.policy.model_dump() if run else {}, settings))
    own = {"train": "full", "init_weights": str(adapter / FOLDER)} if full else {"init_lora": str(adapter)}
    policy = policy.model_copy(update={**dict.fromkeys(_ITS_OWN), "train": "lora", **own})
    name = f"{folder.name}-{iteration:06d}" if run else path.name
    return Trained(name + ("-average" if average else ""), policy, path, run)


def _located(policy: PolicyConfig) -> PolicyConfig:
    return policy.model_copy(update={"model": str(PIPELINES.get(policy.model, policy.model))})
