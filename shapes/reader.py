"""A small network that reads an embedded world's pictures: which things are in them, and on which background.

Nothing that is trained on shares anything with it, so its features serve to measure diversity and distance, and its
reading is a second opinion beside the gold judge. Trained by `shapes.fit_reader` on renderings alone.
"""

from __future__ import annotations

import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from shapes.captions import Caption, Thing
from shapes.worlds import FIRST, WORLDS


class Reader(nn.Module, PyTorchModelHubMixin):
    """Reads pictures.

    Args:
        width: Channels of what it sees of each 4 x 4 pixels.
        world: Name of the world whose things and backgrounds it knows.
    """

    def __init__(self, width: int = 32, world: str = FIRST.name) -> None:
        super().__init__()
        self.world = WORLDS[world]
        self.things = [Thing(colour, shape) for colour in self.world.colours for shape in self.world.shapes]
        self.backgrounds = list(self.world.backgrounds)
        self.tower = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.SiLU(),
            nn.Conv2d(32, 48, 3, stride=2, padding=1), nn.GroupNorm(8, 48), nn.SiLU(),
            nn.Conv2d(48, 48, 3, padding=1), nn.GroupNorm(8, 48), nn.SiLU(),
            nn.Conv2d(48, 64, 3, stride=2, padding=1), nn.GroupNorm(8, 64), nn.SiLU(),
            nn.Conv2d(64, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.SiLU(),
            nn.Conv2d(64, width, 1), nn.SiLU(),
        )  # fmt: skip
        # Of a thing it is enough to be anywhere; the background is what most of the picture says.
        self.finds = nn.Conv2d(width, len(self.things), 1)
        self.stands = nn.Linear(width, len(self.backgrounds))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of each thing `(B, things)` and of the background `(B, backgrounds)` of images `(B, 3, H, W)`."""
        tokens = self.tower(2 * images - 1)
        return self.finds(tokens).flatten(2).amax(dim=2), self.stands(tokens.mean(dim=(2, 3)))

    def features(self, images: Tensor) -> Tensor:
        """Unit vectors `(B, 4 * width)`: what is seen in each quarter of the picture."""
        return F.normalize(F.adaptive_avg_pool2d(self.tower(2 * images - 1), 2).flatten(1), dim=1)

    def facts(self, caption: Caption) -> tuple[list[int], list[int]]:
        """The indices of the things that a caption of this world asks for, and of the background (none, or one)."""
        things = sorted({self.things.index(thing) for thing in caption.things})
        return things, [self.backgrounds.index(caption.background)] if caption.background else []
