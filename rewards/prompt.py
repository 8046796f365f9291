"""A prompt with what its file says beside it: the words of a picture to be read, the objects to be counted."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_NOTHING: Mapping[str, Any] = MappingProxyType({})  # one for all: lists of a million prompts are read


class Prompt(str):
    """A prompt that carries metadata, and is a plain string for all who do not ask for it.

    It is equal to its text, whatever the metadata.

    Args:
        text: What the policy draws.
        metadata: What a reward may want to know beside it.

    Attributes:
        metadata: The same, read-only; empty where there is none.
    """

    __slots__ = ("metadata",)
    metadata: Mapping[str, Any]

    def __new__(cls, text: str, metadata: Mapping[str, Any] | None = None) -> Prompt:
        made = super().__new__(cls, text)
        made.metadata = MappingProxyType(dict(metadata)) if metadata else _NOTHING
        return made

    def __reduce__(self) -> tuple[type[Prompt], tuple[str, dict[str, Any]]]:
        return Prompt, (str(self), dict(self.metadata))
