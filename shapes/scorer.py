"""A world's own small ImageReward: a learned, differentiable score of how well a picture agrees with a prompt.

A convolutional tower turns the picture into tokens, one for 4 x 4 pixels, the words of the prompt attend to them, and a
linear head reads the score off the pooled words. Trained by `shapes.fit_scorer` with Bradley-Terry comparisons, so only
differences of scores mean anything; one unit is one logit of "this picture fits the prompt better than that one".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from shapes.worlds import FIRST, WORLDS, World

MAX_WORDS = 16


@cache
def _word_ids(world: World) -> dict[str, int]:
    # 0 pads, 1 stands for every word that the grammar does not have.
    return {word: i + 2 for i, word in enumerate(sorted(world.words))}


def tokenize(prompts: Sequence[str], world: World = FIRST) -> Tensor:
    """Word ids `(B, MAX_WORDS)` int64, zero-padded; longer prompts are cut."""
    known = _word_ids(world)
    ids = torch.zeros(len(prompts), MAX_WORDS, dtype=torch.int64)
    for row, prompt in zip(ids, prompts, strict=True):
        words = [known.get(word.strip(".,"), 1) for word in prompt.lower().split()][:MAX_WORDS]
        row[: len(words)] = torch.tensor(words)
    return ids


class Scorer(nn.Module, PyTorchModelHubMixin):
    """Image-prompt agreement.

    Args:
        width: Channels of the picture's tokens and of the words.
        layers: Rounds of words looking at each other and at the picture.
        world: Name of the world whose words it knows.
    """

    def __init__(self, width: int = 96, layers: int = 2, world: str = FIRST.name) -> None:
        super().__init__()
        self.world = WORLDS[world]
        self.tower = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            _Residual(32),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            _Residual(64),
            nn.Conv2d(64, width, 3, stride=2, padding=1),
            _Residual(width),
        )
        self.position = nn.Parameter(0.02 * torch.randn((self.world.size // 4) ** 2, width))
        self.words = nn.Embedding(len(self.world.words) + 2, width)
        self.order = nn.Parameter(0.02 * torch.randn(MAX_WORDS, width))
        layer = nn.TransformerDecoderLayer(
            width, nhead=4, dim_feedforward=2 * width, dropout=0.0, batch_first=True, norm_first=True, activation="gelu"
        )
        self.reader = nn.TransformerDecoder(layer, layers, norm=nn.LayerNorm(width))
        self.head = nn.Linear(width, 1)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Word ids `(B, MAX_WORDS)` of prompts in its world's words."""
        return tokenize(prompts, self.world)

    def forward(self, images: Tensor, words: Tensor) -> Tensor:
        """Scores `(B,)` of images `(B, 3, H, W)` in [0, 1] under word ids `(B, MAX_WORDS)`."""
        return self.read(self.tokens(images), words)

    def tokens(self, images: Tensor) -> Tensor:
        """The picture as tokens, `(B, width, size / 4, size / 4)`."""
        return self.tower(self.sized(images))

    def sized(self, images: Tensor) -> Tensor:
        """Images as the tower takes them: of the world's size, in [-1, 1]."""
        size = self.world.size
        if images.shape[-1] != size:
            images = F.interpolate(images, (size, size), mode="bicubic", antialias=True, align_corners=False)
        return 2 * images - 1

    def read(self, tokens: Tensor, words: Tensor) -> Tensor:
        """Scores `(B,)` of pictures that `tokens` has already seen."""
        picture = tokens.flatten(2).mT + self.position
        blank = words == 0
        read = self.reader(self.words(words) + self.order, picture, tgt_key_padding_mask=blank)
        read = read.masked_fill(blank[..., None], 0.0).sum(dim=1) / (~blank).sum(dim=1, keepdim=True)
        return self.head(read).squeeze(-1)

    def features(self, images: Tensor) -> Tensor:
        """Unit vectors `(B, 4 * width)`: what is seen in each quarter of the picture, for distances between images."""
        return F.normalize(F.adaptive_avg_pool2d(self.tokens(images), 2).flatten(1), dim=1)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)
