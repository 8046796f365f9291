"""Fixtures that several packages' tests share: a Stable Diffusion so small that a rollout takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from hypothesis import HealthCheck, settings
from transformers import CLIPTextConfig, CLIPTextModel

from actors.policy import Policy, PolicyConfig
from shapes.fit_pipeline import MAX_TOKENS, make_tokenizer

# The same examples in every run, and no clock: a busy machine must not fail a test.
settings.register_profile(
    "steady", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a randomly initialised pipeline in the published format: 16 x 16 images, 8 x 8 latents."""
    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    tokenizer = make_tokenizer(folder / "tokenizer")
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=16, attention_head_dim=2,
        norm_num_groups=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        layers_per_block=1, norm_num_groups=4, sample_size=16,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture
def policy_config(tiny_pipeline: Path) -> PolicyConfig:
    """A policy config over the tiny pipeline, five steps."""
    return PolicyConfig(model=str(tiny_pipeline), device="cpu", steps=5, lora_rank=2, lora_alpha=2)


@pytest.fixture
def policy(policy_config: PolicyConfig) -> Policy:
    """A fresh policy over the tiny pipeline."""
    return Policy.load(policy_config)


@pytest.fixture
def nudge() -> Callable[[Policy], None]:
    """Moves a policy's adapter away from where it is, as training would."""
    generator = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def move(policy: Policy, size: float = 0.3) -> None:
        for parameter in policy.parameters:
            parameter += size * torch.randn(parameter.shape, generator=generator)

    return move
