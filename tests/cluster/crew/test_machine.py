"""The memory of a machine: a container's limit counts, and what does not fit is refused or said."""

from __future__ import annotations

import logging
from pathlib import Path

import psutil
import pytest

from cluster.crew import machine
from cluster.crew.machine import check, memory_here
from cluster.crew.memory import Need
from cluster.errors import DoesNotFit


@pytest.mark.parametrize(("said", "share"), [("max", 1.0), ("1000000", None), (str(2**60), 1.0), (None, 1.0)])
def test_a_container_has_what_its_limit_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, share: float | None
) -> None:
    if said is not None:
        (tmp_path / "memory.max").write_text(f"{said}\n")
    monkeypatch.setattr(machine, "_LIMIT", tmp_path / "memory.max")
    assert memory_here()[0] == (psutil.virtual_memory().total * share if share else 1e6)


def test_what_cannot_be_loaded_is_refused_and_what_may_run_out_is_said(caplog: pytest.LogCaptureFixture) -> None:
    need = Need(
        "learner", "the learner", 1, {"networks": 2e9, "4 transitions": 6e9}, {}, "set policy.checkpointing=true"
    )
    with caplog.at_level(logging.WARNING):
        check("A GPU", 9e9, [(need, 1, need.device)])
        assert not caplog.messages
        check("A GPU", 7e9, [(need, 1, need.device)])
    assert caplog.messages == [
        "A GPU has 7 GB of memory, and the learner may need 8 GB; if it runs out, for the learner set "
        "policy.checkpointing=true."
    ]
    with pytest.raises(DoesNotFit, match=r"A GPU has 3 GB .* 2 times the learner takes about 4 GB"):
        check("A GPU", 3e9, [(need, 2, need.device)])


def test_where_nothing_would_need_less_a_larger_one_is_advised(caplog: pytest.LogCaptureFixture) -> None:
    need = Need("reward", "an actor of clip", 1, {"rewards": 2e9, "images": 1e9}, {}, "")
    with pytest.raises(DoesNotFit, match=r"takes about 2 GB; take a larger one\.$"):
        check("A GPU", 1e9, [(need, 1, need.device)])
    check("A GPU", 2.5e9, [(need, 1, need.device)])
    assert caplog.messages == [
        "A GPU has 2.5 GB of memory, and an actor of clip may need 3 GB; if it runs out, take a larger one."
    ]


@pytest.mark.parametrize("held", ["networks", "text encoders", "adapter", "adapters and optimizer", "rewards"])
def test_what_is_loaded_and_learned_is_refused_where_it_does_not_fit(held: str) -> None:
    need = Need("learner", "the learner", 1, {held: 2e9, "4 transitions": 1e9}, {}, "")
    with pytest.raises(DoesNotFit):
        check("A GPU", 1e9, [(need, 1, need.device)])
