"""A world's small step-aware preference model: the scorer, told how noisy the state was that a picture is predicted of.

The time modulates what the scorer's tower sees, channel by channel, as it does in SPO's model (Liang et al., arXiv
2406.04314). A new one changes nothing: it scores every picture as the scorer it begins as. Trained by
`rewards.fit_steps`.
"""

from __future__ import annotations

from diffusers.models.embeddings import get_timestep_embedding
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from shapes.scorer import Scorer
from shapes.worlds import FIRST

_FREQUENCIES = 64


class StepScorer(nn.Module, PyTorchModelHubMixin):
    """Image-prompt agreement of predicted images.

    Args:
        width: See `Scorer`, as the others.
        layers: See there.
        world: See there.
    """

    def __init__(self, width: int = 96, layers: int = 2, world: str = FIRST.name) -> None:
        super().__init__()
        self.scorer = Scorer(width, layers, world)
        self._sizes = (32, 64, width)  # channels after each part of the tower that is modulated
        last = nn.Linear(64, 2 * sum(self._sizes))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.time = nn.Sequential(nn.Linear(_FREQUENCIES, 64), nn.SiLU(), last)

    def forward(self, images: Tensor, words: Tensor, times: Tensor) -> Tensor:
        """Scores `(B,)` of images `(B, 3, H, W)` in [0, 1], each predicted at a state.

        Args:
            images: Of any size.
            words: `(B, MAX_WORDS)`, see `Scorer.tokenize`.
            times: `(B,)` training timesteps of the states, 0 to 1000; 0 of the image itself.
        """
        embedded = get_timestep_embedding(times.float(), _FREQUENCIES, flip_sin_to_cos=True)
        modulation = self.time(embedded.to(images.dtype)).split([2 * size for size in self._sizes], dim=1)
        x, tower = self.scorer.sized(images), self.scorer.tower
        for number, of_part in enumerate(modulation):
            shift, scale = of_part[..., None, None].chunk(2, dim=1)
            x = tower[2 * number + 1](tower[2 * number](x)) * (1 + scale) + shift
        return self.scorer.read(x, words)

    @classmethod
    def of(cls, scorer: Scorer) -> StepScorer:
        """A new one that scores as a trained scorer."""
        made = cls(scorer.words.embedding_dim, len(scorer.reader.layers), scorer.world.name)
        made.scorer.load_state_dict(scorer.state_dict())
        return made
