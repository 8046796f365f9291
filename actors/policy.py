"""The policy: a Stable Diffusion pipeline whose UNet carries LoRA adapters.

The trainable adapter is `policy`, the pretrained reference is "adapters off", and a moving reference is a second named
adapter that holds a copy. Classifier-free guidance is part of the policy: sampling, training and the reference use the
same guided prediction.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from pydantic import BaseModel, Field, field_validator
from torch import Tensor

from actors.transitions import make_transitions

ADAPTER = "policy"
# Prompts whose embeddings stay on the device (60 MB for Stable Diffusion 1.5): memory does not grow with the list.
_KEPT = 256
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class PolicyConfig(BaseModel, frozen=True, extra="forbid"):
    """The model that is trained and how it samples."""

    model: str = Field(
        "shapes", description="Folder or hub name of a diffusers pipeline; 'shapes' is the embedded one."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Of the frozen base weights.")
    device: str = Field("auto", description="A torch device; 'auto' is cuda where there is one, else cpu.")
    steps: int = Field(50, ge=1, description="Denoising steps of a rollout; 50 are DDPO's and diffusers'.")
    guidance: float = Field(
        5.0,
        ge=0,
        description="Classifier-free guidance scale, DDPO's by default; at most 1 is no guidance, as in diffusers.",
    )
    sampler: Literal["ddim", "ddpm"] = Field("ddim", description="The transition.")
    eta: float = Field(1.0, ge=0, le=1, description="Share of the DDPM noise in ddim; 1 is DDPO's.")
    lora_rank: int = Field(4, ge=1, description="Rank of the adapter; 4 is DDPO's and diffusers'.")
    lora_alpha: int = Field(4, gt=0, description="The adapter's output is scaled by lora_alpha / lora_rank.")
    lora_targets: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0"), description="Names of the UNet's linear layers that are adapted."
    )

    @field_validator("model")
    @classmethod
    def _absolute(cls, model: str) -> str:
        path = Path(os.path.expanduser(model))
        return str(path.absolute()) if model != "shapes" and os.path.isdir(path) else model


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
        self.device = torch.device(_pick_device(config.device))
        self.transitions = make_transitions(
            DDIMScheduler.from_config(pipeline.scheduler.config), config.steps, config.sampler, config.eta
        )
        self._pipeline = pipeline.to(self.device)
        self.unet, self._vae = pipeline.unet, pipeline.vae
        for network in (self.unet, self._vae, pipeline.text_encoder):
            network.eval().requires_grad_(False)
        # Convolutions on CPUs and tensor cores are markedly faster in this layout.
        self.unet.to(memory_format=torch.channels_last)
        self._vae.to(memory_format=torch.channels_last)
        size = self.unet.config.sample_size
        self.latent_shape = (self.unet.config.in_channels, size, size)
        self._embeddings: dict[str, Tensor] = {}
        self._add_adapter(ADAPTER)

    @classmethod
    def load(cls, config: PolicyConfig, seed: int = 0) -> Policy:
        """Load `config.model` and add a fresh adapter, whose random half is drawn from `seed`.

        Raises:
            FileNotFoundError: If the model is a folder that does not exist or holds no pipeline.
        """
        check_model(config.model)
        pipeline = StableDiffusionPipeline.from_pretrained(
            config.model,
            dtype=_DTYPES[config.dtype],
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return cls(pipeline, config)

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

        Args:
            x: `(B, C, H, W)` float32, the state.
            step: `(B,)` int64, sampler steps (not training timesteps).
            conditioning: `(2, B, L, D)` of `encode`.
        """
        timestep = self.transitions.timesteps[step.cpu()].to(self.device)
        guidance, dtype = self.config.guidance, self.unet.dtype
        if guidance == 1:
            return self.unet(x.to(dtype), timestep, conditioning[1]).sample.float()
        both = self.unet(
            torch.cat([x, x]).to(dtype, memory_format=torch.channels_last),
            timestep.repeat(2),
            conditioning.flatten(0, 1),
        ).sample.float()
        unconditional, conditional = both.chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    def clean(self, x: Tensor, state: Tensor, conditioning: Tensor) -> Tensor:
        """The image's latents `(B, C, H, W)` that the guided prediction sees in states `(B,)` in [0, T].

        State T is the image already, and comes back as it is.
        """
        step = state.clamp(max=len(self.transitions) - 1)
        noise = self.transitions.noise(x, self.predict(x, step, conditioning), step)
        return self.transitions.clean(x, noise, state)

    def decode(self, latents: Tensor) -> Tensor:
        """Images `(B, 3, H, W)` float32 in [0, 1] of latents `(B, C, h, w)`."""
        scaled = (latents / self._vae.config.scaling_factor).to(self._vae.dtype, memory_format=torch.channels_last)
        return (self._vae.decode(scaled).sample.float() / 2 + 0.5).clamp(0, 1)

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
        """Write `pytorch_lora_weights.safetensors`, which `pipeline.load_lora_weights(folder)` reads."""
        StableDiffusionPipeline.save_lora_weights(
            folder,
            unet_lora_layers=get_peft_model_state_dict(self.unet, adapter_name=ADAPTER),
            unet_lora_adapter_metadata=self.unet.peft_config[ADAPTER].to_dict(),
        )

    def load_lora(self, folder: Path) -> None:
        """Read what `save_lora` wrote back into the `policy` adapter."""
        state, _ = StableDiffusionPipeline.lora_state_dict(folder)
        state = {name.removeprefix("unet."): tensor for name, tensor in state.items()}
        set_peft_model_state_dict(self.unet, state, adapter_name=ADAPTER)

    def _add_adapter(self, name: str) -> None:
        config = LoraConfig(
            r=self.config.lora_rank,
            lora_alpha=self.config.lora_alpha,
            init_lora_weights="gaussian",
            target_modules=list(self.config.lora_targets),
        )
        self.unet.add_adapter(config, adapter_name=name)
        for _, parameter in self._adapter_parameters(name):
            parameter.data = parameter.data.float()

    def _adapter_parameters(self, adapter: str) -> list[tuple[str, torch.nn.Parameter]]:
        marker = f".{adapter}."
        return sorted(
            (name.replace(marker, "."), parameter)
            for name, parameter in self.unet.named_parameters()
            if "lora_" in name and marker in name
        )


def check_model(model: str) -> None:
    """Raises `FileNotFoundError` if `model` looks like a folder and holds no pipeline."""
    path = Path(model)
    looks_local = path.is_absolute() or model.startswith((".", "~")) or path.exists() or model.count("/") != 1
    if looks_local and not (path / "model_index.json").is_file():
        raise FileNotFoundError(
            f"There is no diffusers pipeline in {path.absolute()} (no model_index.json); set policy.model to the "
            "folder of one, to a hub name such as 'org/model', or to 'shapes'."
        )


def _pick_device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device
