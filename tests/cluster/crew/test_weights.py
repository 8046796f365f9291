"""The weight store: who is told of what, and how long references live."""

from __future__ import annotations

import gc
import time
import weakref
from typing import Any

from cluster.crew.weights import WeightStore


class Reference:
    """Stands in for an object reference."""


def publish(store: WeightStore) -> Any:
    reference: Any = Reference()
    store.publish([reference])
    return reference


def test_an_empty_store_has_nothing_newer() -> None:
    assert WeightStore().newer(0) is None


def test_only_a_sampler_that_lacks_the_newest_is_sent_it() -> None:
    store = WeightStore()
    publish(store)
    found = store.newer(0)
    assert found is not None
    first = found[0]
    newest = publish(store)
    for have in (0, first):
        found = store.newer(have)
        assert found is not None
        number, reference, _ = found
        assert number not in (0, first)
        assert reference is newest
    assert store.newer(number) is None


def test_the_newest_two_references_are_kept_alive_and_no_more() -> None:
    store = WeightStore()
    alive = [weakref.ref(publish(store)) for _ in range(4)]
    gc.collect()
    assert [reference() is not None for reference in alive] == [False, False, True, True]


def test_it_says_when_the_newest_were_published() -> None:
    store, before = WeightStore(), time.time()
    publish(store)
    found = store.newer(0)
    assert found is not None
    assert before <= found[2] <= time.time()
