"""Which optimizer the policy's is, and what is refused before it is asked for."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from actors import devices
from actors.policy import Policy
from cluster.config import load_config
from cluster.errors import ConfigError
from learner.learner import Learner, LearnerConfig
from learner.objectives.ppod import PPODConfig
from learner.optimizer import check_optimizer, make_optimizer

SETTINGS = {"lr": 1e-3, "betas": (0.8, 0.9), "weight_decay": 0.5}


class Fake(torch.optim.AdamW):
    """In the place of bitsandbytes' AdamW8bit, which takes the same settings."""


def test_a_name_is_its_optimizer_with_the_settings_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(optim=SimpleNamespace(AdamW8bit=Fake)))
    parameters = [nn.Parameter(torch.ones(2))]
    for name, kind in (("adamw", torch.optim.AdamW), ("adamw_8bit", Fake)):
        made = make_optimizer(name, parameters, **SETTINGS)
        assert type(made) is kind
        assert {key: made.param_groups[0][key] for key in SETTINGS} == SETTINGS
        assert made.param_groups[0]["params"] == parameters


def test_what_is_not_there_is_said_in_a_sentence(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"learner\.optimizer=adamw_8bit needs a GPU, and the policy is on cpu; set"):
        load_config(None, ["learner.optimizer=adamw_8bit", "policy.device=cpu"])
    with pytest.raises(ValueError, match="needs a GPU"):
        Learner(LearnerConfig(optimizer="adamw_8bit"), policy, PPODConfig().build())
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs bitsandbytes, which is not installed; run `pip install bitsandbytes`"):
        load_config(None, ["learner.optimizer=adamw_8bit", "policy.device=cuda"])
    monkeypatch.setattr(devices, "find_spec", lambda name: object())
    check_optimizer("adamw_8bit", torch.device("cuda"))
