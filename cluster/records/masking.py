"""Secrets among a run's settings, told by the last word of their names: `***` wherever else than to its config.yaml.

A setting that names where a secret is, as `token_file` and `key_variable` do, is none. What is a mapping is looked
into, whatever its name, since a reward may be called `token`; a list is masked whole.
"""

from __future__ import annotations

import re
from typing import Any

from cluster import yaml_text

_MASK = "***"
_NAME = r"(?:[\w-]*[_-])?(?:token|(?:api)?key|secret|password|passwd)"
_SECRET = re.compile(rf"(?:.*\.)?{_NAME}", re.I)
_SAID = re.compile(rf"\b{_NAME}\b", re.I)
_WORD = re.compile(r"([^\s={}\[\]]+)=(.*)", re.S)


def masked(settings: Any) -> Any:
    """Settings, in a copy, as lists and mappings have them."""
    if isinstance(settings, list):
        return [masked(value) for value in settings]
    if isinstance(settings, dict):
        return {key: _MASK if _secret(key, value) else masked(value) for key, value in settings.items()}
    return settings


def masked_text(text: str) -> str:
    """YAML with its secrets masked; what cannot be read is masked whole if it names one."""
    try:
        settings = yaml_text.read(text)
    except ValueError:
        return _MASK if _SAID.search(text) else text
    return text if masked(settings) == settings else yaml_text.write(masked(settings))


def masked_word(word: str) -> str:
    """A word of a command, of which `key=value` may be a secret or, in braces, name some."""
    if not (setting := _WORD.fullmatch(word)):
        return word
    key, value = setting.groups()
    try:
        settings = {key: yaml_text.read(value)}
    except ValueError:
        return f"{key}={_MASK}" if _SAID.search(word) else word
    said = masked(settings)
    return word if said == settings else f"{key}={said[key] if said[key] == _MASK else yaml_text.write_line(said[key])}"


def _secret(key: Any, value: Any) -> bool:
    named = isinstance(key, str) and _SECRET.fullmatch(key) is not None
    return named and value is not None and not isinstance(value, dict)
