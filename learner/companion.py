"""Networks that an objective trains beside the policy, such as flow functions: each with its own optimizer."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field
from torch import nn

Decay = Annotated[float, Field(ge=0, lt=1)]


class CompanionConfig(BaseModel, frozen=True, extra="forbid"):
    """The optimizer of a network beside the policy."""

    lr: float = Field(1e-3, gt=0, description="Learning rate of AdamW.")
    betas: tuple[Decay, Decay] = Field((0.9, 0.95), description="Decay of AdamW's averages of gradient and square.")
    weight_decay: float = Field(1e-2, ge=0, description="Weight decay of AdamW.")
    max_grad_norm: float | None = Field(1.0, gt=0, description="Gradients are clipped to this norm; null: not at all.")


class Companion:
    """A network and its optimizer; the learner steps it with the policy, sums it over ranks and saves it.

    Args:
        network: What is trained.
        config: Of the optimizer.
    """

    def __init__(self, network: nn.Module, config: CompanionConfig) -> None:
        self.network, self._max_norm = network, config.max_grad_norm or math.inf
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )

    def step(self, name: str) -> float:
        """One optimizer step with clipped gradients; returns their norm before clipping.

        Args:
            name: What the network is called in an error.

        Raises:
            FloatingPointError: If it is not finite; nothing is applied.
        """
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self._max_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"The gradient of the {name} function is {float(norm)}; lower objective.{name}.lr or objective.beta, "
                "or look for a reward whose gradient overflows."
            )
        self.optimizer.step()
        return float(norm)

    def state_dict(self) -> dict[str, Any]:
        """Network and optimizer."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
