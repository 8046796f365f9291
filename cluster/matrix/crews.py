"""Which draws one crew of samplers can answer: checkpoints whose adapters are alike, and the base model among them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from safetensors import safe_open

from actors.adapters import read_tensors
from actors.config import PolicyConfig
from actors.trajectories import Weights
from cluster.matrix.draws import Draw, without_adapter
from cluster.trained import Trained


@dataclass(frozen=True)
class Work:
    """Draws for samplers of one policy."""

    policy: PolicyConfig
    draws: tuple[Draw, ...]

    def weights(self, draw: Draw) -> Weights | None:
        """What the samplers act with; `None` is what they were loaded with.

        Raises:
            ValueError: If the adapter's file cannot be read.
        """
        if all(other.model.policy == self.policy for other in self.draws):
            return None
        file = Trained("", self.policy).adapter if draw.model.bare else draw.model.adapter
        assert file is not None
        named = sorted((name.partition(".")[2], tensor) for name, tensor in read_tensors(file).items())
        flat = np.concatenate([tensor.float().numpy().ravel() for _, tensor in named])
        index = tuple((name, tuple(tensor.shape)) for name, tensor in named)
        return Weights.pack(0, np.zeros_like(flat) if draw.model.bare else flat, index)


def share_out(draws: Sequence[Draw]) -> list[Work]:
    """Put together what one crew can draw."""
    alike: dict[str, list[Draw]] = {}
    for draw in draws:
        if not draw.model.bare:
            alike.setdefault(_kind(draw.model), []).append(draw)
    for draw in (draw for draw in draws if draw.model.bare):
        hosts = [
            of_kind for of_kind in alike.values()
            if _is_ours(of_kind[0].model) and without_adapter(of_kind[0].model).policy == draw.model.policy
        ]  # fmt: skip
        (hosts[0] if hosts else alike.setdefault(draw.model.policy.model_dump_json(), [])).append(draw)
    return [Work(of_kind[0].model.policy, tuple(of_kind)) for of_kind in alike.values()]


def _is_ours(model: Trained) -> bool:
    """Whether its adapter is a file that a learner wrote, whose tensors are in the order of `Policy.weights`."""
    return model.checkpoint is not None and model.policy.init_lora is not None


def _kind(model: Trained) -> str:
    """Equal for models whose adapters the same samplers can act with."""
    if not _is_ours(model):
        return model.policy.model_dump_json()
    assert model.adapter is not None
    with safe_open(model.adapter, framework="np") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in sorted(file.keys())}
        metadata = file.metadata()
    settings = model.policy.model_copy(update={"init_lora": None}).model_dump(mode="json")
    return json.dumps([settings, metadata, shapes], sort_keys=True)
