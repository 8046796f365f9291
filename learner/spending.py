"""What a run has spent: images drawn, images that the reward was shown, its gradients, evaluations of the network.

All are counted alike for every objective, so that methods can be compared at equal cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from torch import Tensor

from actors.policy import Policy
from learner.batch import Batch
from learner.ranks import Ranks
from learner.reward_gradient import RewardModel

ImageSource = Literal["drawn", "chosen", "judged", "labelled"]


class Judged:
    """A reward model that counts the images it is shown, and those of them whose gradient is asked for.

    Args:
        reward: Who answers.
    """

    def __init__(self, reward: RewardModel) -> None:
        self._reward, self.images, self.gradients = reward, 0, 0

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """See `RewardModel`."""
        self.images += len(images)
        return self._reward.score(images, prompts)

    def score_and_grad(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """See `RewardModel`."""
        self.images += len(images)
        self.gradients += len(images)
        return self._reward.score_and_grad(images, prompts)


class Spending:
    """The account of a run. Seconds are not in it, since checkpoints are the same bit for bit: they are `Update`'s.

    `images_drawn` are the images of every batch, also those that no update uses. `reward_queries` are these, those that
    candidates are predicted to become, and the predicted images that the objective has judged, with or without a
    gradient; `reward_gradients` are those with one.
    `network_evaluations` are those that drew the batches, a row and step each, and those of the updates; a guided
    prediction is two, and the way back is not counted by itself.

    Args:
        policy: Counts its evaluations.
        judged: What the objective asks; `None` where it asks for none.
        offline_batches: Of the plan; a batch that comes again costs nothing.
        source: Whose images the batches are: of samplers, judged by the rewards or chosen between by people; of a
            dataset, judged by the rewards, or by people before.

    Attributes:
        spent: Totals of the batches so far, by name; belongs into checkpoints.
    """

    def __init__(
        self, policy: Policy, judged: Judged | None, offline_batches: int, source: ImageSource = "drawn"
    ) -> None:
        self._policy, self._judged, self._offline, self._source = policy, judged, offline_batches, source
        self.spent = {"images_drawn": 0, "reward_queries": 0, "reward_gradients": 0, "network_evaluations": 0}
        self._seen = self._counters()

    def draw(self, batch: Batch, version: int) -> None:
        """Enter a batch, with which the update of `version` begins."""
        images = len(batch.prompts)
        self._seen = self._counters()
        if self._offline and version >= self._offline:
            return
        if self._source != "labelled":
            self.spent["reward_queries"] += images
        if self._source in ("drawn", "chosen"):
            steps = len(self._policy.transitions) - self._policy.transitions.first_step
            self.spent["images_drawn"] += images
            self.spent["network_evaluations"] += images * steps * self._policy.passes
        if batch.candidates is not None:
            count = batch.candidates.shape[2]
            self.spent["reward_queries"] += images * len(batch.steps) * count
            looked = int((batch.steps + 1 < len(self._policy.transitions)).sum())  # the last are images already
            self.spent["network_evaluations"] += images * looked * (count - 1) * self._policy.passes

    def total(self, ranks: Ranks) -> dict[str, float]:
        """Enter what all ranks have spent since `draw`; returns the totals, the same on every rank."""
        now = self._counters()
        for name, number in ranks.sum_metrics({name: now[name] - self._seen[name] for name in now}).items():
            self.spent[name] += int(number)
        return {name: float(number) for name, number in self.spent.items()}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block whose evaluations are no part of the algorithm."""
        before = self._policy.evaluations
        yield
        self._policy.evaluations = before

    def _counters(self) -> dict[str, int]:
        judged = self._judged
        shown, differentiated = (0, 0) if judged is None else (judged.images, judged.gradients)
        evaluations = self._policy.evaluations
        return {"reward_queries": shown, "reward_gradients": differentiated, "network_evaluations": evaluations}
