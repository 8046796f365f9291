"""The reward actor: holds the rewards of one environment and scores images out of the object store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from rewards.canary import Canary, ask, differs
from rewards.checked import Checked
from rewards.errors import RewardFailed
from rewards.missing import score_those_there
from rewards.reward import Reward, Scores, to_images
from rewards.weighted import WeightedSum


class RewardActor:
    """Scores images under several rewards; made a Ray actor by `cluster.crew`.

    Args:
        rewards: Makes each reward, by name: here, because only here are its packages.

    Raises:
        UnknownReward: If there is no such reward.
        RewardUnavailable: If one cannot be built.
    """

    def __init__(self, rewards: Mapping[str, Callable[[], Reward]]) -> None:
        self._rewards = {name: Checked.make(name, make) for name, make in rewards.items()}

    def ready(self) -> None:
        """Answers once the models are loaded."""

    def wrong(self, canaries: Mapping[str, Sequence[tuple[Canary, np.ndarray]]]) -> list[str]:
        """What is wrong with rewards by pictures whose score is known, a sentence each.

        Args:
            canaries: By the reward's name, each with its picture `(1, H, W, 3)` uint8.

        Raises:
            RewardUnavailable: If a reward is gone for good, or answers with something else than scores.
        """
        found = []
        for name, known in canaries.items():
            for canary, pixels in known:
                try:
                    sentence = differs(name, canary, ask(self._rewards[name], pixels, canary.prompt))
                except RewardFailed as error:
                    sentence = str(error)
                found += [sentence] if sentence else []
        return found

    @torch.no_grad()
    def score(
        self,
        pixels: np.ndarray,
        prompts: Sequence[str],
        features: str | None = None,
        strict: bool = False,
        candidates: tuple[np.ndarray, np.ndarray] | None = None,
        judges: Sequence[str] = (),
    ) -> Scores:
        """Score images under every reward.

        A reward that cannot judge an image says NaN; one that raises says nothing of all of them, and does not keep the
        others from answering.

        Args:
            pixels: `(B, H, W, 3)` uint8; pictures that are masked are not there, and their scores are NaN.
            prompts: One an image.
            features: Also return the image features of this reward.
            strict: Take no scores but `(B,)`, as before a run; during one, what can be read is.
            candidates: Images `(B, K, M, H, W, 3)` uint8 that M candidates for each of K next states are predicted to
                become, masked as `pixels` are, and the training timesteps `(K,)` of those states.
            judges: The rewards that judge the candidates.

        Raises:
            RewardUnavailable: If a reward is gone for good, or answers with something else than scores.
            TypeError: If the reward has no image features.
        """
        if candidates is not None:
            found = self.score(pixels, prompts, features, strict)
            judged, failed = self._judge(*candidates, prompts, judges)
            return replace(found, candidates=judged, failed={**found.failed, **failed})
        if np.ma.is_masked(pixels):
            return score_those_there(partial(self.score, features=features), tuple(self._rewards), pixels, prompts)
        images = to_images(pixels)
        values, failed = np.full((len(self._rewards), len(images)), np.nan, np.float32), {}
        for row, (name, reward) in zip(values, self._rewards.items(), strict=True):
            try:
                own = images.clone()  # to do with as it likes
                row[:] = reward.score(own, prompts, strict).detach().cpu().numpy()
            except RewardFailed as error:
                failed[name] = str(error)
        embedding = None
        if features is not None:
            try:
                embedding = self._rewards[features].embed(images).detach().cpu().numpy()
            except RewardFailed as error:
                failed[features] = str(error)
        return Scores(tuple(self._rewards), values, embedding, failed)

    @torch.no_grad()
    def answer(self, pixels: np.ndarray, prompts: Sequence[str], name: str, features: bool = False) -> np.ndarray:
        """What one reward says of images: scores `(B,)`, or its image features `(B, D)`, float32 both.

        Args:
            pixels: `(B, H, W, 3)` uint8.
            prompts: One an image.
            name: Of the reward.
            features: Whether they are asked for, and not scores.

        Raises:
            RewardUnavailable: If it is gone for good, or answers with something else.
            RewardFailed: If it raises.
            TypeError: If it has no image features.
        """
        reward, images = self._rewards[name], to_images(pixels)
        answer = reward.embed(images) if features else reward.score(images, prompts)
        return answer.detach().float().cpu().numpy()

    def _judge(
        self, pictures: np.ndarray, times: np.ndarray, prompts: Sequence[str], judges: Sequence[str]
    ) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Scores `(B, K, M)` of candidates by reward, and a sentence for each reward that raised."""
        judged, failed = {}, {}
        repeated = [prompt for prompt in prompts for _ in range(pictures.shape[2])]
        for name in self._rewards.keys() & set(judges):
            values = np.full(pictures.shape[:3], np.nan, np.float32)
            try:
                for number, time in enumerate(times.tolist()):
                    images = to_images(pictures[:, number].reshape(-1, *pictures.shape[3:]))
                    scores = self._rewards[name].score_at(images, repeated, torch.full((len(images),), time))
                    values[:, number] = scores.detach().cpu().numpy().reshape(values[:, number].shape)
                if np.ma.is_masked(pictures):
                    values[np.ma.getmaskarray(pictures)[..., 0, 0, 0]] = np.nan
            except RewardFailed as error:
                failed[name] = str(error)
            judged[name] = values
        return judged, failed

    def weighted_sum(
        self, images: np.ndarray, prompts: Sequence[str], weights: Mapping[str, float], gradient: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The weighted sum of the rewards, each on its own scale, and its gradient where that is asked for.

        Args:
            images: `(B, 3, H, W)` float32 in [0, 1].
            prompts: One an image.
            weights: Of each reward by name.
            gradient: Whether to differentiate.

        Returns:
            Scores `(B,)` and d score / d image `(B, 3, H, W)`, float32.

        Raises:
            RewardUnavailable: If a reward is gone for good, or its answer is none.
            RewardFailed: If one raises.
        """
        reward = WeightedSum([(weight, self._rewards[name]) for name, weight in weights.items() if weight])
        pixels = torch.from_numpy(np.array(images))
        if not gradient:
            with torch.no_grad():
                return reward.score(pixels, prompts).detach().cpu().numpy(), None
        scores, gradients = reward.score_and_grad(pixels, prompts)
        return scores.cpu().numpy(), gradients.cpu().numpy()
