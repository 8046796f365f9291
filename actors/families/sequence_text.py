"""Prompts as encoders read them that take a sequence of any length (T5, Qwen): up to a number of tokens, never cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def count_windows(tokenizer: Any, prompts: Sequence[str], window: int) -> list[int]:
    """How many windows of so many tokens each prompt fills, at least one."""
    ids = tokenizer(list(prompts), verbose=False).input_ids if prompts else []
    return [max(1, -(-len(row) // window)) for row in ids]


def read_whole(tokenizer: Any, prompt: str, most: int) -> None:
    """Refuse a prompt whose end would be cut.

    Raises:
        ValueError: If it has more than `most` tokens.
    """
    if (found := len(tokenizer([prompt], verbose=False).input_ids[0])) > most:
        raise ValueError(
            f"The prompt {prompt[:60]!r} has {found} tokens, and {most} are read of it; shorten it, or raise "
            "policy.prompt_windows where the model takes more."
        )
