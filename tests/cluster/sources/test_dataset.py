"""Batches of a dataset: a function of their number, read ahead within bounds, refused where too much is broken."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.config import Config
from cluster.errors import RunStopped
from cluster.sources.dataset import Dataset
from cluster.sources.pairs import Rows
from cluster.sources.rollouts import Rollout
from rewards.people.pick_a_pic import Pair, encode, write

Make = Callable[..., Config]
PICTURE = encode(np.zeros((4, 4, 3), np.uint8))
GOOD = Pair("a", (PICTURE, PICTURE), 1.0)


class FakeRollouts:
    """Reads one request at a time, in an order of its own."""

    def __init__(self, seed: int = 0) -> None:
        self.random, self.most = random.Random(seed), 0
        self.asked: list[tuple[int, Rows, int, bool]] = []
        self.pending: dict[int, Rows] = {}
        self.done: dict[int, Rollout] = {}

    def read(self, key: int, read: Rows, version: int, judged: bool) -> None:
        self.asked.append((key, read, version, judged))
        self.pending[key] = read
        self.most = max(self.most, len(self.pending) + len(self.done))

    def wait(self) -> None:
        key = self.random.choice(list(self.pending))
        read = self.pending.pop(key)
        request, said = read(lambda prompts: [True] * len(prompts))
        self.done[key] = Rollout(request, read.batch, 0.0, 1.0, None, None, **{"scores": {}, **said})  # type: ignore[arg-type]

    def take(self, key: int) -> Rollout | None:
        return self.done.pop(key, None)

    def finished(self, keys: Iterable[int]) -> dict[int, Rollout]:
        return {key: found for key in keys if (found := self.take(key)) is not None}


@pytest.fixture
def make(make_config: Make, tmp_path: Path) -> Make:
    """Configures a run on 90 rows in three files."""
    pairs = [replace(GOOD, caption=f"{number}") for number in range(90)]
    for number in range(3):
        write(tmp_path / "data" / f"{number}.parquet", pairs[30 * number : 30 * number + 30], rows=7 + number)
    settings = ["objective.name=rwr", f"data.path={tmp_path}/data", "data.pairs=8", "iterations=20"]
    return lambda *overrides: make_config(*settings, *overrides)


def batches(config: Config, version: int = 0, seed: int = 0) -> tuple[list[list[Rollout]], FakeRollouts]:
    rollouts = FakeRollouts(seed)
    source = Dataset(config, rollouts, version)  # type: ignore[arg-type]
    return [source.batch(v) for v in range(version, config.iterations)], rollouts


def captions(batch: list[Rollout]) -> list[str]:
    return [prompt for rollout in batch for prompt in rollout.request.prompts[::2]]


def test_every_row_comes_once_an_epoch(make: Make) -> None:
    found = [caption for batch in batches(make())[0] for caption in captions(batch)]
    assert len(found) == 160
    assert set(found[:90]) == {str(number) for number in range(90)}
    assert len(set(found[90:])) == 70
    assert found[90:] != found[:70]


@pytest.mark.parametrize("ahead", [0, 3])
@pytest.mark.parametrize("version", [0, 1, 13])
def test_a_batch_is_a_function_of_its_number_whoever_reads_first(make: Make, ahead: int, version: int) -> None:
    whole, _ = batches(make("seed=3"))
    again, rollouts = batches(make("seed=3", f"data.ahead={ahead}"), version, seed=version + 1)
    assert [[r.request for r in batch] for batch in again] == [[r.request for r in b] for b in whole[version:]]
    assert [r.version for batch in again for r in batch] == [v for v in range(version, 20) for _ in range(4)]
    assert rollouts.most == (ahead + 1) * 4  # as far ahead as allowed, and no further
    assert len(rollouts.asked) == (20 - version) * 4
    assert not rollouts.pending
    assert not rollouts.done


def test_requests_of_another_size_read_the_same_rows_in_the_same_groups(make: Make) -> None:
    def rows(config: Config) -> list[tuple]:
        return [
            pair for rollout in batches(config)[0][5] for pair in zip(rollout.request.keys[:, 2].tolist(),
                                                                     rollout.request.prompts, strict=True)
        ]  # fmt: skip

    assert rows(make()) == rows(make("samplers.request_size=16"))


def test_rewards_judge_only_where_the_labels_are_to_be_theirs(make: Make) -> None:
    assert {judged for *_, judged in batches(make("iterations=1"))[1].asked} == {False}
    assert {judged for *_, judged in batches(make("iterations=1", "data.labels=rewards"))[1].asked} == {True}


def test_too_many_corrupt_rows_stop_the_run_with_a_sentence(make: Make, tmp_path: Path) -> None:
    broken = replace(GOOD, caption="")
    write(tmp_path / "broken" / "a.parquet", islice(cycle([broken, *[GOOD] * 9]), 200))
    settings = (f"data.path={tmp_path}/broken", "data.pairs=16", "iterations=12")
    with pytest.raises(RunStopped, match=r"rows read so far .* are corrupt .* more than data.max_corrupt=0.05 allows"):
        batches(make(*settings))
    found, _ = batches(make(*settings, "data.max_corrupt=0.2"))
    read = [rollout.counts for batch in found for rollout in batch if rollout.counts]
    assert sum(counts.rows for counts in read) == 192
    assert 15 <= sum(counts.corrupt for counts in read) <= 20


def test_a_few_corrupt_rows_at_the_start_stop_nothing(make: Make, tmp_path: Path) -> None:
    write(tmp_path / "broken" / "a.parquet", [*[replace(GOOD, caption="")] * 5, *[GOOD] * 35])
    found, _ = batches(make(f"data.path={tmp_path}/broken", "iterations=3"))
    assert len(found) == 3


def test_a_dataset_of_ties_alone_stops_the_run_with_a_sentence(make: Make, tmp_path: Path) -> None:
    write(tmp_path / "ties" / "a.parquet", [replace(GOOD, label=0.5)] * 50)
    with pytest.raises(RunStopped, match=r"None of the 56 rows .* can be learned from: 56 are ties \(data\.ties\)"):
        batches(make(f"data.path={tmp_path}/ties"))


def test_reading_takes_the_memory_of_a_few_row_groups_and_not_of_the_dataset(make: Make, tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    drawn = [encode(noise.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(40)]  # 12 kB each
    pairs = (Pair(f"{n}", (drawn[n % 40], drawn[(n + 1) % 40]), 1.0) for n in range(2000))
    write(tmp_path / "large" / "a.parquet", pairs, rows=50)
    size = (tmp_path / "large" / "a.parquet").stat().st_size
    config = make(f"data.path={tmp_path}/large", "data.pairs=40", "iterations=30", "samplers.request_size=20")
    source = Dataset(config, rollouts := FakeRollouts(), 0)  # type: ignore[arg-type]
    held, before = 0, pa.total_allocated_bytes()  # of Arrow, which Python knows nothing of
    tracemalloc.start()
    try:
        for version in range(30):
            source.batch(version)
            held = max(held, pa.total_allocated_bytes() - before)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rollouts.asked) == 30 * 4  # of 20 pictures each
    assert peak < 10e6 < size / 2
    assert 0 < held < 10e6
