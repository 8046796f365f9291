"""Fixtures that several packages' tests share: a Stable Diffusion so small that a rollout takes milliseconds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Before torch is imported, and for every process that a test starts: networks this small are slower on two threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers are not to starve (its niceness is 15) while the tests of another process compute.
os.environ.setdefault("RAY_worker_niceness", "0")

import torch
from hypothesis import HealthCheck, settings

from actors.config import PolicyConfig
from actors.policy import Policy
from benchmarks.signals import heed
from tests.support.tiny import make_pipeline

# The same examples in every run, and no clock: a busy machine must not fail a test.
settings.register_profile(
    "steady", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a randomly initialised pipeline in the published format: 16 x 16 images, 8 x 8 latents."""
    return make_pipeline(tmp_path_factory.mktemp("tiny") / "pipeline")


@pytest.fixture
def policy_config(tiny_pipeline: Path) -> PolicyConfig:
    """A policy config over the tiny pipeline, five steps."""
    return PolicyConfig(model=str(tiny_pipeline), device="cpu", steps=5, guidance=2.0, lora_rank=2, lora_alpha=2)


@pytest.fixture
def policy(policy_config: PolicyConfig) -> Policy:
    """A fresh policy over the tiny pipeline."""
    return Policy.load(policy_config)


@pytest.fixture
def nudge() -> Callable[[Policy], None]:
    """Moves a policy's adapter away from where it is, as training would."""
    generator = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def move(policy: Policy, size: float = 0.3) -> None:
        for parameter in policy.parameters:
            parameter += size * torch.randn(parameter.shape, generator=generator)

    return move


@pytest.fixture(scope="session", autouse=True)
def signals_are_heeded() -> None:
    """Let Ctrl-C and hang-ups reach the commands that tests start, also where the tests run in the background."""
    heed()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes for folders, where there are two cores; a file or `-k` begins sooner in one."""
    folders = all(Path(config.invocation_params.dir, argument).is_dir() for argument in config.args)
    return 2 if folders and not config.option.keyword and (os.cpu_count() or 1) > 1 else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let processes that share the work begin with the files of slow tests, so that none ends with one alone.

    By their names, which mixes those that wait for Ray with those that compute.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: (item.path not in slow, item.path.name))
