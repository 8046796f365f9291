"""What an objective trains on: one iteration's trajectories as one, with an advantage for each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.trajectories import Trajectories

_SENT = ("clean", "kl", "kl_states", "kl_steps", "candidates")  # of trajectories, where they were asked for
_OPTIONAL = (*_SENT, "means", "judged")  # of a batch, a row a sample


@dataclass(frozen=True)
class Batch:
    """B samples with K stored transitions each; samples that are compared share a group."""

    latents: Tensor  # (B, K, ...) float32, x_t
    next_latents: Tensor  # (B, K, ...) float32, the sampled x_next
    log_probs: Tensor  # (B, K) float32, behaviour policy, nats per dimension; 0 where the step adds no noise
    steps: Tensor  # (K,) int64, sampler step of each transition
    prompts: tuple[str, ...]  # (B,)
    groups: Tensor  # (B,) int64
    rewards: Tensor  # (B,) float32, see `learner.advantages`; NaN where the sample was dropped
    version: int  # the oldest weights that acted
    keys: np.ndarray | None = None  # (B, 5) uint64, of the noise: `actors.rollout.chain` goes the same way again
    clean: Tensor | None = None  # (B, ...) float32, the final latents, where they were asked for
    # (B, K, ...) float32, the behaviour policy's means of x_next where the learner took them again, NaN elsewhere
    means: Tensor | None = None
    kl: Tensor | None = None  # (B,) float32, see `Trajectories`, as the two below
    kl_states: Tensor | None = None  # (B, ...) float32
    kl_steps: Tensor | None = None  # (B,) int64
    candidates: Tensor | None = None  # (B, K, M, ...) float32, see `Trajectories`
    judged: Tensor | None = None  # (B, K, M) float32, the weighted rewards of what they are predicted to become
    scores: Mapping[str, Tensor] = field(default_factory=dict)  # (B,) float32 of each reward, as it said them

    def take(self, rows: Tensor) -> Batch:
        """Some of the samples, by rows `(b,)` int64."""
        optional: dict[str, Any] = {
            name: None if (own := getattr(self, name)) is None else own[rows] for name in _OPTIONAL
        }
        return replace(
            self,
            latents=self.latents[rows],
            next_latents=self.next_latents[rows],
            log_probs=self.log_probs[rows],
            prompts=tuple(self.prompts[row] for row in rows.tolist()),
            groups=self.groups[rows],
            rewards=self.rewards[rows],
            keys=self.keys_of(rows),
            **optional,
            scores={name: values[rows] for name, values in self.scores.items()},
        )

    def keys_of(self, rows: Tensor) -> np.ndarray | None:
        """The keys `(n, 5)` of samples `(n,)`, where there are any."""
        return None if self.keys is None else self.keys[rows.numpy()]

    def state_dict(self) -> dict[str, Any]:
        """All of it as tensors and plain values, for objectives that keep batches; prompts without their metadata."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        keys = None if self.keys is None else torch.from_numpy(self.keys.view(np.int64).copy())
        return values | {"keys": keys, "prompts": [str(prompt) for prompt in self.prompts], "scores": dict(self.scores)}

    @classmethod
    def of_state_dict(cls, state: Mapping[str, Any]) -> Batch:
        """The batch whose `state_dict` it is."""
        keys = None if state["keys"] is None else state["keys"].cpu().numpy().view(np.uint64)
        kept = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in state.items()}
        scores = {name: values.cpu() for name, values in state["scores"].items()}
        return cls(**kept | {"keys": keys, "prompts": tuple(state["prompts"]), "scores": scores})


def joined(batches: Sequence[Batch]) -> Batch:
    """Batches of the same stored steps as one, whose groups stay apart."""
    first = batches[0]
    offsets = np.cumsum([0, *(int(batch.groups.max()) + 1 if len(batch.groups) else 0 for batch in batches[:-1])])
    tensors = ("latents", "next_latents", "log_probs", "rewards")
    optional: dict[str, Any] = {
        name: None if getattr(first, name) is None else torch.cat([getattr(batch, name) for batch in batches])
        for name in _OPTIONAL
    }
    return replace(
        first,
        **{name: torch.cat([getattr(batch, name) for batch in batches]) for name in tensors},
        groups=torch.cat([batch.groups + int(offset) for batch, offset in zip(batches, offsets, strict=True)]),
        prompts=tuple(prompt for batch in batches for prompt in batch.prompts),
        version=min(batch.version for batch in batches),
        keys=np.concatenate([batch.keys for batch in batches if batch.keys is not None]),
        **optional,
        scores={name: torch.cat([batch.scores[name] for batch in batches]) for name in first.scores},
    )


def collate(
    trajectories: Sequence[Trajectories],
    rewards: np.ndarray,
    scores: Mapping[str, np.ndarray] | None = None,
    judged: np.ndarray | None = None,
) -> Batch:
    """Join rollouts in the order given; arrays from the object store are copied on the way.

    A sample of which a stored number is not finite is left out altogether: multiplied by a weight of 0 it would still
    make every gradient NaN.

    Args:
        trajectories: Rollouts that stored the same sampler steps.
        rewards: `(B,)` over all of their samples.
        scores: `(B,)` of each reward by name.
        judged: `(B, K, M)`, where there are candidates.

    Raises:
        ValueError: If the rollouts stored different steps, or there is not one reward a sample.
    """
    first = trajectories[0]
    if any(not np.array_equal(t.steps, first.steps) for t in trajectories):
        raise ValueError("Rollouts of one batch must have stored the same sampler steps.")
    prompts = tuple(prompt for t in trajectories for prompt in t.prompts)
    if len(prompts) != len(rewards):
        raise ValueError(f"There are {len(prompts)} samples and {len(rewards)} rewards.")

    names = ("latents", "next_latents", "log_probs", *(name for name in _SENT if getattr(first, name) is not None))
    stored = {name: np.concatenate([getattr(t, name) for t in trajectories]) for name in names}
    finite = np.all([np.isfinite(v).all(axis=tuple(range(1, v.ndim))) for v in stored.values()], axis=0)
    if not finite.all():
        stored = {name: values[finite] for name, values in stored.items()}

    return Batch(
        **{name: torch.from_numpy(values) for name, values in stored.items()},
        steps=torch.from_numpy(np.array(first.steps)),
        prompts=tuple(prompt for prompt, kept in zip(prompts, finite, strict=True) if kept),
        groups=torch.from_numpy(np.concatenate([t.prompt_index for t in trajectories])[finite]),
        rewards=torch.from_numpy(np.array(rewards, np.float32)[finite]),
        version=min(t.version for t in trajectories),
        keys=np.concatenate([t.keys for t in trajectories])[finite],
        scores={name: torch.from_numpy(np.array(own, np.float32)[finite]) for name, own in (scores or {}).items()},
        judged=None if judged is None else torch.from_numpy(np.array(judged, np.float32)[finite]),
    )
