"""Flow functions of GFlowNets: small networks beside the policy.

A *vector* flow g_phi(x_t, t, c) has the shape of the state and stands for (what is left of) a gradient of the log flow;
a *scalar* flow h_phi(x_t, t, c) is one number a sample and stands for the log flow itself.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from diffusers import UNet2DConditionModel
from pydantic import Field, model_validator
from torch import Tensor, nn

from actors.conditioning import Conditioning
from actors.policy import Policy
from learner.companion import Companion, CompanionConfig


class FlowConfig(CompanionConfig, frozen=True, extra="forbid"):
    """The flow function and its optimizer."""

    widths: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (32, 64), min_length=1, description="Channels of each resolution of its UNet."
    )
    layers: int = Field(1, ge=1, description="Layers a block.")
    heads: int = Field(4, ge=1, description="Width of an attention head.")
    groups: int = Field(8, ge=1, description="Groups of its group normalisation.")
    scale: float = Field(1.0, gt=0, description="The output is multiplied by this; choose the size of beta dr/dx.")
    zero: Literal["output", "bias"] = Field(
        "output", description="What starts at zero: the whole output, or (as in the published code) its bias alone."
    )

    @model_validator(mode="after")
    def _check(self) -> FlowConfig:
        for width in self.widths:
            if width % self.groups or width % self.heads:
                raise ValueError(f"{width} of widths is no multiple of groups={self.groups} and heads={self.heads}")
        return self


class Flow(Companion):
    """A network of (x, state, conditioning) and its optimizer.

    Args:
        network: Takes x `(B, C, H, W)`, timesteps `(B,)` and the prompts' embedding `(B, L, D)`.
        config: Of the optimizer.
        timesteps: `(T + 1,)` of every state, as the policy's network is told them; 0 for the image.
    """

    def __init__(self, network: nn.Module, config: FlowConfig, timesteps: Tensor) -> None:
        super().__init__(network, config)
        self._scale, self._timesteps = config.scale, timesteps

    def __call__(self, x: Tensor, state: Tensor, conditioning: Conditioning) -> Tensor:
        """The flow at states `(B,)` in [0, T], of the prompts alone: no guidance here."""
        timestep = self._timesteps[state.cpu()].to(x.device)
        return self._scale * self.network(x, timestep, conditioning["text"].float())


def make_flow(config: FlowConfig, policy: Policy, kind: Literal["vector", "scalar"], seed: int = 0) -> Flow:
    """A flow function for a policy's states and prompts, float32, drawn from `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = _Network(config, policy.latent_shape, policy.text_width, kind)
    network.to(policy.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    timesteps = torch.cat([policy.transitions.timesteps, policy.transitions.timesteps.new_zeros(1)])
    return Flow(network, config, timesteps)


class _Network(nn.Module):
    def __init__(
        self, config: FlowConfig, shape: tuple[int, ...], text_width: int, kind: Literal["vector", "scalar"]
    ) -> None:
        super().__init__()
        depth = len(config.widths)
        self.unet = UNet2DConditionModel(
            sample_size=shape[1],
            in_channels=shape[0],
            out_channels=shape[0],
            block_out_channels=config.widths,
            layers_per_block=config.layers,
            # As in Stable Diffusion: text everywhere but at the coarsest of several resolutions.
            down_block_types=("CrossAttnDownBlock2D",) * max(1, depth - 1) + ("DownBlock2D",) * (depth > 1),
            up_block_types=("UpBlock2D",) * (depth > 1) + ("CrossAttnUpBlock2D",) * max(1, depth - 1),
            cross_attention_dim=text_width,
            attention_head_dim=config.heads,
            norm_num_groups=config.groups,
        )
        self.scalar = kind == "scalar"
        nn.init.zeros_(self.unet.conv_out.bias)
        if config.zero == "output":
            nn.init.zeros_(self.unet.conv_out.weight)

    def forward(self, x: Tensor, timestep: Tensor, embedding: Tensor) -> Tensor:
        out = self.unet(x.contiguous(memory_format=torch.channels_last), timestep, embedding).sample
        return out.flatten(1).mean(dim=1) if self.scalar else out
