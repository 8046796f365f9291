"""The plan of who goes where: never more on a node than it has, and a refusal that says what is missing."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.crew.capacity import Demand, Node, assign, describe
from cluster.errors import DoesNotFit

shares = st.sampled_from([0, 0.25, 0.3333, 0.5, 0.6, 1, 2])
amounts = st.fixed_dictionaries({"CPU": st.integers(0, 4), "GPU": shares})
nodes = st.lists(st.fixed_dictionaries({"CPU": st.integers(0, 8), "GPU": st.integers(0, 4)}), min_size=1, max_size=4)


@given(st.lists(amounts, max_size=8), nodes)
def test_a_plan_places_everyone_and_overfills_no_node(asked: list[dict], there: list[dict]) -> None:
    demands = [Demand(f"actor-{i}", resources) for i, resources in enumerate(asked)]
    machines = {f"node-{i}": resources for i, resources in enumerate(there)}
    try:
        plan = assign(demands, [Node(name, resources) for name, resources in machines.items()])
    except DoesNotFit:
        return
    assert list(plan) == [demand.who for demand in demands]
    used: dict[tuple[str, str], float] = defaultdict(float)
    for demand in demands:
        for resource, amount in demand.resources.items():
            used[plan[demand.who], resource] += amount
    assert all(amount <= machines[node][resource] + 1e-9 for (node, resource), amount in used.items())


@given(st.integers(1, 6), st.integers(1, 4))
def test_equal_actors_fit_exactly_as_often_as_there_is_room(per_node: int, count: int) -> None:
    machines = [Node(f"node-{i}", {"CPU": float(per_node)}) for i in range(count)]
    actors = [Demand(f"sampler-{i}", {"CPU": 1.0}) for i in range(per_node * count)]
    plan = assign(actors, machines)
    assert {list(plan.values()).count(node.name) for node in machines} == {per_node}
    with pytest.raises(DoesNotFit):
        assign([*actors, Demand("one more", {"CPU": 1.0})], machines)


def test_quarters_of_a_gpu_add_up_and_cpus_go_where_no_gpu_is_needed_last() -> None:
    gpu, cpu = Node("gpu", {"CPU": 4.0, "GPU": 1.0}), Node("cpu", {"CPU": 2.0})
    plan = assign(
        [Demand(f"reward-{i}", {"CPU": 1.0, "GPU": 0.25}) for i in range(4)] + [Demand("a", {"CPU": 2.0})], [gpu, cpu]
    )
    assert plan == {**{f"reward-{i}": "gpu" for i in range(4)}, "a": "cpu"}
    assert describe(plan) == "gpu: reward-0, reward-1, reward-2, reward-3\ncpu: a"


def test_an_actor_goes_only_where_its_labels_are() -> None:
    machines = [Node("a", {"CPU": 8.0}, {"zone": "east"}), Node("b", {"CPU": 2.0}, {"zone": "west"})]
    assert assign([Demand("learner", {"CPU": 1.0}, {"zone": "west"})], machines) == {"learner": "b"}
    with pytest.raises(DoesNotFit, match="1 CPU on a node with zone=north: left are 8 CPU on a; 2 CPU on b"):
        assign([Demand("learner", {"CPU": 1.0}, {"zone": "north"})], machines)


def test_a_refusal_names_the_actor_what_it_asks_for_and_what_is_left() -> None:
    demands = [Demand("learner", {"CPU": 2.0, "GPU": 1.0}), Demand("sampler-0", {"CPU": 1.0, "GPU": 1.0})]
    with pytest.raises(DoesNotFit) as caught:
        assign(demands, [Node("alone", {"CPU": 4.0, "GPU": 1.0})])
    assert str(caught.value) == (
        "The cluster has no room for sampler-0, which asks for 1 CPU, 1 GPU: left are 2 CPU on alone. Ask for less, or "
        "add a node."
    )


def packs(shares: list[float], devices: list[float]) -> bool:
    """Whether shares fit on devices in any way at all: a fraction on one device, more than one on whole ones."""
    if not shares:
        return True
    share, rest = shares[0], shares[1:]
    if share >= 1:
        whole = [i for i, left in enumerate(devices) if left == 1]
        chosen = set(whole[: int(share)])
        taken = [0.0 if i in chosen else left for i, left in enumerate(devices)]
        return len(whole) >= share and packs(rest, taken)
    return any(
        packs(rest, [*devices[:i], left - share, *devices[i + 1 :]])
        for i, left in enumerate(devices)
        if left >= share - 1e-9
    )


@given(st.lists(shares, min_size=1, max_size=6), st.integers(1, 3))
def test_gpus_are_packed_one_by_one(asked: list[float], gpus: int) -> None:
    demands = [Demand(f"actor-{i}", {"GPU": share}) for i, share in enumerate(asked)]
    possible = packs(sorted(asked, reverse=True), [1.0] * gpus)
    try:
        assign(demands, [Node("alone", {"GPU": float(gpus)})])
    except DoesNotFit:
        largest_first_may_miss = len({share for share in asked if 0 < share < 1}) > 1
        assert not possible or largest_first_may_miss
    else:
        assert possible


@pytest.mark.parametrize(("share", "count", "gpus"), [(0.6, 3, 2), (1.5, 1, 2), (0.5, 5, 2), (1 / 7, 7, 1)])
def test_what_adds_up_over_a_node_and_fits_on_no_device_is_refused(share: float, count: int, gpus: int) -> None:
    with pytest.raises(DoesNotFit, match="GPU"):
        assign([Demand(f"actor-{i}", {"GPU": share}) for i in range(count)], [Node("alone", {"GPU": float(gpus)})])


def test_a_refusal_tells_what_is_left_of_each_gpu() -> None:
    with pytest.raises(DoesNotFit, match=r"left are 0\.4 of a GPU, 0\.4 of a GPU on alone"):
        assign([Demand(f"actor-{i}", {"GPU": 0.6}) for i in range(3)], [Node("alone", {"GPU": 2.0})])
