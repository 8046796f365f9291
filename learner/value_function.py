"""V(x_t, c, t): the reward that is to be expected from a state, a network beside the policy."""

from __future__ import annotations

from math import prod

import torch
from pydantic import Field
from torch import Tensor, nn

from actors.conditioning import Conditioning
from actors.policy import Policy
from learner.companion import Companion, CompanionConfig, Decay


class ValueConfig(CompanionConfig, frozen=True, extra="forbid"):
    """The value function; its numbers are those of DPOK's released code, of AdamW torch's own, without clipping."""

    lr: float = Field(1e-4, gt=0, description="Learning rate of AdamW.")
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="Decay of AdamW's averages of gradient and square.")
    max_grad_norm: float | None = Field(None, gt=0, description="Gradients are clipped to this norm; null: not at all.")
    width: int = Field(256, ge=1, description="Width of its three layers.")


class Value(Companion):
    """A value function and its optimizer.

    Args:
        config: Its settings.
        policy: Whose states and prompts it reads.
        seed: Of its first weights.
    """

    def __init__(self, config: ValueConfig, policy: Policy, seed: int = 0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = _Network(prod(policy.latent_shape) + policy.text_width, config.width, len(policy.transitions))
        super().__init__(network.to(policy.device), config)

    def __call__(self, x: Tensor, step: Tensor, conditioning: Conditioning) -> Tensor:
        """The value `(n,)` of states before sampler steps `(n,)` and of the prompts' mean embeddings."""
        text = conditioning["text"].float().mean(dim=1)
        return self.network(torch.cat([x.flatten(1), text], dim=1), step.to(x.device))


class _Network(nn.Module):
    """Three layers, the outputs of each scaled by a learned vector of the step, and a linear end (DPOK's)."""

    def __init__(self, inputs: int, width: int, steps: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(size, width) for size in (inputs, width, width))
        self.scales = nn.ModuleList(nn.Embedding(steps, width) for _ in self.layers)
        for scale in self.scales:
            nn.init.uniform_(scale.weight)  # type: ignore[arg-type]
        self.end = nn.Linear(width, 1)

    def forward(self, values: Tensor, step: Tensor) -> Tensor:
        for layer, scale in zip(self.layers, self.scales, strict=True):
            values = torch.relu(layer(values) * scale(step))
        return self.end(values).squeeze(1)
