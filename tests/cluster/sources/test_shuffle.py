"""The order of a dataset's rows: each once an epoch whatever the row groups are, found without what comes before."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cluster.sources.shuffle import Shuffle

SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=12)
SEEDS = st.integers(0, 2**32 - 1)


def walk(shuffle: Shuffle, start: int, stop: int) -> list[tuple[int, int]]:
    return [(group, row) for group, rows in shuffle.take(start, stop) for row in rows]


@given(SIZES, SEEDS, st.integers(0, 5))
def test_every_epoch_has_every_row_once(sizes: list[int], seed: int, epoch: int) -> None:
    shuffle, rows = Shuffle(sizes, seed), sum(sizes)
    found = walk(shuffle, epoch * rows, (epoch + 1) * rows)
    assert Counter(found) == Counter((group, row) for group, size in enumerate(sizes) for row in range(size))


@given(SIZES, SEEDS, st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_however_it_is_cut_into_batches_it_is_the_same_walk(sizes: list[int], seed: int, cuts: list[int]) -> None:
    whole, places = walk(Shuffle(sizes, seed), 0, sum(cuts)), [sum(cuts[:n]) for n in range(len(cuts) + 1)]
    spans = list(pairwise(places))
    pieces = {span: walk(Shuffle(sizes, seed), *span) for span in reversed(spans)}  # none has seen those before
    assert [place for span in spans for place in pieces[span]] == whole


@given(SIZES, SEEDS)
def test_a_row_group_is_read_in_one_go_in_each_epoch(sizes: list[int], seed: int) -> None:
    groups = [group for group, _ in Shuffle(sizes, seed).take(0, sum(sizes))]
    assert len(groups) == len(set(groups)) == len(sizes)


def test_epochs_and_seeds_differ() -> None:
    shuffle, other = Shuffle([30, 30, 30], 0), Shuffle([30, 30, 30], 1)
    orders = [walk(shuffle, 0, 90), walk(shuffle, 90, 180), walk(other, 0, 90)]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert orders[0] != sorted(orders[0])
