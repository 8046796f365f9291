"""The policy: a Stable Diffusion pipeline whose UNet carries LoRA adapters.

The trainable adapter is `policy`, the pretrained reference is "adapters off", and a moving reference is a second named
adapter that holds a copy. Classifier-free guidance is part of the policy: sampling, training and the reference use the
same guided prediction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from actors import half_precision
from actors.adapters import adapter_parameters, add_adapter, copy_into, read_adapter, write_adapter
from actors.config import PolicyConfig
from actors.devices import pick_device, pick_dtype
from actors.finite import check_weights
from actors.initial_adapter import initial_adapter
from actors.model_check import check_model, latent_shape
from actors.model_files import fetch
from actors.schedules import read_scheduler
from actors.transitions import make_transitions

ADAPTER = "policy"
# Prompts whose embeddings stay on the device (60 MB for Stable Diffusion 1.5): memory does not grow with the list.
_KEPT = 256


class Policy:
    """A pipeline, its adapters and its transitions.

    Args:
        pipeline: The pretrained pipeline; its UNet is given the `policy` adapter, everything else is frozen.
        config: How to sample and what to adapt.

    Attributes:
        transitions: The chain that the policy samples.
        latent_shape: (C, H, W).
        device: Where the networks are.
    """

    def __init__(self, pipeline: StableDiffusionPipeline, config: PolicyConfig) -> None:
        self.config = config
        self.device = pick_device(config.device)
        self.transitions = make_transitions(pipeline.scheduler, config.steps, config.sampler, config.eta)
        self._pipeline = pipeline.to(self.device)
        self.unet, self._vae = pipeline.unet, pipeline.vae
        for network in (self.unet, self._vae, pipeline.text_encoder):
            network.eval().requires_grad_(False)
        # Convolutions on CPUs and tensor cores are markedly faster in this layout.
        self.unet.to(memory_format=torch.channels_last)
        self._vae.to(memory_format=torch.channels_last)
        self.latent_shape = latent_shape(self.unet)
        self._embeddings: dict[str, Tensor] = {}
        self._add_adapter(ADAPTER)

    @classmethod
    def load(cls, config: PolicyConfig, seed: int = 0) -> Policy:
        """Load `config.model` and add an adapter: a fresh one, whose random half is drawn from `seed`, or `init_lora`.

        Raises:
            FileNotFoundError: If the model, or a part of it, is not there.
            ValueError: If it is damaged, of another kind, or does not fit the config or this machine.
        """
        device = pick_device(config.device)
        folder = fetch(config.model, config.variant)
        check_model(config, folder)
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            variant=config.variant,
            scheduler=read_scheduler(str(folder)),
            dtype=pick_dtype(config.dtype, device),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        check_weights(pipeline, folder, config.variant)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            policy = cls(pipeline, config)
        if config.init_lora is not None:
            shape = (config.lora_rank, config.lora_alpha, config.lora_targets)
            copy_into(policy.unet, ADAPTER, initial_adapter(config.init_lora, policy.unet, ADAPTER, *shape))
        return policy

    # ------------------------------------------------------------------ networks

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Conditioning `(2, B, L, D)`: the empty prompt's embedding and each prompt's own, L tokens of width D.

        The embeddings of the last prompts are kept. Each prompt is encoded alone, so that its embedding does not
        depend, to the last bit, on its neighbours.
        """
        found: dict[str, Tensor] = {}
        for prompt in dict.fromkeys(("", *prompts)):
            if (known := self._embeddings.pop(prompt, None)) is None:
                known = self._pipeline.encode_prompt(
                    prompt, self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
                )[0][0]
            found[prompt] = known
        self._embeddings |= found  # in the order of use
        for prompt in list(self._embeddings)[:-_KEPT]:
            del self._embeddings[prompt]
        empty = found[""].expand(len(prompts), -1, -1)
        return torch.stack([empty, torch.stack([found[prompt] for prompt in prompts])])

    def predict(self, x: Tensor, step: Tensor, conditioning: Tensor) -> Tensor:
        """The guided prediction e_uncond + w (e_cond - e_uncond) of the active adapter: `(B, C, H, W)` float32.

        With a guidance of at most 1 it is e_cond, as in diffusers.

        Args:
            x: `(B, C, H, W)` float32, the state.
            step: `(B,)` int64, sampler steps (not training timesteps).
            conditioning: `(2, B, L, D)` of `encode`.
        """
        timestep = self.transitions.timesteps[step.cpu()].to(self.device)
        guidance = self.config.guidance
        if guidance <= 1:
            return self._unet(x, timestep, conditioning[1])
        both = self._unet(torch.cat([x, x]), timestep.repeat(2), conditioning.flatten(0, 1))
        unconditional, conditional = both.chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    def _unet(self, x: Tensor, timestep: Tensor, embedding: Tensor) -> Tensor:
        def network(x: Tensor) -> Tensor:
            x = x.to(self.unet.dtype, memory_format=torch.channels_last)
            return self.unet(x, timestep, embedding).sample.float()

        if self.unet.dtype == torch.float16:
            return half_precision.through(network, x, self.parameters)
        return network(x)

    def clean(self, x: Tensor, state: Tensor, conditioning: Tensor) -> Tensor:
        """The image's latents `(B, C, H, W)` that the guided prediction sees in states `(B,)` in [0, T].

        State T is the image already, and comes back as it is.
        """
        step = state.clamp(max=len(self.transitions) - 1)
        return self.transitions.clean(x, self.predict(x, step, conditioning), state)

    def decode(self, latents: Tensor) -> Tensor:
        """Images `(B, 3, H, W)` float32 in [0, 1] of latents `(B, C, h, w)`; NaN where the decoder gives none."""

        def network(latents: Tensor) -> Tensor:
            scaled = (latents / self._vae.config.scaling_factor).to(self._vae.dtype, memory_format=torch.channels_last)
            return self._vae.decode(scaled).sample.float()

        if self._vae.dtype == torch.float16:
            pictures = half_precision.through(network, latents, ())
        else:
            pictures = network(latents)
        return (pictures / 2 + 0.5).clamp(0, 1)

    @property
    def half_precision(self) -> bool:
        """Whether the base rounds to half precision, so that predictions depend a little on who computes them."""
        return self.unet.dtype != torch.float32

    @property
    def text_width(self) -> int:
        """D, the width of the prompts' embeddings."""
        return self.unet.config.cross_attention_dim

    # ------------------------------------------------------------------ adapters

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The trainable parameters: the `policy` adapter's, float32, in the order of `weights`."""
        return [parameter for _, parameter in self._adapter_parameters(ADAPTER)]

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[None]:
        """Act as another adapter, or with adapters off (`None`: the pretrained model), without gradients.

        Without gradients because a checkpointed forward is recomputed in backward, when the adapter is back.
        """
        with torch.no_grad():
            if adapter is None:
                self.unet.disable_adapters()
            else:
                self.unet.set_adapter(adapter)
            try:
                yield
            finally:
                if adapter is None:
                    self.unet.enable_adapters()
                self.unet.set_adapter(ADAPTER)

    def snapshot(self, adapter: str) -> None:
        """Copy the `policy` adapter into another one, which is added at its first use."""
        if adapter not in self.unet.peft_config:
            self._add_adapter(adapter)
            self.unet.set_adapter(ADAPTER)
        with torch.no_grad():
            pairs = zip(self._adapter_parameters(adapter), self._adapter_parameters(ADAPTER), strict=True)
            for (_, copy), (_, original) in pairs:
                copy.copy_(original).requires_grad_(False)

    @property
    def snapshots(self) -> list[str]:
        """Names of the adapters that `snapshot` made."""
        return [name for name in self.unet.peft_config if name != ADAPTER]

    def weights(self, adapter: str = ADAPTER) -> tuple[np.ndarray, tuple[tuple[str, tuple[int, ...]], ...]]:
        """An adapter as one flat float32 buffer, and the name and shape of each parameter in it."""
        named = self._adapter_parameters(adapter)
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
        named = self._adapter_parameters(adapter)
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

        The same adapter gives the same bytes, in every process.
        """
        tensors = {name: parameter.detach() for name, parameter in self._adapter_parameters(ADAPTER)}
        write_adapter(folder, tensors, self.unet.peft_config[ADAPTER])

    def load_lora(self, folder: Path) -> None:
        """Read what `save_lora` wrote, that file alone, back into the `policy` adapter.

        Raises:
            FileNotFoundError: If it is not there.
            ValueError: If it is of another adapter than this policy has.
        """
        copy_into(self.unet, ADAPTER, read_adapter(folder))

    def _add_adapter(self, name: str) -> None:
        add_adapter(self.unet, name, self.config.lora_rank, self.config.lora_alpha, self.config.lora_targets)

    def _adapter_parameters(self, adapter: str) -> list[tuple[str, torch.nn.Parameter]]:
        return adapter_parameters(self.unet, adapter)
