"""The weight store: who is told of what, damaged weights, and how long references live."""

from __future__ import annotations

import gc
import time
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from actors.trajectories import Weights
from cluster.weights import WeightStore


class Reference:
    """Stands in for an object reference."""


def weights(version: int, value: float = 0.0) -> Weights:
    return Weights.pack(version, np.full(4, value, np.float32), (("a", (4,)),))


def stamp(of: Weights) -> tuple[int, int]:
    return of.version, of.crc32


def publish(store: WeightStore, of: Weights) -> Any:
    reference: Any = Reference()
    assert store.publish(of, [reference]) == of.version
    return reference


def newest(store: WeightStore, have: tuple[int, int] | None) -> Any:
    found = store.newer(have)
    assert found is not None
    return found[0]


def test_an_empty_store_has_nothing_newer() -> None:
    assert WeightStore().newer(None) is None
    assert WeightStore().newer((0, 0)) is None


def test_only_a_sampler_that_lacks_the_newest_is_sent_it() -> None:
    store, first, second = WeightStore(), weights(0, 1.0), weights(1, 2.0)
    publish(store, first)
    reference = publish(store, second)
    assert newest(store, None) is reference
    assert newest(store, (0, 0)) is reference
    assert newest(store, stamp(first)) is reference
    assert store.newer(stamp(second)) is None


def test_after_a_restore_an_older_version_is_the_newer_truth() -> None:
    store, lost, restored = WeightStore(), weights(3, 3.0), weights(2, 2.0)
    publish(store, lost)
    reference = publish(store, restored)
    assert newest(store, stamp(lost)) is reference


def test_another_training_of_the_same_version_is_newer() -> None:
    store, lost, again = WeightStore(), weights(3, 3.0), weights(3, 3.5)
    publish(store, lost)
    reference = publish(store, again)
    assert newest(store, stamp(lost)) is reference


def test_damaged_weights_are_refused_and_the_last_good_ones_stay() -> None:
    store, good = WeightStore(), weights(1, 1.0)
    reference = publish(store, good)
    damaged = replace(weights(2, 2.0), flat=np.array([2, 2, 2, 2.0000002], np.float32))
    with pytest.raises(ValueError, match="version 2 arrived damaged"):
        store.publish(damaged, [Reference()])
    assert newest(store, None) is reference


def test_the_newest_two_references_are_kept_alive_and_no_more() -> None:
    store = WeightStore()
    alive = [weakref.ref(publish(store, weights(version, version))) for version in range(4)]
    gc.collect()
    assert [reference() is not None for reference in alive] == [False, False, True, True]


def test_it_says_when_the_newest_were_published() -> None:
    store, before = WeightStore(), time.time()
    publish(store, weights(0))
    found = store.newer(None)
    assert found is not None
    assert before <= found[1] <= time.time()
