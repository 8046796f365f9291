"""Rolls out denoising trajectories: a pure function of the policy's weights and the request.

Noise is counter-based (Philox): the key is (run seed, iteration), the counter (prompt, sample, step). A rollout
therefore does not depend on which process ran it, in what order, or on which attempt; and whoever has the keys can go
the same way again, with a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from actors.chain_kl import draw_kl_steps, has_kl, kl_from
from actors.conditioning import Conditioning
from actors.families.texts import repeated_texts
from actors.policy import Policy
from actors.trajectories import Request, Trajectories
from actors.transitions import Transitions, log_prob, over


def noise(keys: np.ndarray, step: int, shape: tuple[int, ...], candidate: int = 0) -> Tensor:
    """Standard normal noise `(B, *shape)` float32 at one point of a chain.

    Args:
        keys: `(B, 5)`, see `Trajectories.keys`.
        step: 0 for the initial state x_T, j + 1 for the noise that sampler step j adds.
        shape: Of a state.
        candidate: Which of the next states of the step; a chain goes on with the first.
    """
    draws = [
        np.random.Generator(
            np.random.Philox(
                key=np.array([seed, iteration], np.uint64),
                counter=np.array([0, step + (candidate << 32), first if step == 0 else sample, prompt], np.uint64),
            )
        ).standard_normal(shape, np.float32)
        for seed, iteration, prompt, sample, first in keys
    ]
    return torch.from_numpy(np.stack(draws))


# The guided prediction `(B, ...)` at states `(B, ...)` and steps `(B,)`, as `Policy.predict`.
Predict = Callable[[Tensor, Tensor, Conditioning], Tensor]


class Step(NamedTuple):
    """One transition of B samples."""

    number: int  # of the sampler step
    x: Tensor  # (B, ...) float32, the state
    mean: Tensor  # (B, ...) float32, of the next one under the policy
    std: Tensor  # (B, 1, ...) float32
    x_next: Tensor  # (B, ...) float32, the next one as it was drawn
    prediction: Tensor  # (B, ...) float32, the guided output of the network


def chain(
    policy: Policy,
    x: Tensor,
    conditioning: Conditioning,
    keys: np.ndarray,
    first_step: int = 0,
    noisy_steps: tuple[int, int] | None = None,
    predict: Predict | None = None,
) -> Iterator[Step]:
    """The steps of a chain from a state on; whether there is a graph is the caller's.

    Args:
        policy: Who acts.
        x: `(B, ...)` float32, the state before `first_step`.
        conditioning: Of B samples.
        keys: `(B, 5)`, see `Trajectories.keys`: the same keys add the same noise.
        first_step: Where to begin.
        noisy_steps: The first step that adds noise and the one after the last; `None` is the policy's own chain.
        predict: In the place of `policy.predict`, for who says what is kept of its graph.
    """
    transitions, previous = policy.transitions, None
    if noisy_steps is not None:
        transitions = transitions.noisy_within(*noisy_steps)
    for number in range(first_step, len(transitions)):
        index = torch.full((len(x),), number)
        prediction = (predict or policy.predict)(x, index, conditioning)
        mean, std = transitions.mean(x, prediction, index, previous), transitions.std_at(index, x)
        if transitions.of_previous is not None:
            previous = transitions.clean(x, prediction, index)
        x_next = mean + std * noise(keys, number + 1, policy.latent_shape).to(policy.device)
        yield Step(number, x, mean, std, x_next, prediction)
        x = x_next


@torch.no_grad()
def rollout(policy: Policy, request: Request, version: int = 0) -> tuple[np.ndarray, Trajectories]:
    """Sample a request's images and keep the transitions that it asks for.

    Args:
        policy: The behaviour policy, with the weights that `version` names.
        request: What to sample.
        version: Stamped on the trajectories.

    Returns:
        The images `(B, H, W, 3)` uint8, and the trajectories. If a picture, or a number on the way to it, is not
        finite, the images are a masked array in which that picture is masked: there is nothing to be judged.
    """
    shape, keys = policy.latent_shape, request.keys
    x, conditioning = _begin(policy, request, keys), policy.encode(request.prompts)
    stored, watched = [], _Watched.of(policy, request)
    tried = _Candidates(policy, request, conditioning) if request.candidates > 1 else None
    with repeated_texts(), policy.everywhere() if request.everywhere else nullcontext():
        for step in chain(policy, x, conditioning, keys, request.first_step, request.noisy_steps):
            x = step.x_next
            if step.number in request.stored_steps:
                noisy = step.std.flatten() > 0
                density = torch.where(noisy, log_prob(step.x_next, step.mean, step.std), 0.0)
                stored.append((step.x, step.x_next, density))
            if watched is not None:
                watched.see(step)
            if tried is not None:
                tried.see(step)
        found = {} if tried is None else tried.found(x)
    images = policy.decode(x)
    latents, next_latents, log_probs = (list(parts) for parts in zip(*stored, strict=True)) if stored else ([], [], [])
    finite = torch.stack([_finite(part) for part in (images, x, *latents, *next_latents, *log_probs)]).all(dim=0)
    return _mask(_pixels(images), finite.cpu().numpy()), Trajectories(
        latents=_stack(latents, (len(x), 0, *shape)),
        next_latents=_stack(next_latents, (len(x), 0, *shape)),
        log_probs=_stack(log_probs, (len(x), 0)),
        steps=np.array(request.stored_steps, np.int64),
        prompts=request.prompts,
        prompt_index=np.array(request.prompt_index, np.int64),
        version=version,
        keys=keys,
        clean=x.cpu().numpy() if request.clean else None,
        **({} if watched is None else watched.found(policy, conditioning)),
        **found,
    )


class _Watched:
    """One state of each chain, at which the KL to the pretrained model is taken.

    Args:
        transitions: The chain, with the steps in which the adapter acts.
        steps: `(B,)` int64, whose state it is.
        shape: Of all states.
        device: Of the policy.
    """

    def __init__(self, transitions: Transitions, steps: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
        self._transitions, self._steps = transitions, steps
        self._states, self._predictions = torch.zeros(2, *shape, device=device)

    @classmethod
    def of(cls, policy: Policy, request: Request) -> _Watched | None:
        """What a request asks for; `None` if it does not, or no such KL is defined."""
        own = policy.transitions
        if request.noisy_steps is not None:
            own = own.noisy_within(*request.noisy_steps)
        transitions = replace(own, first_step=request.first_step, adapted=None if request.everywhere else own.adapted)
        if not (request.kl and has_kl(transitions)):
            return None
        steps = draw_kl_steps(transitions, request.keys)
        return cls(transitions, steps, (len(steps), *policy.latent_shape), policy.device)

    def see(self, step: Step) -> None:
        """Keep the states that were drawn, where this step begins at them."""
        here = torch.nonzero(self._steps == step.number).flatten().to(step.x.device)
        self._states[here], self._predictions[here] = step.x[here], step.prediction[here]

    def found(self, policy: Policy, conditioning: Conditioning) -> dict[str, np.ndarray]:
        """The fields of `Trajectories`."""
        with policy.using(None):
            pretrained = policy.predict(self._states, self._steps, conditioning)
        kl = kl_from(self._transitions, self._predictions, pretrained)
        found = {"kl": kl, "kl_states": self._states, "kl_steps": self._steps}
        return {name: values.cpu().numpy() for name, values in found.items()}


class _Candidates:
    """Next states that are drawn beside those of the chain, and the images that the policy predicts of all of them.

    Args:
        policy: Who acts.
        request: Says how many, and at which steps.
        conditioning: Of its samples.
    """

    def __init__(self, policy: Policy, request: Request, conditioning: Conditioning) -> None:
        self._policy, self._request, self._conditioning = policy, request, conditioning
        self._states: list[Tensor] = []  # (B, M, ...) of each stored step
        self._pictures: list[np.ndarray] = []  # (B, M, H, W, 3)
        self._finite: list[np.ndarray] = []  # (B, M) bool
        self._others: list[Tensor] = []  # predicted latents of those that the chain did not take, at the last step

    def see(self, step: Step) -> None:
        """Draw the candidates of a step of the chain; of the one that it came by, the step has the prediction."""
        index = torch.full((len(step.x),), step.number)
        self._show(self._policy.transitions.clean(step.x, step.prediction, index))
        if step.number not in self._request.stored_steps:
            return
        shape, keys = self._policy.latent_shape, self._request.keys
        draws = [noise(keys, step.number + 1, shape, other) for other in range(1, self._request.candidates)]
        others = [step.mean + step.std * draw.to(step.mean.device) for draw in draws]
        self._states.append(torch.stack([step.x_next, *others], dim=1))
        if step.number + 1 < len(self._policy.transitions):  # the last are images themselves
            others = [self._policy.clean(other, index + 1, self._conditioning) for other in others]
        self._others = others

    def found(self, x: Tensor) -> dict[str, np.ndarray]:
        """The fields of `Trajectories`, once the chain is at the image."""
        self._show(x)
        after = [step + 1 for step in self._request.stored_steps]
        timesteps = [*self._policy.transitions.timesteps.tolist(), 0.0]
        return {
            "candidates": torch.stack(self._states, dim=1).cpu().numpy(),
            "predicted": _mask(np.stack(self._pictures, axis=1), np.stack(self._finite, axis=1)),
            "times": np.array([timesteps[state] for state in after], np.float32),
        }

    def _show(self, clean: Tensor) -> None:
        if self._others:
            latents = (clean, *self._others)
            shown = [self._policy.decode(one) for one in latents]
            finite = [_finite(one) & _finite(images) for one, images in zip(latents, shown, strict=True)]
            self._pictures.append(np.stack([_pixels(images) for images in shown], axis=1))
            self._finite.append(torch.stack(finite, dim=1).cpu().numpy())
            self._others = []


def _begin(policy: Policy, request: Request, keys: np.ndarray) -> Tensor:
    """The state before the request's first step."""
    drawn = noise(keys, 0, policy.latent_shape).to(policy.device)
    if request.start is None:
        return drawn
    fitted = np.stack([fit(image, policy.picture_size) for image in request.start])
    images = torch.from_numpy(fitted).to(policy.device).permute(0, 3, 1, 2) / 255
    clean, state = policy.encode_images(images), torch.full((len(drawn),), request.first_step)
    tables = policy.transitions.signal, policy.transitions.sigma
    signal, sigma = (over(table.float()[state], drawn) for table in tables)
    return signal * clean + sigma * drawn


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture of a height and width: the largest middle part of that shape, resized; one that has them, as it is."""
    return np.asarray(ImageOps.fit(Image.fromarray(image), size[::-1], Image.Resampling.LANCZOS))


def _pixels(images: Tensor) -> np.ndarray:
    """`(B, H, W, 3)` uint8 of images `(B, 3, H, W)` in [0, 1]; what is not a number is black."""
    return (images.nan_to_num() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _finite(values: Tensor) -> Tensor:
    """Which samples `(B,)` have no NaN or infinite number in values `(B, ...)`."""
    return values.flatten(1).isfinite().all(dim=1) if values.dim() > 1 else values.isfinite()


def _mask(pixels: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Pictures `(..., H, W, 3)`, those masked that are not there; `there` `(...)` bool says which are."""
    if there.all():
        return pixels
    return np.ma.masked_array(pixels, np.broadcast_to(~there[..., None, None, None], pixels.shape))


def _stack(parts: list[Tensor], empty: tuple[int, ...]) -> np.ndarray:
    return torch.stack(parts, dim=1).cpu().numpy() if parts else np.empty(empty, np.float32)
