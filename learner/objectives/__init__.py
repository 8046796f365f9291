"""The algorithms: one file each, one line here."""

from typing import Annotated

from pydantic import Field

from learner.objectives.adjoint_matching import AdjointMatchingConfig
from learner.objectives.alignprop import AlignPropConfig
from learner.objectives.awm import AWMConfig
from learner.objectives.d3po import D3POConfig
from learner.objectives.dag_db import DAGDBConfig
from learner.objectives.ddpo import DDPOConfig
from learner.objectives.dgpo import DGPOConfig
from learner.objectives.diffusion_dpo import DiffusionDPOConfig
from learner.objectives.dpok import DPOKConfig
from learner.objectives.draft import DRaFTConfig
from learner.objectives.draft_lv import DRaFTLVConfig
from learner.objectives.drtune import DRTuneConfig
from learner.objectives.elegant import ELEGANTConfig
from learner.objectives.grpo import GRPOConfig
from learner.objectives.kto import KTOConfig
from learner.objectives.mapo import MaPOConfig
from learner.objectives.nabla_db import NablaDBConfig
from learner.objectives.nft import NFTConfig
from learner.objectives.objective import Objective
from learner.objectives.ppod import PPODConfig
from learner.objectives.refl import ReFLConfig
from learner.objectives.residual_db import ResidualDBConfig
from learner.objectives.residual_nabla_db import ResidualNablaDBConfig
from learner.objectives.residual_nabla_db_release import ResidualNablaDBReleaseConfig
from learner.objectives.rwr import RWRConfig
from learner.objectives.sft import SFTConfig
from learner.objectives.spo import SPOConfig
from learner.objectives.vgg_flow import VGGFlowConfig

ObjectiveConfig = Annotated[
    PPODConfig
    | D3POConfig
    | DDPOConfig
    | DPOKConfig
    | GRPOConfig
    | NFTConfig
    | AWMConfig
    | DGPOConfig
    | RWRConfig
    | DiffusionDPOConfig
    | MaPOConfig
    | KTOConfig
    | SFTConfig
    | SPOConfig
    | ResidualNablaDBConfig
    | ResidualNablaDBReleaseConfig
    | NablaDBConfig
    | ResidualDBConfig
    | DAGDBConfig
    | DRaFTConfig
    | DRaFTLVConfig
    | AlignPropConfig
    | DRTuneConfig
    | ReFLConfig
    | AdjointMatchingConfig
    | ELEGANTConfig
    | VGGFlowConfig,
    Field(discriminator="name"),
]

__all__ = ["Objective", "ObjectiveConfig"]
