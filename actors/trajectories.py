"""The frozen records that travel between actors.

Letters: B samples, K stored transitions; a state may have any number of dimensions, written as dots. On the wire
everything is numpy: Ray reads it without a copy, and float32 because half precision would break the likelihood ratios.
Arrays out of the object store are read-only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from xxhash import xxh3_64, xxh3_64_intdigest

_PIECE = 2**17  # numbers; 512 KiB stay in a core's cache


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
    clean: bool = False  # the final latents travel too
    first_step: int = 0  # of the chain; where there is a start, that is noised to the state before it
    # (B,) of (h, w, 3) uint8, images to begin from; one of another size is cut and resized to the policy's
    start: Sequence[np.ndarray] | None = field(default=None, compare=False)
    # Of the steps that may add noise, the first and the one after the last; the others follow the ODE. `None`: as the
    # policy's own chain.
    noisy_steps: tuple[int, int] | None = None
    kl: bool = False  # one state of each chain travels too, with the KL that it tells of (`actors.chain_kl`)
    everywhere: bool = False  # the adapter acts at every step, as an exported one does
    candidates: int = 1  # next states drawn at each stored step; of more than one the rewards judge what they become

    def __post_init__(self) -> None:
        if self.start is None and self.first_step:
            raise ValueError("A request that begins within the chain needs images to begin from.")
        if self.start is not None and len(self.start) != len(self.prompts):
            raise ValueError(f"A request needs one image for every prompt, not {len(self.start)}.")
        if not len(self.prompts) == len(self.prompt_index) == len(self.sample_index):
            raise ValueError("A request needs one prompt index and one sample index for every prompt.")
        if list(self.stored_steps) != sorted(set(self.stored_steps)):
            raise ValueError(f"The stored steps must ascend without repeats, not {self.stored_steps}.")
        if self.stored_steps and self.stored_steps[0] < self.first_step:
            raise ValueError(f"Step {self.stored_steps[0]} is to be stored, but the chain begins at {self.first_step}.")

    @property
    def keys(self) -> np.ndarray:
        """What each sample's noise is keyed with, see `Trajectories.keys`."""
        first = (0,) * len(self.prompts) if self.share_init_noise else self.sample_index
        columns = zip(self.prompt_index, self.sample_index, first, strict=True)
        return np.array([(self.seed, self.iteration, *rest) for rest in columns], np.uint64).reshape(-1, 5)


# The `iteration` of evaluation rollouts: beyond every training iteration, so their seeds are never trained on.
EVALUATION = 2**63


@dataclass(frozen=True)
class Trajectories:
    """The stored transitions of one request's samples, in the request's order."""

    latents: np.ndarray  # (B, K, ...) float32, x_t
    next_latents: np.ndarray  # (B, K, ...) float32, the sampled x_next
    # (B, K) float32, of x_next under the behaviour policy, nats per dimension; 0 where the step adds no noise
    log_probs: np.ndarray
    steps: np.ndarray  # (K,) int64, sampler step of each transition
    prompts: tuple[str, ...]  # (B,)
    prompt_index: np.ndarray  # (B,) int64
    version: int  # of the weights that acted
    # (B, 5) uint64, what noise is keyed with: seed, iteration, prompt, sample, and the sample that x_T is keyed with
    keys: np.ndarray
    clean: np.ndarray | None = None  # (B, ...) float32, the final latents, where they were asked for
    # Where they were asked for and defined (`actors.chain_kl`):
    kl: np.ndarray | None = None  # (B,) float32, estimates of the whole chain's KL to the pretrained model, nats
    kl_states: np.ndarray | None = None  # (B, ...) float32, the state that each was taken at
    kl_steps: np.ndarray | None = None  # (B,) int64, the step that begins there
    # Where there are M > 1 candidates:
    candidates: np.ndarray | None = None  # (B, K, M, ...) float32, the next states that were drawn; the first is x_next
    # (B, K, M, H, W, 3) uint8, the images that are predicted of them, masked where one is not finite; a sampler hands
    # these to the rewards instead
    predicted: np.ndarray | None = None
    times: np.ndarray | None = None  # (K,) float32, training timesteps of the next states, 0 of the image


@dataclass(frozen=True)
class Weights:
    """A LoRA adapter on its way from the learner to the samplers: one flat buffer, so one object and one checksum."""

    version: int
    flat: np.ndarray  # (P,) float32
    index: tuple[tuple[str, tuple[int, ...]], ...]  # name and shape of each parameter, in the order of `flat`
    checksum: int  # XXH3, 64 bits, of the bytes of `flat`

    @classmethod
    def pack(cls, version: int, flat: np.ndarray, index: tuple[tuple[str, tuple[int, ...]], ...]) -> Weights:
        """Stamp a buffer with its checksum."""
        return cls(version, flat, index, xxh3_64_intdigest(np.ascontiguousarray(flat).data))

    def copy_to(self, own: np.ndarray) -> None:
        """Copy the buffer and verify the copy, in one pass: each piece is hashed while it is in the cache.

        Args:
            own: `(P,)` float32, the reader's memory.

        Raises:
            ValueError: If what was copied is not what was packed, or `own` is of another size; it is of no use then.
        """
        if own.shape != self.flat.shape:
            raise ValueError(
                f"Weights of version {self.version} are of another adapter: {self.flat.size} parameters where "
                f"{own.size} are expected. Samplers and learner must be built from the same policy config."
            )
        digest = xxh3_64()
        for start in range(0, own.size, _PIECE):
            piece = own[start : start + _PIECE]
            piece[:] = self.flat[start : start + _PIECE]
            digest.update(piece.data)
        if (found := digest.intdigest()) != self.checksum:
            raise ValueError(
                f"Weights of version {self.version} arrived damaged (checksum {found:016x}, expected "
                f"{self.checksum:016x})."
            )
