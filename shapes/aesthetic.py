"""A small learned aesthetic score of the embedded worlds' pictures, whatever the prompt: their LAION predictor.

Smooth convolutions and a mean over the picture, so it takes pictures of any size, and its gradient is smooth. Trained
by `shapes.fit_aesthetic` on choices between two pictures, so only differences of scores mean anything; one unit is one
logit of "this picture is nicer than that one".
"""

from __future__ import annotations

from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn


class Aesthetic(nn.Module, PyTorchModelHubMixin):
    """How nice pictures are.

    Args:
        width: Channels of what it sees of each 4 x 4 pixels.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.tower = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1, padding_mode="replicate"), nn.SiLU(),
            nn.Conv2d(24, 32, 3, stride=2, padding=1, padding_mode="replicate"), nn.SiLU(),
            nn.Conv2d(32, width, 3, stride=2, padding=1, padding_mode="replicate"), nn.SiLU(),
            nn.Conv2d(width, width, 1), nn.SiLU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Scores `(B,)` of images `(B, 3, H, W)` in [0, 1]."""
        return self.head(self.tower(2 * images - 1).mean(dim=(2, 3))).squeeze(-1)
