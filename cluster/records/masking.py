"""Secrets among a run's settings, told by the last word of their names: `***` wherever else than to its config.yaml.

A setting that names where a secret is, as `token_file` and `key_variable` do, is none.
"""

from __future__ import annotations

import re
from typing import Any

_MASK = "***"
_NAME = r"(?:[\w-]*[_-])?(?:token|(?:api)?key|secret|password|passwd)"
_QUOTED = r""""(?:\\[\s\S]|[^"\\])*"|'(?:''|[^'])*'"""
# A line of YAML or a word of a command, which the value ends with, and a key in braces.
_BEFORE = r"[ \t]*(?:-[ \t]+)*(?:[^\s={:]*\.)?"
_LINE = re.compile(rf"^({_BEFORE}{_NAME}(?:=|:[ \t])[ \t]*)(?!null$)({_QUOTED}|.+)", re.I | re.M)
# A list below its key, which may be the first of an item, with all that its items say.
_BLOCK = re.compile(rf"^([ \t]*)(- )?({_NAME}:)\n\1(?(2)  )[ \t]*- .*(?:\n\1(?(2)  )(?:- |[ \t]+).*)*", re.I | re.M)
_INNER = re.compile(rf"""([{{,]\s*["']?{_NAME}["']?:\s*)(?!null\b)({_QUOTED}|\[[^\]]*\]|\{{[^}}]*\}}|[^,}}]+)""", re.I)


def masked(settings: Any) -> Any:
    """Settings, in a copy, as lists and mappings have them, or as a text: YAML, or a word of a command."""
    if isinstance(settings, str):
        blocks = _BLOCK.sub(lambda key: f"{key[1]}{key[2] or ''}{key[3]} {_MASK}", settings)
        return _INNER.sub(rf"\1{_MASK}", _LINE.sub(rf"\1{_MASK}", blocks))
    if isinstance(settings, list):
        return [masked(value) for value in settings]
    if isinstance(settings, dict):
        return {key: _MASK if _secret(key, value) else masked(value) for key, value in settings.items()}
    return settings


def _secret(key: Any, value: Any) -> bool:
    named = isinstance(key, str) and re.fullmatch(_NAME, key, re.I) is not None
    return named and value is not None and not isinstance(value, dict)
