"""The algorithms: one file each, one line here."""

from typing import Annotated

from pydantic import Field

from learner.objectives.d3po import D3POConfig
from learner.objectives.objective import Objective
from learner.objectives.ppod import PPODConfig

ObjectiveConfig = Annotated[PPODConfig | D3POConfig, Field(discriminator="name")]

__all__ = ["Objective", "ObjectiveConfig"]
