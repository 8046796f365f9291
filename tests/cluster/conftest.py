"""Fixtures of the driver's tests: one Ray for all of them, and configurations that are quick to check."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from diffusers import DDIMScheduler

from cluster.config import Config, load_config


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray on loopback, with room for a handful of small actors."""
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a driver reads of a pipeline: that it is there, and its scheduler."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "model_index.json").write_text("{}")
    DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1).save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture
def base(tmp_path: Path, model_folder: Path) -> list[str]:
    """Overrides of a run that asks for 3 prompts x 4 samples and writes below `tmp_path`."""
    (tmp_path / "train.txt").write_text("a red circle\na blue square\na green cross\n")
    (tmp_path / "held_out.txt").write_text("a red cross\na blue circle\n")
    return [
        f"folder={tmp_path / 'runs'}",
        f"policy.model={model_folder}",
        f"prompts.train={tmp_path / 'train.txt'}",
        f"prompts.held_out={tmp_path / 'held_out.txt'}",
        "prompts.samples=4",
        "samplers.request_size=4",
    ]


@pytest.fixture
def make_config(base: list[str]) -> Callable[..., Config]:
    """Builds the configuration of `base` with further overrides."""
    return lambda *overrides: load_config(None, [*base, *overrides])
