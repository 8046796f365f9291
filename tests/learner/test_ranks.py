"""Learner ranks: their gradients are one learner's, in real processes; and none waits for ever for one that is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from learner.objectives import ObjectiveConfig
from learner.ranks import ALONE, Ranks, interface_of, listen
from tests.learner.rank_process import CASES, STEPPED

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
COUNTS = (2, 3)


@given(st.integers(1, 300), st.integers(1, 100), st.integers(1, 9))
def test_ranks_share_every_part_out(items: int, micro_batch: int, count: int) -> None:
    shares = [Ranks(rank, count).pieces(items, micro_batch) for rank in range(count)]
    pieces = [piece for share in shares for piece in share]
    assert sorted(torch.cat(pieces).tolist()) == list(range(items))
    assert all(0 < len(piece) <= micro_batch for piece in pieces)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    alone = [piece.tolist() for piece in ALONE.pieces(items, micro_batch)]
    assert alone == [piece.tolist() for piece in torch.arange(items).split(micro_batch)]
    if micro_batch * count <= items:  # then each goes through the network in the company that it has with one rank
        assert sorted(alone) == sorted(piece.tolist() for piece in pieces)


def test_one_rank_communicates_with_nobody() -> None:
    values, parameter = torch.ones(3), nn.Parameter(torch.ones(2))
    assert ALONE.sum_(values) is values
    assert ALONE.sum_metrics({"loss": 1.5}) == {"loss": 1.5}
    ALONE.sum_gradients([parameter])
    ALONE.check_equal(0, [parameter])
    assert parameter.grad is None
    assert not torch.distributed.is_initialized()


def test_the_meeting_place_is_open_on_the_given_address_alone() -> None:
    store = listen("127.0.0.1")
    own = {c.laddr for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN}
    assert [address for address, port in own if port == store.port] == ["127.0.0.1"]


def test_the_interface_of_an_address_is_found() -> None:
    assert str(interface_of("127.0.0.1")).startswith("lo")
    assert interface_of("192.0.2.1") is None


def test_every_algorithm_is_among_the_cases() -> None:
    names = {config.model_fields["name"].default for config in get_args(get_args(ObjectiveConfig)[0])}
    assert {case["name"] for case in CASES.values()} == names


def start(*arguments: object) -> subprocess.Popen[str]:
    command, out = [sys.executable, *map(str, arguments)], subprocess.PIPE
    return subprocess.Popen(command, env=ENVIRONMENT, text=True, stdout=out, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def found(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[Any, Any]]]:
    """What each rank of one, two and three wrote down."""
    root, processes = tmp_path_factory.mktemp("ranks"), []
    for count in (1, *COUNTS):
        (root / str(count)).mkdir()
        for rank in range(count):
            processes.append(start("-m", "tests.learner.rank_process", tiny_pipeline, root / str(count), rank, count))
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(outputs)[-5000:]
    return {
        count: [torch.load(root / f"{count}" / f"{rank}.pt", weights_only=False) for rank in range(count)]
        for count in (1, *COUNTS)
    }


Found = dict[int, list[dict[Any, Any]]]


def distance(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|, 0 where both are empty or zero."""
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def agree(one: dict[str, Any], rank: dict[str, Any], tolerance: float) -> None:
    """A rank has the gradients and the metrics of one learner."""
    assert one["policy"].norm() > 0
    assert distance(rank["policy"], one["policy"]) <= tolerance
    assert distance(rank["flow"], one["flow"]) <= tolerance
    assert rank["without"] == one["without"]
    assert rank["metrics"] == pytest.approx(one["metrics"], rel=tolerance, abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("case", CASES)
def test_gradients_and_metrics_are_those_of_one_rank(found: Found, case: str, count: int) -> None:
    """Uneven shares; whatever the losses couple, and with each rank's own reward model."""
    (one,) = found[1]
    for rank in found[count]:
        agree(one["parts", case], rank["parts", case], 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", ["whole", "few"])
@pytest.mark.parametrize("case", CASES)
def test_what_fills_no_micro_batch_for_every_rank_is_cut_smaller(
    found: Found, case: str, kind: str, count: int
) -> None:
    """Also where a rank has nothing to do. A network rounds differently in batches of another size."""
    (one,) = found[1]
    for rank in found[count]:
        agree(one[kind, case], rank[kind, case], 5e-5)


@pytest.mark.slow
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("case", STEPPED)
def test_steps_lead_to_the_same_weights_on_every_rank_and_as_on_one(found: Found, case: str, count: int) -> None:
    (one,) = found[1]
    expected, ranks = one["steps", case], [rank["steps", case] for rank in found[count]]
    for name in ("weights", "average"):
        assert all(np.array_equal(rank[name], ranks[0][name]) for rank in ranks)
        np.testing.assert_allclose(ranks[0][name], expected[name], atol=1e-6)
    for metrics, of_one in zip(ranks[0]["metrics"], expected["metrics"], strict=True):
        assert metrics == pytest.approx(of_one, rel=1e-3, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("case", STEPPED)
def test_a_checkpoint_is_continued_by_any_number_of_ranks(found: Found, case: str, count: int) -> None:
    for rank in (rank["steps", case] for rank in found[count]):
        assert np.array_equal(rank["continued together"], rank["weights"])
        np.testing.assert_allclose(rank["continued alone"], rank["weights"], atol=1e-6)


MEET = """
import os, signal, sys
from pathlib import Path
import psutil, torch
from torch import nn
from learner.ranks import RankLost, RanksDiffer
from tests.learner.meeting import together
rank = int(sys.argv[1])
def meet(timeout=100.0, count=2):
    return together(Path(sys.argv[2]), rank, count, timeout)
"""


def run(body: str, folder: Path, ranks: int = 2, wait_for: int = 2) -> list[str]:
    """What the first ranks print; the others are killed when these have ended."""
    processes = [start("-c", MEET + body, rank, folder / "port") for rank in range(ranks)]
    try:
        return [process.communicate(timeout=90)[0] for process in processes[:wait_for]]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_ranks_listen_on_loopback_alone_when_they_meet_there(tmp_path: Path) -> None:
    body = """
ranks = meet()
ranks.sum_(torch.ones(1))
print({c.laddr.ip for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN})
ranks.sum_(torch.ones(1))
"""
    assert all("{'127.0.0.1'}" in output for output in run(body, tmp_path))


@pytest.mark.slow
def test_gradients_are_summed_and_absent_ones_stay_absent(tmp_path: Path) -> None:
    body = """
ranks, parameters = meet(), [nn.Parameter(torch.zeros(2, 2)) for _ in range(3)]
parameters[0].grad = torch.full((2, 2), 1.0 + rank)
if rank:
    parameters[1].grad = torch.arange(4.0).view(2, 2)
ranks.sum_gradients(parameters)
print([None if p.grad is None else p.grad.tolist() for p in parameters])
print(ranks.sum_metrics({"both": 1.0 + rank} | ({"one": 5.0} if rank else {})))
"""
    for output in run(body, tmp_path):
        assert "[[[3.0, 3.0], [3.0, 3.0]], [[0.0, 1.0], [2.0, 3.0]], None]" in output
        assert "{'both': 3.0, 'one': 5.0}" in output


@pytest.mark.slow
@pytest.mark.parametrize("difference", ["ranks.check_equal(7, [nn.Parameter(torch.ones(3) + rank * 1e-7)])",
                                        "ranks.check_equal(7 + rank, [nn.Parameter(torch.ones(3))])"])  # fmt: skip
def test_ranks_that_drifted_apart_say_so(tmp_path: Path, difference: str) -> None:
    body = f"""
ranks = meet()
ranks.check_equal(7, [nn.Parameter(torch.ones(3))])
try:
    {difference}
except RanksDiffer as error:
    print(error)
"""
    for output in run(body, tmp_path):
        assert "hold different weights after the same batch (version and checksum of rank 0: 7" in output


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seconds"), [("SIGKILL", 100.0), ("SIGSTOP", 4.0)])
@pytest.mark.parametrize("exchange", ["ranks.sum_(torch.ones(9))", "ranks.sum_metrics({})"])
def test_a_rank_that_dies_or_stops_does_not_hang_the_others(
    tmp_path: Path, name: str, seconds: float, exchange: str
) -> None:
    """The death is noticed at once, the pause when the time is over."""
    body = f"""
ranks = meet({seconds})
if rank:
    os.kill(os.getpid(), signal.{name})
try:
    {exchange}
except RankLost as error:
    print(error)
"""
    started = time.monotonic()
    (output,) = run(body, tmp_path, wait_for=1)
    assert "Learner rank 0 of 2 waited in" in output
    assert "for a rank that is gone or does not answer" in output
    assert time.monotonic() - started < 80


@pytest.mark.slow
def test_a_rank_that_never_comes_is_not_waited_for(tmp_path: Path) -> None:
    body = """
try:
    meet(3.0)
except RankLost as error:
    print(error)
"""
    (output,) = run(body, tmp_path, ranks=1, wait_for=1)
    assert "Learner rank 0 of 2 waited in the meeting" in output
