"""The naked network: the calls of a rollout and of a step, made again by themselves, and where the rest goes."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import Request
from benchmarks import limit
from benchmarks.limit import FORMATS, calls_of, main, naked
from benchmarks.plain import PlainRun
from benchmarks.stopwatch import Stopwatch
from cluster.config import read_config
from tests.support.tiny import write_config

REQUEST = Request(0, 0, ("a red circle",) * 3, (0,) * 3, (0, 1, 2), stored_steps=(0, 1), kl=True)


def test_a_rollouts_calls_are_all_that_it_asks_of_the_network(policy: Policy) -> None:
    with calls_of(policy) as calls:
        rollout(policy, REQUEST)
    assert sum(len(call.args[0]) for call in calls) == policy.evaluations == 2 * 3 * (5 + 1)
    assert [call.acts for call in calls] == ["policy"] * 5 + [None]  # the pretrained model's, for the KL
    assert not any(call.gradient for call in calls)
    rollout(policy, REQUEST)
    assert len(calls) == 6  # nobody looks any more


def test_calls_are_made_again_as_they_were(policy: Policy) -> None:
    x, step, told = torch.randn(2, *policy.latent_shape), torch.tensor([0, 1]), policy.encode(["a red circle"] * 2)
    with calls_of(policy) as calls, policy.using(None):
        policy.predict(x, step, told)
        policy.predict(x.requires_grad_(), step, told)
    with calls_of(policy) as trained:
        policy.predict(x.detach(), step, told)
    before = [parameter.clone() for parameter in policy.parameters]
    for layout in FORMATS.values():
        with calls_of(policy) as again:
            assert naked(policy, [*calls, *trained], layout) > 0
        assert [call.acts for call in again] == [None, None, "policy"]
        for one, other in zip([*calls, *trained], again, strict=True):
            assert torch.equal(one.args[0], other.args[0])
            assert other.args[0].is_contiguous(memory_format=layout)
            assert one.gradient == other.gradient
    assert all(parameter.grad is None for parameter in policy.parameters)
    assert all(torch.equal(own, was) for own, was in zip(policy.parameters, before, strict=True))


def test_time_is_of_the_outermost_that_is_watched() -> None:
    class Work:
        def inner(self) -> None:
            time.sleep(0.02)

        def outer(self) -> None:
            time.sleep(0.01)
            self.inner()

    work, watch = Work(), Stopwatch(torch.device("cpu"))
    with watch.on(work, "outer", "outer"), watch.on(Work, "inner", lambda: "inner"):
        work.outer()
        assert set(watch.seconds) == {"outer"}
        work.inner()
    first = dict(watch.seconds)
    assert first["outer"] >= 0.03
    assert first["inner"] >= 0.02
    work.outer()
    assert watch.seconds == first


def test_both_roles_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit, "ROUNDS", 1)
    main([str(write_config(tmp_path)), "objective.step_fraction=1"])
    said = capsys.readouterr().out
    rates = r"(\S+) images/s, (\S+) transitions/s"
    for role, parts in (
        ("sampler", {"network", "KL to the pretrained model", "decoder", "noise", "transitions", "record"}),
        ("learner", {"forward with a gradient", "backward", "optimizer"}),
    ):
        found = re.search(rf"{role}: {rates}; share of the naked network (\S+)\n(.*\n.*\n)  of its time: (.*)\n", said)
        assert found is not None, said
        images, transitions, share = (float(found[number]) for number in (1, 2, 3))
        assert transitions / images == pytest.approx(3, rel=1e-2)  # of three steps each
        bare = [float(fast) for fast, _ in re.findall(rf"naked, channels (?:last|first): {rates}", found[4])]
        assert len(bare) == 2
        assert share == pytest.approx(images / max(bare), rel=1e-2)
        shares = dict(part.rsplit(" ", 1) for part in found[5].split(", "))
        assert parts <= set(shares)
        assert sum(float(one.rstrip("%")) for one in shares.values()) == pytest.approx(100, abs=1)


def test_a_step_makes_every_pass_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is on a fresh batch, whose log-probabilities are taken again, and begins with the policy that drew it."""
    config = read_config(write_config(tmp_path), ["objective.step_fraction=1", "learner.retake_log_probs=true"])
    run, updates = PlainRun(config), []
    step = run.learner.step
    monkeypatch.setattr(run.learner, "step", lambda batch: updates.append(step(batch)))
    monkeypatch.setattr(limit, "ROUNDS", 1)
    limit.learner(run)
    assert all("ratio/spread" in update.metrics for update in updates)
    assert all(update.metrics["ratio/first"] < 1e-5 for update in updates)
    assert len(updates) == 4  # two first ones, the one that counts, and that of the profile


def test_what_is_no_such_work_is_refused(tmp_path: Path) -> None:
    given: Any = SimpleNamespace(data=object(), people=None)
    with pytest.raises(SystemExit, match="error: Only runs whose batches are drawn"):
        PlainRun(given)
    offline = read_config(write_config(tmp_path), ["objective.offline_batches=2", "objective.reference=pretrained"])
    with pytest.raises(SystemExit, match=r"set objective\.offline_batches=0\.$"):
        PlainRun(offline)
    with pytest.raises(SystemExit, match=r"set objective\.window=null\.$"):
        main([str(write_config(tmp_path)), "objective={name: grpo, window: 1, step_fraction: 1}"])
