"""Reading a configuration: what lies beneath, a YAML file, `key=value` overrides; then the schema and the rules."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from actors.config import PolicyConfig
from cluster.config import sentences
from cluster.config.layers import merge, stack
from cluster.config.numbers import check_numbers
from cluster.config.rules import RULES
from cluster.config.schema import Config
from cluster.config.sentences import short
from cluster.errors import ConfigError
from cluster.text import decode
from cluster.yaml_text import read

_MAX_BYTES = 100_000  # of a config file; PyYAML reads a few hundred thousand a second


def load_words(words: Sequence[str]) -> Config:
    """The configuration of a command line, `[config.yaml] [key=value ...]`; raises as `load_config`."""
    is_file = bool(words) and ("=" not in words[0] or os.path.isfile(words[0]))
    return load_config(Path(words[0]), words[1:]) if is_file else load_config(None, words)


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """A YAML file and `key=value` overrides, with the embedded world beneath them where it is the model.

    Raises:
        ConfigError: In one sentence, whatever is wrong.
    """
    config = read_config(path, overrides)
    check(config, RULES)
    return config


def check(config: Config, rules: Sequence[Callable[[Config], None]]) -> None:
    """Hold a configuration to rules.

    Raises:
        ConfigError: In one sentence, of the first that it breaks.
    """
    for rule in rules:
        try:
            rule(config)
        except OSError as error:
            raise ConfigError(f"{short(error.filename)} cannot be looked at: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(sentences.of_rule(str(error))) from error


def read_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """A configuration as `load_config` reads it, of which the form alone is checked: neither prompts nor rewards nor
    model need be there.

    Raises:
        ConfigError: In one sentence, whatever is wrong.
    """
    given = _read_file(Path(path)) if path else {}
    changes: Mapping[str, Any] = {}
    for text in overrides:
        changes = merge(changes, _override(text))
    try:
        settings = stack(_resolve(merge(given, changes), path), lists_rewards="rewards" in given)
        check_numbers(settings)
        config = Config.model_validate(settings)
        check_numbers(config.model_dump())  # texts that were taken for numbers
    except ValidationError as error:
        raise ConfigError(sentences.of_details(error.errors(), settings)) from None
    except ValueError as error:
        raise ConfigError(sentences.of_rule(str(error))) from error
    return config


def change(config: Config, words: Sequence[str]) -> Config:
    """A configuration with settings `key=value` that differ, of which the form alone is checked.

    Raises:
        ConfigError: In one sentence, whatever is wrong.
    """
    settings: Mapping[str, Any] = config.model_dump()
    for word in words:
        settings = merge(settings, _override(word))
    try:
        check_numbers(settings)
        return Config.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(sentences.of_details(error.errors(), settings)) from None
    except ValueError as error:
        raise ConfigError(sentences.of_rule(str(error))) from error


def change_policy(policy: Mapping[str, Any], words: Sequence[str]) -> PolicyConfig:
    """The settings of a policy alone, on top of the embedded world's where that is the model.

    Args:
        policy: What is given.
        words: What is to differ, as `steps=20` or `policy.steps=20`.

    Raises:
        ConfigError: In one sentence, whatever is wrong.
    """
    settings: Mapping[str, Any] = {"policy": policy}
    for word in words:
        settings = merge(settings, _override(word if word.startswith("policy.") else f"policy.{word}"))
    settings = {"policy": stack(settings, lists_rewards=True).get("policy")}
    try:
        check_numbers(settings)
        return PolicyConfig.model_validate(settings["policy"])
    except ValidationError as error:
        details = [{**detail, "loc": ("policy", *detail["loc"])} for detail in error.errors()]
        raise ConfigError(sentences.of_details(details, settings)) from None
    except ValueError as error:
        raise ConfigError(sentences.of_rule(str(error))) from error


def _read_file(path: Path) -> Mapping[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES:,} bytes, which no configuration needs")
        given = read(decode(data))
    except FileNotFoundError:
        raise ConfigError(f"There is no config file {short(path)}.") from None
    except OSError as error:
        raise ConfigError(f"The config file {short(path)} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"The config file {short(path)} cannot be read: {error}.") from error
    if given is not None and not isinstance(given, dict):
        raise ConfigError(f"The config file {short(path)} is not a mapping of settings.")
    return given or {}


def _override(text: str) -> Mapping[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{short(text)} is not an override; write key=value, such as learner.lr=1e-4.")
    try:
        settings = read(value)
    except ValueError as error:
        raise ConfigError(f"The override {short(text)} cannot be read: {error}.") from error
    for part in reversed(key.split(".")):
        settings = {part: settings}
    return settings


def _resolve(settings: Mapping[str, Any], path: Path | None) -> dict[str, Any]:
    """With `${...}` replaced by what it names."""
    try:
        resolved: Any = OmegaConf.to_container(OmegaConf.create(dict(settings)), resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        named = f"the configuration {short(path)}" if path else "the configuration"
        raise ValueError(f"{named} cannot be resolved: {' '.join(str(error).split())}") from error
    return resolved
