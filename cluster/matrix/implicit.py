"""The accuracy of implicit rewards on pairs of people's, a task a model, kept when it is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ray

from actors.config import PolicyConfig
from actors.policy import Policy
from cluster.crew.placement import Placement
from cluster.matrix.draws import digest
from cluster.matrix.entries import Entry
from cluster.matrix.store import Store
from cluster.measures.implicit import accuracy, implicit_rewards, read_pairs
from cluster.records.files import replacing
from cluster.stopping import at_once
from rewards.people.pick_a_pic import read_index


class Pairs(NamedTuple):
    """Pairs that people judged."""

    dataset: Path
    split: str | None
    most: int  # rows that are read
    states: int  # timesteps of each picture


def implicit_accuracies(
    place: Callable[[], Placement],
    store: Store,
    entries: Sequence[Entry],
    pairs: Pairs,
    progress: Callable[[int, int], None],
) -> dict[str, dict[str, float]]:
    """Of each model that has an adapter the share of pairs that it tells apart as people did: value, error, pairs.

    Args:
        place: Says where actors go, when the first is needed.
        store: Where what is done is kept.
        entries: The models; base models are passed over.
        pairs: Which.
        progress: Is told how many of those models that are not done yet are, and how many they were.

    Raises:
        ValueError: If the dataset is none, or people told none of its pairs apart.
    """
    index = read_index(pairs.dataset, pairs.split)
    found, asked = {}, {}
    for entry in entries:
        if entry.is_base:
            continue
        policy = entry.model.policy
        settings = policy.model_dump(mode="json", exclude={"init_lora", "init_weights"})
        said = [settings, entry.model.checksum, index.checksum, pairs.split, pairs.most, pairs.states]
        path = store.folder / "parts" / f"implicit-{digest(said)}.json"
        try:
            found[entry.name] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            asked[entry.name] = path, policy
    if asked:
        placement = place()
        with at_once():
            task = ray.remote(_measure).options(**placement.sampler)
            answers = {name: task.remote(policy, pairs) for name, (_, policy) in asked.items()}
            progress(0, len(answers))
            for done, (name, answer) in enumerate(answers.items(), start=1):
                found[name] = ray.get(answer)
                with replacing(asked[name][0]) as file:
                    file.write(json.dumps(found[name]).encode())
                progress(done, len(answers))
    return found


def _measure(policy: PolicyConfig, pairs: Pairs) -> dict[str, Any]:
    loaded = Policy.load(policy)
    batch = read_pairs(loaded, pairs.dataset, pairs.split, pairs.most)
    rewards = implicit_rewards(loaded, batch, pairs.states)
    count, value = len(rewards) // 2, accuracy(rewards.mean(dim=1), batch.rewards)
    return {"value": value, "error": (value * (1 - value) / count) ** 0.5, "pairs": count}
