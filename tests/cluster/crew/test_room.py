"""Whether a run fits: on one machine all actors together, on a cluster those that share a machine or a GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pytest

from cluster.config import Config
from cluster.crew import room
from cluster.crew.memory import Need
from cluster.crew.placement import Placement
from cluster.crew.room import Place
from cluster.errors import DoesNotFit

GB = 1e9


def need(count: int, device: float = 0, host: float = GB) -> Need:
    return Need(
        "sampler", "a sampler", count, {"networks": device} if device else {}, {"networks": host}, "set something"
    )


@pytest.fixture
def together() -> Placement:
    return Placement({}, {}, {}, together=True)


@pytest.mark.parametrize(
    ("memory", "needs", "said"),
    [
        ((4 * GB, []), [need(5)], "This machine has 4 GB of memory, but what is loaded for 5 times a sampler"),
        ((4 * GB, []), [need(2), need(3)], "This machine has 4 GB"),
        ((9 * GB, [2 * GB, 2 * GB]), [need(5, GB)], "on all of its GPUs together, has 4 GB"),
        ((9 * GB, [2 * GB, 2 * GB]), [need(1, 3 * GB)], "A GPU here has 2 GB"),
    ],
)
def test_on_one_machine_all_actors_must_fit_together(
    make_config: Callable[..., Config],
    together: Placement,
    monkeypatch: pytest.MonkeyPatch,
    memory: tuple[float, list[float]],
    needs: Sequence[Need],
    said: str,
) -> None:
    monkeypatch.setattr(room, "memory_here", lambda: memory)
    with pytest.raises(DoesNotFit, match=said):
        room.check_room(make_config(), needs, together)
    monkeypatch.setattr(room, "memory_here", lambda: (9 * GB, [9 * GB, 9 * GB]))
    room.check_room(make_config(), needs, together)


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([], None),  # nobody answers
        ([(0, Place("a", (), 2 * GB, 0))], None),
        ([(1, Place("a", (), 2 * GB, 0))], "The machine of a reward has 2 GB of memory, .* takes about 3 GB"),
        ([(0, Place("a", (0,), 9 * GB, 3 * GB)), (1, Place("a", (1,), 9 * GB, 3 * GB))], None),
        ([(0, Place("a", (0,), 9 * GB, 3 * GB)), (1, Place("b", (0,), 9 * GB, 3 * GB))], None),
        # Three quarters of a GPU and a quarter.
        (
            [(0, Place("a", (0,), 9 * GB, 3 * GB)), (1, Place("a", (0,), 9 * GB, 3 * GB))],
            "The GPU of a sampler and a reward has 3 GB .* takes about 4 GB",
        ),
        ([(0, Place("a", (gpu,), 3 * GB, 3 * GB)) for gpu in range(3)], None),
        (
            [(0, Place("a", (gpu,), 3 * GB, 3 * GB)) for gpu in range(4)],
            "The machine of a sampler has 3 GB .* 4 times a sampler takes about 4 GB",
        ),
    ],
)
def test_on_a_cluster_those_that_share_a_machine_or_a_gpu_must_fit_there_together(
    make_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    places: Sequence[tuple[int, Place]],
    said: str | None,
) -> None:
    needs = [
        Need("sampler", "a sampler", 9, {"networks": 2 * GB}, {"networks": GB}, ""),
        Need("reward", "a reward", 9, {"rewards": 2 * GB}, {"rewards": 3 * GB}, ""),
    ]
    monkeypatch.setattr(room, "_ask", lambda *_: places)
    if said is None:
        room.check_room(make_config(), needs, Placement({}, {}, {}))
        return
    with pytest.raises(DoesNotFit, match=said):
        room.check_room(make_config(), needs, Placement({}, {}, {}))


def test_what_may_run_out_on_many_nodes_alike_is_said_once(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    large = Need("sampler", "a sampler", 9, {}, {"networks": GB, "8 pictures": 4 * GB}, "")
    monkeypatch.setattr(room, "_ask", lambda *_: [(0, Place(f"{n}", (), (3 - n / 10) * GB, 0)) for n in range(4)])
    with caplog.at_level(logging.WARNING):
        room.check_room(make_config(), [large], Placement({}, {}, {}))
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("The machine of a sampler has 2.7 GB")
