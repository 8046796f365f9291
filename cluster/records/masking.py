"""Secrets among a run's settings, which only its own config.yaml says: `***` wherever else the settings go."""

from __future__ import annotations

import re
from typing import Any

_NAMES = ("token", "api_key", "password")
_MASK = "***"
_KEY = rf"(?:{'|'.join(_NAMES)})"
_QUOTED = r""""(?:\\.|[^"\\])*"|'(?:''|[^'])*'"""
# A line of YAML or a word of a command, which the value ends with, and a key in braces.
_LINE = re.compile(rf"^([ \t]*(?:[^\s={{:]*\.)?{_KEY}(?:=|:[ \t])[ \t]*)(?!null$)({_QUOTED}|.+)", re.MULTILINE)
_INNER = re.compile(rf"""([{{,]\s*["']?{_KEY}["']?:\s*)(?!null\b)({_QUOTED}|[^\s,}}]+)""")


def masked(settings: Any) -> Any:
    """Settings, in a copy, as lists and mappings have them, or as a text: YAML, or a word of a command."""
    if isinstance(settings, str):
        return _INNER.sub(rf"\1{_MASK}", _LINE.sub(rf"\1{_MASK}", settings))
    if isinstance(settings, list):
        return [masked(value) for value in settings]
    if isinstance(settings, dict):
        return {key: _MASK if _secret(key, value) else masked(value) for key, value in settings.items()}
    return settings


def _secret(key: Any, value: Any) -> bool:
    return key in _NAMES and value is not None and not isinstance(value, dict | list)
