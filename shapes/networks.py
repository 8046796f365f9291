"""An embedded world's Stable Diffusion before training: its networks, and Stable Diffusion 1.5's noise schedule; and
its twin of flow matching.
"""

from __future__ import annotations

from pathlib import Path

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTokenizer

from shapes.captions import KINDS, all_captions
from shapes.fit_pipeline import make_pipeline, make_text_encoder, word_tokenizer
from shapes.worlds import FIRST, World

MAX_TOKENS = 16


def make_tokenizer(folder: Path, world: World = FIRST) -> CLIPTokenizer:
    """A tokenizer, saved in `folder`, with one token for every word of a world's grammar."""
    words = {word for kind in KINDS for caption in all_captions(kind, world=world) for word in caption.text.split()}
    return word_tokenizer(folder, words, MAX_TOKENS)


def make_autoencoder(world: World = FIRST) -> AutoencoderKL:
    """From a world's pictures to latents `(4, size / 4, size / 4)`."""
    return AutoencoderKL(
        block_out_channels=(24, 48, 64),
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=world.size,
    )


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.5's noise schedule, with DDIM."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def make_untrained(vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The pipeline around a trained autoencoder, with a new text encoder and UNet."""
    text_encoder = make_text_encoder(tokenizer, width=64, intermediate=192, heads=4)
    unet = UNet2DConditionModel(
        sample_size=vae.config.sample_size // 4,
        block_out_channels=(48, 96),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    return make_pipeline(vae, tokenizer, text_encoder, unet, make_scheduler())


def make_flow_scheduler() -> DPMSolverMultistepScheduler:
    """Flow matching with evenly spaced noise levels, and Euler's method.

    `FlowMatchEulerDiscreteScheduler` lacks what `StableDiffusionPipeline` asks of one (`init_noise_sigma`).
    """
    return DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, solver_order=1, steps_offset=1
    )


def make_flow_twin(pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """A flow matching model before training around the parts of a trained one, of which only the UNet is new.

    It has no block between its halves, and begins with the other's weights, which know the captions already.
    """
    unet = UNet2DConditionModel.from_config({**pipeline.unet.config, "mid_block_type": None, "_name_or_path": ""})
    unet.load_state_dict(
        {name: tensor for name, tensor in pipeline.unet.state_dict().items() if not name.startswith("mid_block.")}
    )
    text_encoder = pipeline.text_encoder.requires_grad_(False)
    return make_pipeline(pipeline.vae, pipeline.tokenizer, text_encoder, unet, make_flow_scheduler())
