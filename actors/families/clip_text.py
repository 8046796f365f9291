"""Prompts as CLIP text encoders read them: in windows, each between a begin and an end token of its own.

A window is what the encoder reads at once, 77 tokens of Stable Diffusion's. A longer prompt goes on in the next one;
the windows' embeddings stand one after the other along the sequence, as in the web UIs that people write such prompts
for. Prompts of fewer windows than the policy takes are filled up with those of the empty prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def count_windows(tokenizer: Any, prompts: Sequence[str]) -> list[int]:
    """How many windows of a CLIP tokenizer each prompt fills, at least one."""
    room = tokenizer.model_max_length - 2
    # No token of ASCII text is shorter than a letter; normalisation can lengthen other texts.
    long = [prompt for prompt in prompts if len(prompt) > room or not prompt.isascii()]
    ids = tokenizer(long, add_special_tokens=False, verbose=False).input_ids if long else []
    windows = {prompt: max(1, -(-len(row) // room)) for prompt, row in zip(long, ids, strict=True)}
    return [windows.get(prompt, 1) for prompt in prompts]


def read_windows(tokenizer: Any, prompt: str, windows: int) -> tuple[Tensor, Tensor]:
    """The tokens of a prompt and which of them are its own, `(windows, N)` int64 each.

    Raises:
        ValueError: If it fills more windows than that, so that its end would be cut.
    """
    form = {"padding": "max_length", "max_length": tokenizer.model_max_length, "truncation": True}
    read = tokenizer([prompt], **form, return_overflowing_tokens=True, return_tensors="pt")
    ids, mask = read.input_ids, read.attention_mask
    if len(ids) > windows:
        raise ValueError(
            f"The prompt {prompt[:60]!r} fills {len(ids)} windows of the text encoder, and policy.prompt_windows is "
            f"{windows}; raise it, or shorten the prompt."
        )
    if len(ids) < windows:
        empty = tokenizer([""] * (windows - len(ids)), **form, return_tensors="pt")
        ids, mask = torch.cat([ids, empty.input_ids]), torch.cat([mask, empty.attention_mask])
    return ids, mask


def in_a_row(windows: Tensor) -> Tensor:
    """Embeddings of a prompt's windows `(W, N, D)` as one sequence `(1, W N, D)`."""
    return windows.flatten(0, 1).unsqueeze(0)
