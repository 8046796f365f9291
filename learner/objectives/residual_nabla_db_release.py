"""Residual nabla-DB as its authors' public code computes it, for comparison: a preset of `residual_nabla_db`.

What differs from the equations: the flow function is also trained by the forward loss (then the policy's variance comes
out too large); no reverse loss on the last transition (then nothing ties the flow function to the reward there); the
last transition is drawn every time and not weighted down for it; the scores of the sampled noise are used as they are;
only the bias of the flow function's output starts at zero; gamma fades the image's own reward gradient too; training is
one batch behind sampling, and the change of the predicted noise is measured from the policy that sampled, two to three
updates ago.

Not reproduced: two optimizer steps on the same gradients, rewards with the prompts of another batch, bfloat16.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from learner.flow_function import FlowConfig
from learner.objectives.residual_nabla_db import ResidualNablaDBConfig


class ResidualNablaDBReleaseConfig(ResidualNablaDBConfig, frozen=True, extra="forbid"):
    """Residual nabla-DB with the published code's choices."""

    name: Literal["residual_nabla_db_release"] = "residual_nabla_db_release"  # type: ignore[assignment]
    regularisation: float = Field(1e3, ge=0, description="Weight of the squared change of the predicted noise.")
    weighting: Literal["none", "variance", "output"] = Field("none", description="Of squared score differences.")
    subsample: Literal["chains", "steps"] = Field("steps", description="What step_fraction is a share of.")
    lag: int = Field(1, ge=0, description="Batches that training stays behind sampling.")
    updates: int = Field(2, ge=1, description="Optimizer steps of a batch, each on its share of the samples.")
    flow: FlowConfig = FlowConfig(zero="bias")
    detach_flow: bool = Field(False, description="Keep the forward loss from training the flow function.")
    reverse_on_last: bool = Field(False, description="Reverse loss on the last transition too.")
    expected_scores: bool = Field(False, description="Put expectations for the scores of sampled noise.")
    unbiased: bool = Field(False, description="Weight each drawn transition with the number that it stands for.")
    fade_image: bool = Field(True, description="Multiply the image's own reward gradient with gamma too.")
