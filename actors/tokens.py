"""How much of a prompt the text encoder reads, without loading the encoder."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import CLIPTokenizer


def count_cut(model: str, prompts: Sequence[str]) -> tuple[int, int] | None:
    """How many prompts are longer than what the model's text encoder reads, and how many tokens that is.

    Args:
        model: Folder or hub name of a pipeline.
        prompts: Any number.

    Returns:
        The two numbers; `None` if the model's tokenizer is not on this machine.
    """
    try:
        tokenizer = CLIPTokenizer.from_pretrained(model, subfolder="tokenizer", local_files_only=True)
    except (OSError, ValueError):
        return None
    most = tokenizer.model_max_length
    long = [prompt for prompt in prompts if len(prompt.encode()) > most - 2]  # no token is shorter than a byte
    return sum(len(ids) > most for ids in tokenizer(long, verbose=False).input_ids) if long else 0, most
