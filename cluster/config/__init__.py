"""The configuration of a run: its classes, what they refuse, and how it is read.

Nothing starts before the whole configuration is known to work: unknown keys, wrong types and combinations that cannot
work are refused here, each in one sentence.
"""

from cluster.config.loading import change, change_policy, check, load_config, load_words, read_config
from cluster.config.schema import (
    CheckpointConfig,
    CombinationConfig,
    Config,
    EvaluationConfig,
    FailureConfig,
    LearnerActorConfig,
    PatienceConfig,
    PromptsConfig,
    RewardActorsConfig,
    RewardConfig,
    RoleConfig,
    SamplersConfig,
)
from cluster.errors import ConfigError

__all__ = [
    "CheckpointConfig",
    "CombinationConfig",
    "Config",
    "ConfigError",
    "EvaluationConfig",
    "FailureConfig",
    "LearnerActorConfig",
    "PatienceConfig",
    "PromptsConfig",
    "RewardActorsConfig",
    "RewardConfig",
    "RoleConfig",
    "SamplersConfig",
    "change",
    "change_policy",
    "check",
    "load_config",
    "load_words",
    "read_config",
]
