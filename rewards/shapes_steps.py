"""Agreement of prompt and the picture that a noisy state is predicted to become, by a world's step-aware scorer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from rewards.step_aware import StepAware
from shapes import SCORERS, STEP_SCORERS
from shapes.scorer import Scorer
from shapes.step_scorer import StepScorer


class ShapesSteps(StepAware):
    """The world's step-aware preference model; one unit is one logit of a Bradley-Terry comparison.

    Args:
        checkpoint: Folder of a `StepScorer`; `first` is that of the first embedded world.
        begin: Begin as the plain scorer of this world, or folder, instead, which takes no notice of the time.
    """

    network: StepScorer

    def __init__(self, checkpoint: str | Path = "first", begin: str | Path | None = None) -> None:
        if begin is None:
            self.network = StepScorer.from_pretrained(STEP_SCORERS.get(str(checkpoint), checkpoint))
        else:
            self.network = StepScorer.of(Scorer.from_pretrained(SCORERS.get(str(begin), begin)).float())
        self.network.float().eval().requires_grad_(False)

    def score_at(self, images: Tensor, prompts: Sequence[str], times: Tensor) -> Tensor:
        return self.network(images, self.network.scorer.tokenize(prompts), times)

    def save(self, folder: Path) -> None:
        self.network.half()
        self.network.save_pretrained(folder)
        self.network.float()
