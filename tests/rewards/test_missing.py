"""Pictures that are not there are not judged, and the others are judged as if these had not been asked about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from torch import Tensor

from rewards.actor import RewardActor
from rewards.reward import Reward

PROMPTS = ("one", "two", "three", "four")
PIXELS = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.full((1, 5, 7, 3), 50, np.uint8)


class Brightness(Reward):
    """How bright a picture is; has seen whatever it was asked about."""

    seen: list[str]

    def __init__(self) -> None:
        self.seen = []

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.seen += prompts
        return images.flatten(1).mean(dim=1)

    def embed(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :2]


def masked(*missing: int) -> np.ndarray:
    mask = np.zeros(PIXELS.shape, bool)
    mask[list(missing)] = True
    return np.ma.masked_array(PIXELS, mask)


@pytest.mark.parametrize("missing", [(0,), (1, 3), (0, 1, 2)])
def test_missing_pictures_have_no_score_and_no_features(missing: tuple[int, ...]) -> None:
    reward = Brightness()
    actor = RewardActor({"brightness": lambda: reward})
    whole = actor.score(PIXELS, PROMPTS, features="brightness")
    reward.seen.clear()
    found = actor.score(masked(*missing), PROMPTS, features="brightness")
    rows = [row for row in range(4) if row not in missing]
    assert reward.seen[: len(rows)] == [PROMPTS[row] for row in rows]
    assert found.names == whole.names
    assert np.isnan(found.values[:, list(missing)]).all()
    assert np.array_equal(found.values[:, rows], whole.values[:, rows])
    assert found.features is not None
    assert whole.features is not None
    assert np.array_equal(found.features[rows], whole.features[rows])
    assert np.isnan(found.features[list(missing)]).all()


def test_where_none_is_there_nobody_is_asked() -> None:
    reward = Brightness()
    found = RewardActor({"brightness": lambda: reward}).score(masked(0, 1, 2, 3), PROMPTS, features="brightness")
    assert np.isnan(found.values).all()
    assert found.values.shape == (1, 4)
    assert found.features is None
    assert reward.seen == []
