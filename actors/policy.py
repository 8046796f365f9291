"""The policy: a pretrained model whose denoiser carries LoRA adapters, and the chain that it samples.

The trainable adapter is `policy`, the pretrained reference is "adapters off", and a moving reference is a second named
adapter that holds a copy. With `policy.train=full` what is called an adapter here is a copy of all weights
(`actors/full_weights.py`). Classifier-free guidance is part of the policy: sampling, training and the reference use the
same guided prediction. What is special about a model is its family's (`actors/families/`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from actors.adapters import Adapters, overwrite
from actors.compiling import compile_network
from actors.conditioning import Conditioning
from actors.config import PolicyConfig
from actors.devices import keep_freed_memory, pick_device
from actors.families.family import Family
from actors.full_weights import FullWeights, read_network
from actors.initial_adapter import initial_adapter, lora_shape
from actors.model_check import check_model, find_family
from actors.model_files import fetch
from actors.quantising import check_quantised
from actors.transitions import Transitions, make_transitions, over
from actors.variants import Variants

ADAPTER = "policy"
# Prompts whose embeddings stay in the host's memory, and bytes of them, whatever the length of the list. It should hold
# the prompts of an iteration, which every micro-batch asks for.
_KEPT, _BYTES = 256, 2**28


class Policy:
    """A model, its adapters and its transitions.

    A subclass for a world of its own (`benchmarks/analytic_world.py`) gives `transitions`, `device`,
    `latent_shape`, `half_precision` and `parameters`, and `encode`, `predict`, `pretrained`, `decode`, `using` and
    `snapshot`; of the rest rollouts, likelihoods and objectives use nothing.

    Args:
        family: The pretrained model; its denoiser is given the `policy` adapter, everything else is frozen.
        config: How to sample and what to adapt.

    Attributes:
        transitions: The chain that the policy samples.
        latent_shape: Of a state, such as (C, H, W).
        lora: What its adapters are like; `None` where all weights are trained.
        device: Where the networks are.
        evaluations: How many rows its network has been given by `predict`, two for a guided prediction.
    """

    evaluations = 0
    _acts_as: str | None = ADAPTER
    _everywhere = False

    def __init__(self, family: Family, config: PolicyConfig) -> None:
        self.config, self._family = config, family
        self.device = pick_device(config.device)
        self.transitions = make_transitions(
            family.levels, config.solver, config.eta, config.noisy_steps, config.final_sigma, config.adapted_steps
        )
        self.network, self.latent_shape = family.network, family.latent_shape
        self.lora = lora_shape(config, family, family.network) if config.train == "lora" else None
        self._variants: Variants = (
            FullWeights(self.network) if self.lora is None else Adapters(self.network, self.lora, family.part)
        )
        self._embeddings: dict[str | None, Conditioning] = {}
        self._variants.add(ADAPTER)
        if config.checkpointing:
            self.network.enable_gradient_checkpointing()

    @classmethod
    def load(cls, config: PolicyConfig, seed: int = 0) -> Policy:
        """Load `config.model` and add an adapter: a fresh one, whose random half is drawn from `seed`, or a given one.

        Raises:
            FileNotFoundError: If the model, or a part of it, is not there.
            ValueError: If it is damaged, of another kind, or does not fit the config or this machine.
        """
        device = pick_device(config.device)
        folder = fetch(config.model, config.variant)
        check_model(config, folder)
        kind = find_family(folder)
        check_quantised(config, device)
        dtype = config.dtype_on(device)
        family = kind.load(folder, config, device, dtype)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            policy = cls(family, config)
        if config.init_lora is not None and policy.lora is not None:
            tensors = initial_adapter(config.init_lora, kind, policy.network, ADAPTER, policy.lora)
            overwrite(policy._variants.parameters(ADAPTER), tensors)
        if config.init_weights is not None:
            tensors = read_network(Path(config.init_weights), policy.network)
            overwrite(policy._variants.parameters(ADAPTER), tensors)
        if config.compile:
            compile_network(policy.network, device, dtype)
        if device.type == "cpu":  # after the loading, whose memory is not needed again
            keep_freed_memory()
        return policy

    @classmethod
    def outline(cls, config: PolicyConfig, folder: Path, dtype: torch.dtype) -> Policy:
        """A policy of a folder that `check_model` lets pass, on the meta device: shapes without numbers.

        `predict` and `decode` run on it as on any other; what they would need is `actors.footprint`'s.
        """
        meta = torch.device("meta")
        family = find_family(folder).load(folder, config, meta, dtype)
        policy = cls(family, config.model_copy(update={"device": "cpu"}))
        policy.device = meta
        return policy

    def encode(self, prompts: Sequence[str | None]) -> Conditioning:
        """What the network is told of prompts, a row each, on the policy's device; `None` is what it is without one.

        The embeddings of the last prompts are kept. Each prompt is encoded alone, so that its embedding does not
        depend, to the last bit, on its neighbours.
        """
        found: dict[str | None, Conditioning] = {}
        for prompt in dict.fromkeys(prompts):
            if (known := self._embeddings.pop(prompt, None)) is None:
                known = self._condition(prompt)
            found[prompt] = known
        self._embeddings |= found  # in the order of use
        size = sum(known.bytes for known in self._embeddings.values())
        for prompt in list(self._embeddings):
            if size <= _BYTES and len(self._embeddings) <= _KEPT:
                break
            size -= self._embeddings.pop(prompt).bytes
        return Conditioning.cat([found[prompt] for prompt in prompts]).to(self.device)

    @torch.no_grad()
    def conditions(self, samples: int) -> Conditioning:
        """What the network is told of so many unnamed prompts; unlike `encode`, also without numbers."""
        return self._family.condition([""]).expand(samples)

    @torch.no_grad()
    def _condition(self, prompt: str | None) -> Conditioning:
        told = self._family.uncondition(None) if prompt is None else self._family.condition([prompt])
        return told.to(torch.device("cpu"))

    @cached_property
    def _unprompted(self) -> Conditioning:
        """What guidance leads away from, one row."""
        with torch.no_grad():
            return self._family.uncondition(self.config.negative_prompt).to(self.device)

    @property
    def passes(self) -> int:
        """How often the network sees a state for a guided prediction: with a prompt, and where it must, without."""
        return 1 if self.config.guidance <= 1 or self._family.tells_guidance else 2

    def predict(self, x: Tensor, step: Tensor, conditioning: Conditioning, guided: bool = True) -> Tensor:
        """The guided prediction o_uncond + w (o_cond - o_uncond) of the acting adapter: `(B, ...)` float32.

        Rows at steps in which no adapter acts (`policy.adapted_steps`) are the pretrained model's, whoever acts.
        With a guidance of at most 1 it is o_cond, as in diffusers; so it is where the family's network is told the
        guidance instead.

        Args:
            x: `(B, *latent_shape)` float32, the state.
            step: `(B,)` int64, sampler steps (not training timesteps).
            conditioning: Of `encode`, B rows.
            guided: Whether there is guidance at all; without it o_cond is the answer.
        """
        adapted = (step < self.transitions.adapted_steps).cpu()
        if self._acts_as is None or self._everywhere or adapted.all():
            return self._predict(x, step, conditioning, guided)
        if not adapted.any():
            return self.pretrained(x, step, conditioning, guided)
        parts = []
        for rows, predict in (
            (torch.nonzero(adapted).flatten(), self._predict),
            (torch.nonzero(~adapted).flatten(), self.pretrained),
        ):
            here = rows.to(x.device)
            parts.append((here, predict(x[here], step[rows.to(step.device)], conditioning.rows(rows), guided)))
        out = torch.empty_like(x)
        for here, part in parts:
            out[here] = part
        return out

    def pretrained(self, x: Tensor, step: Tensor, conditioning: Conditioning, guided: bool = True) -> Tensor:
        """The pretrained model's prediction, with a way back to the state that may be gone when the policy acts again.

        Arguments as in `predict`.
        """
        wanted = torch.is_grad_enabled() and x.requires_grad
        if recomputes := wanted and self.config.checkpointing:  # by when the adapter will be on again
            self.network.disable_gradient_checkpointing()
        try:
            with self.using(None), torch.set_grad_enabled(wanted):
                return self._predict(x, step, conditioning, guided)
        finally:
            if recomputes:
                self.network.enable_gradient_checkpointing()

    def _predict(self, x: Tensor, step: Tensor, conditioning: Conditioning, guided: bool) -> Tensor:
        timestep = self.transitions.timesteps[step.cpu()].to(self.device)
        guidance = self.config.guidance
        self.evaluations += len(x) * (self.passes if guided else 1)
        if not guided or self.passes == 1:
            return self._family.predict(x, timestep, conditioning)
        both = Conditioning.cat([self._unprompted.expand(len(x)), conditioning])
        unconditional, conditional = self._family.predict(torch.cat([x, x]), timestep.repeat(2), both).chunk(2)
        combined = unconditional + guidance * (conditional - unconditional)
        if share := self.config.guidance_rescale:
            ratio = _spread(conditional) / _spread(combined)
            combined = combined * over(share * ratio + 1 - share, combined)
        return combined

    def clean(self, x: Tensor, state: Tensor, conditioning: Conditioning, guided: bool = True) -> Tensor:
        """The image's latents `(B, *latent_shape)` that the guided prediction sees in states `(B,)` in [0, T].

        State T is the image already, and comes back as it is.
        """
        step = state.clamp(max=len(self.transitions) - 1)
        return self.transitions.clean(x, self.predict(x, step, conditioning, guided), state)

    @cached_property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of its pictures, in pixels."""
        with torch.no_grad():
            height, width = self.decode(torch.zeros(1, *self.latent_shape, device=self.device)).shape[2:]
        return height, width

    def encode_images(self, images: Tensor) -> Tensor:
        """Latents `(B, *latent_shape)` float32 of images `(B, 3, H, W)` in [0, 1]."""
        return self._family.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Images `(B, 3, H, W)` float32 in [0, 1] of latents; NaN where the decoder gives none."""
        return self._family.decode(latents)

    @property
    def half_precision(self) -> bool:
        """Whether the base rounds to half precision, so that predictions depend a little on who computes them."""
        return next(self.network.parameters()).dtype != torch.float32

    @property
    def text_width(self) -> int:
        """D, the width of the prompts' embeddings `conditioning["text"]`."""
        return self._family.text_width

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The trainable parameters: the `policy` adapter's, float32, in the order of `weights`."""
        return [parameter for _, parameter in self._variants.parameters(ADAPTER)]

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[None]:
        """Act as another adapter, or with adapters off (`None`: the pretrained model).

        Whether gradients are taken is the caller's: another adapter is never trained, but the state may be.
        """
        before, self._acts_as = self._acts_as, adapter
        self._variants.use(adapter, trained=ADAPTER)
        try:
            yield
        finally:
            self._acts_as = before
            self._variants.use(before, trained=ADAPTER)

    @contextmanager
    def everywhere(self) -> Iterator[None]:
        """Let adapters act at every step, whatever `policy.adapted_steps` says, as an exported one does."""
        before, self._everywhere = self._everywhere, True
        try:
            yield
        finally:
            self._everywhere = before

    @contextmanager
    def along(self, chain: Transitions) -> Iterator[None]:
        """Count steps and states in another chain of the model, such as that of all training timesteps."""
        before, self.transitions = self.transitions, chain
        try:
            yield
        finally:
            self.transitions = before

    def snapshot(self, adapter: str, keep: float = 0.0) -> None:
        """Copy the `policy` adapter into another one, which is added at its first use.

        Args:
            adapter: Its name.
            keep: Share of itself that it keeps where it is there already, so that it trails behind.
        """
        if adapter not in self._variants.names:
            self._variants.add(adapter)
            self._variants.use(self._acts_as, trained=ADAPTER)
            keep = 0.0
        with torch.no_grad():
            pairs = zip(self._variants.parameters(adapter), self._variants.parameters(ADAPTER), strict=True)
            for (_, copy), (_, original) in pairs:
                copy.mul_(keep).add_(original, alpha=1 - keep) if keep else copy.copy_(original)
                copy.requires_grad_(False)

    @property
    def snapshots(self) -> list[str]:
        """Names of the adapters that `snapshot` made."""
        return [name for name in self._variants.names if name != ADAPTER]

    def weights(self, adapter: str = ADAPTER) -> tuple[np.ndarray, tuple[tuple[str, tuple[int, ...]], ...]]:
        """An adapter as one flat float32 buffer, and the name and shape of each parameter in it."""
        named = self._variants.parameters(adapter)
        flat = torch.cat([parameter.detach().flatten() for _, parameter in named]).cpu().numpy()
        return flat, tuple((name, tuple(parameter.shape)) for name, parameter in named)

    @torch.no_grad()
    def load_weights(
        self, flat: np.ndarray, index: tuple[tuple[str, tuple[int, ...]], ...], adapter: str = ADAPTER
    ) -> None:
        """Overwrite an adapter with a buffer of `weights`.

        Raises:
            ValueError: If the buffer is of another adapter than this policy has.
        """
        named = self._variants.parameters(adapter)
        if index != (own := tuple((name, tuple(parameter.shape)) for name, parameter in named)):
            first = next((pair for pair in zip(index, own, strict=False) if pair[0] != pair[1]), (len(index), len(own)))
            raise ValueError(
                f"The weights are of another adapter than this policy's: {first[0]} where {first[1]} is expected. "
                "Samplers and learner must be built from the same policy config."
            )
        position = 0
        for _, parameter in named:
            piece = torch.from_numpy(flat[position : position + parameter.numel()])
            parameter.copy_(piece.view_as(parameter))
            position += parameter.numel()

    def save_lora(self, folder: Path) -> None:
        """Write `pytorch_lora_weights.safetensors`, which `pipeline.load_lora_weights(folder)` reads.

        Where all weights are trained it is a folder `denoiser`, as `save_pretrained` writes it. The same weights give
        the same bytes, in every process.
        """
        self._variants.write(folder, ADAPTER)

    def load_lora(self, folder: Path) -> None:
        """Read what `save_lora` wrote, that alone, back into the `policy` adapter.

        Raises:
            FileNotFoundError: If it is not there.
            ValueError: If it is of another adapter than this policy has.
        """
        overwrite(self._variants.parameters(ADAPTER), self._variants.read(folder))


def _spread(values: Tensor) -> Tensor:
    """Standard deviation of each sample's values, `(B,)`."""
    return values.flatten(1).std(dim=1)
