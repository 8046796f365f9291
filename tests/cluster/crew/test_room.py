"""Whether a run fits: on one machine all actors together, on a cluster each role where its first actor is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from cluster.config import Config
from cluster.crew import room
from cluster.crew.memory import Need
from cluster.crew.placement import Placement
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


def test_on_a_cluster_each_is_held_to_the_place_where_it_is(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody answers, nothing is refused."""
    small, large = need(9, host=GB), need(9, host=3 * GB)
    places = [(small, (2 * GB, [])), (large, (2 * GB, []))]
    monkeypatch.setattr(room, "_ask", lambda *_: places[:1])
    room.check_room(make_config(), [small, large], Placement({}, {}, {}))
    monkeypatch.setattr(room, "_ask", lambda *_: places)
    with pytest.raises(DoesNotFit, match=r"The machine of a sampler has 2 GB of memory, .* takes about 3 GB"):
        room.check_room(make_config(), [small, large], Placement({}, {}, {}))
