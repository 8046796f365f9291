"""What the rewards on CLIP share: the model with its tokenizer, unit features of pictures and of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from rewards.chunked import ChunkedReward
from rewards.loading import load_network
from rewards.preprocessing import normalise, short_side_crop


class ClipReward(ChunkedReward):
    """A differentiable reward on a frozen CLIP; `score_chunk` is all that the rewards differ in.

    Args:
        model: Folder or hub name of a CLIP model with its tokenizer, in transformers' format and safetensors.
        batch_size: Images that go through the model at once.
        device: Such as `cpu` or `cuda`; `auto` takes a GPU if there is one.
        dtype: Of the model; features and scores are float32 in any case.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If its checkpoint lacks a parameter, has others, or comes without its tokenizer.
    """

    differentiable = True

    def __init__(
        self,
        model: str,
        *,
        batch_size: int = 16,
        device: str = "auto",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        super().__init__(batch_size, device)
        folder = _find(model)
        # Any, because transformers' types do not know a loaded configuration.
        self.clip: Any = load_network(CLIPModel, folder, "CLIP", getattr(torch, dtype)).to(self.device)
        self._tokenizer = _load_tokenizer(folder, self.clip.config.text_config.vocab_size)

    def embed(self, images: Tensor) -> Tensor:
        return torch.cat([self.image_features(part) for part in images.split(self._batch_size)]).to(images.device)

    def image_features(self, images: Tensor) -> Tensor:
        """Unit vectors `(B, D)` float32 of images `(B, 3, H, W)` in [0, 1], of which the central square is seen."""
        size = self.clip.config.vision_config.image_size
        pixels = normalise(short_side_crop(images.to(self.device), size)).to(self.clip.dtype)
        return F.normalize(self.clip.get_image_features(pixels).pooler_output.float(), dim=-1)

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors `(B, D)` float32; prompts are cut after 77 tokens, and one that repeats is encoded once."""
        unique = list(dict.fromkeys(prompts))
        limit = self.clip.config.text_config.max_position_embeddings
        tokens = self._tokenizer(unique, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        encoded = self.clip.get_text_features(**tokens.to(self.device)).pooler_output.float()
        return F.normalize(encoded, dim=-1)[[unique.index(prompt) for prompt in prompts]]

    def agreement(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosine `(B,)` of the features of each image and its prompt."""
        return (self.image_features(images) * self.text_features(prompts)).sum(dim=-1)


def _find(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.txt", "model*.safetensors"]))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"There is no CLIP model {model!r}: it is no folder, and the hub does not give it "
            f"({str(error).splitlines()[0].rstrip('.')}); set the reward's options.model to a folder that holds one."
        ) from error


def _load_tokenizer(folder: Path, vocabulary: int) -> CLIPTokenizer:
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    # Without files transformers makes a tokenizer of two tokens. The end of text is the last of CLIP's vocabulary, and
    # the token whose feature is the prompt's.
    if tokenizer.eos_token_id != vocabulary - 1:
        raise ValueError(
            f"The folder {folder} (options.model) does not hold the tokenizer of its CLIP model: the model knows "
            f"{vocabulary} tokens, the tokenizer {len(tokenizer)}; add vocab.json and merges.txt."
        )
    return tokenizer
