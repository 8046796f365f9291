"""The frozen records that travel between actors.

Letters: B samples, K stored transitions, C H W latent. On the wire everything is numpy: Ray reads it without a copy,
and float32 because half precision would break the likelihood ratios. Arrays out of the object store are read-only.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Request:
    """One unit of sampling: B samples, each named by what its noise is keyed with.

    The same request gives the same rollout on every sampler, at every attempt.
    """

    seed: int  # of the run
    iteration: int  # of the run, or `EVALUATION`
    prompts: tuple[str, ...]  # (B,)
    prompt_index: tuple[int, ...]  # (B,) which prompt of the iteration; samples that share it form a group
    sample_index: tuple[int, ...]  # (B,) which sample of that prompt
    stored_steps: tuple[int, ...] = ()  # (K,) sampler steps whose transitions the objective wants
    share_init_noise: bool = False  # all samples of a prompt start from the same x_T

    def __post_init__(self) -> None:
        if not len(self.prompts) == len(self.prompt_index) == len(self.sample_index):
            raise ValueError("A request needs one prompt index and one sample index for every prompt.")
        if list(self.stored_steps) != sorted(set(self.stored_steps)):
            raise ValueError(f"The stored steps must ascend without repeats, not {self.stored_steps}.")


# The `iteration` of evaluation rollouts: beyond every training iteration, so their seeds are never trained on.
EVALUATION = 2**63


@dataclass(frozen=True)
class Trajectories:
    """The stored transitions of one request's samples, in the request's order."""

    latents: np.ndarray  # (B, K, C, H, W) float32, x_t
    next_latents: np.ndarray  # (B, K, C, H, W) float32, the sampled x_next
    log_probs: np.ndarray  # (B, K) float32, of x_next under the behaviour policy, nats per dimension
    steps: np.ndarray  # (K,) int64, sampler step of each transition
    prompts: tuple[str, ...]  # (B,)
    prompt_index: np.ndarray  # (B,) int64
    version: int  # of the weights that acted


@dataclass(frozen=True)
class Weights:
    """A LoRA adapter on its way from the learner to the samplers: one flat buffer, so one object and one checksum."""

    version: int
    flat: np.ndarray  # (P,) float32
    index: tuple[tuple[str, tuple[int, ...]], ...]  # name and shape of each parameter, in the order of `flat`
    crc32: int

    @classmethod
    def pack(cls, version: int, flat: np.ndarray, index: tuple[tuple[str, tuple[int, ...]], ...]) -> Weights:
        """Stamp a buffer with its checksum."""
        return cls(version, flat, index, zlib.crc32(np.ascontiguousarray(flat).data))

    def verify(self) -> None:
        """Raises `ValueError` if the buffer is not the one that was packed."""
        if (found := zlib.crc32(np.ascontiguousarray(self.flat).data)) != self.crc32:
            raise ValueError(
                f"Weights of version {self.version} arrived damaged (checksum {found:08x}, expected {self.crc32:08x})."
            )
