"""A run's folder as a run leaves it, without the run: settings, prompts and a checkpoint of a nudged adapter."""

from __future__ import annotations

from pathlib import Path

import torch

from actors.policy import Policy
from cluster.config import Config
from cluster.records.rundir import RunDirectory
from learner import checkpoint


def make_run(config: Config, iteration: int = 4, average: bool = False) -> Path:
    """Write the folder of a run that has done some iterations; returns it.

    Args:
        config: Its settings.
        iteration: Of its only checkpoint.
        average: Whether that keeps an average too, of another adapter.
    """
    run = RunDirectory.create(config)
    policy = Policy.load(config.policy)
    generator = torch.Generator().manual_seed(0)
    with checkpoint.writing(run.checkpoints, iteration) as folder:
        for where in (folder / "average", folder) if average else (folder,):
            with torch.no_grad():
                for parameter in policy.parameters:
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            policy.save_lora(where)
    return run.path
