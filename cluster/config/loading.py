"""Reading a configuration: defaults, a YAML file, `key=value` overrides; then the schema and the rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from cluster.config import sentences
from cluster.config.rules import RULES
from cluster.config.schema import Config
from cluster.config.sentences import ConfigError


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Defaults, then a YAML file, then `key=value` overrides.

    Raises:
        ConfigError: In one sentence, whatever is wrong.
    """
    try:
        given = OmegaConf.load(path) if path else OmegaConf.create()
    except FileNotFoundError:
        raise ConfigError(f"There is no config file {path}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"The config file {path} cannot be read: {' '.join(str(error).split())}.") from error
    if not OmegaConf.is_dict(given):
        raise ConfigError(f"The config file {path} is not a mapping of settings.")
    # Overrides of single rewards add to the default ones; a file that lists rewards replaces them.
    defaults: dict[str, Any] = {"objective": {"name": "ppod"}}
    if "rewards" not in given:
        defaults["rewards"] = Config.model_fields["rewards"].default
        defaults["rewards"] = {name: reward.model_dump() for name, reward in defaults["rewards"].items()}
    merged = OmegaConf.merge(defaults, given, *[_override(text) for text in overrides])
    try:
        config = Config.model_validate(OmegaConf.to_container(merged, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(f"The configuration cannot be resolved: {' '.join(str(error).split())}.") from error
    except ValidationError as error:
        raise ConfigError(" ".join(sentences.of_detail(detail) for detail in error.errors()[:3])) from None
    for rule in RULES:
        try:
            rule(config)
        except ValueError as error:
            raise ConfigError(sentences.of_rule(str(error))) from error
    return config


def _override(text: str) -> DictConfig:
    if "=" not in text:
        raise ConfigError(f"{text!r} is not an override; write key=value, such as learner.lr=1e-4.")
    try:
        return OmegaConf.from_dotlist([text])
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"The override {text!r} cannot be read: {' '.join(str(error).split())}.") from error
