"""What people chose, as a reward: a linear head on features of another reward, found by `rewards.fit`.

reward.json         the reward that has the features, its options, whether its score is one of them, and how the
                    head did on pairs that were held out
head.safetensors    weight, mean, scale (D,): the score is sum_i weight_i (x_i - mean_i) / scale_i
                    picture (H, W, 3) uint8 and its features (D,), by which features that have changed are known
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rewards import make_reward
from rewards.chunked import ChunkedReward
from rewards.reward import Reward, to_images

_JSON, _HEAD = "reward.json", "head.safetensors"
_TENSORS = {"weight", "mean", "scale", "picture", "features"}
_FORMAT = 1
_CHANGED = 0.02  # root mean square of a picture's features, in units of what they spread over; rounding is far below


def features(reward: Reward, images: Tensor, prompts: Sequence[str], scored: bool) -> Tensor:
    """A reward's features of images, `(B, D)`, with their graph; the last is its score if that is to be one.

    Args:
        reward: Has features.
        images: `(B, 3, H, W)` in [0, 1].
        prompts: One an image.
        scored: Whether the score is one of them, so that the prompt counts.
    """
    found = reward.embed(images)
    return torch.cat([found, reward.score(images, prompts)[:, None]], dim=1) if scored else found


@dataclass(frozen=True)
class Head:
    """What `rewards.fit` found.

    Args:
        kind: Of the reward that has the features.
        options: Of it.
        scored: Whether its score is one of the features.
        differentiable: Whether gradients flow from the features into the images.
        prompt: Of the picture.
        tensors: See the head of this file.
        report: What was found out about it.
    """

    kind: str
    options: Mapping[str, Any]
    scored: bool
    differentiable: bool
    prompt: str
    tensors: Mapping[str, Tensor]
    report: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Write a folder that `Fitted` reads.

        Raises:
            OSError: If it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(self.tensors), folder / _HEAD)
        said = {name: value for name, value in vars(self).items() if name != "tensors"}
        # Last, because a folder without it is none.
        (folder / _JSON).write_text(json.dumps({"format": _FORMAT, **said}, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Head:
        """Read a folder.

        Raises:
            ValueError: In one sentence, if it is none that `rewards.fit` wrote.
        """
        try:
            said = json.loads((folder / _JSON).read_text(encoding="utf-8"))
            if said.pop("format") != _FORMAT:
                raise ValueError("it is of another version of Reinoise")
            head = cls(tensors=load_file(folder / _HEAD), **said)
            if head.tensors.keys() != _TENSORS or len({head.tensors[n].shape for n in _TENSORS - {"picture"}}) > 1:
                raise ValueError(f"{_HEAD} has other tensors")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{folder} (options.path) is no folder that rewards.fit has written ({type(error).__name__}: {reason})."
            ) from error
        return head


class Fitted(ChunkedReward):
    """A taste fitted to choices; one unit is one logit of a choice between two pictures.

    Args:
        path: Folder that `python -m rewards.fit` has written.
        batch_size: Images that go through the model at once.
        device: Of the head, such as `cpu` or `cuda`; `auto` takes a GPU if there is one.

    Raises:
        ValueError: If it is none, or the reward whose features it was fitted on has others now.
    """

    differentiable = True  # an instance says so of itself: it is if its features are

    def __init__(self, path: str, *, batch_size: int = 16, device: str = "auto") -> None:
        super().__init__(batch_size, device)
        head = Head.load(Path(path))
        self._reward, self._scored = make_reward(head.kind, **head.options), head.scored
        self.differentiable = head.differentiable
        tensors = {name: tensor.to(self.device) for name, tensor in head.tensors.items()}
        self._weight, self._mean, self._scale = tensors["weight"], tensors["mean"], tensors["scale"]
        with torch.no_grad():
            shown = to_images(head.tensors["picture"][None].numpy()).to(self.device)
            found = features(self._reward, shown, [head.prompt], self._scored)[0]
        before = tensors["features"]
        if found.shape != before.shape or not ((found - before) / self._scale).square().mean().sqrt() < _CHANGED:
            raise ValueError(
                f"The features of the reward {head.kind!r} are not those that {path} (options.path) was fitted on: its "
                "weights, or how it prepares pictures, have changed. Use those from before, or fit again."
            )

    def score_chunk(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        found = features(self._reward, images, prompts, self._scored)
        return ((found - self._mean) / self._scale) @ self._weight
