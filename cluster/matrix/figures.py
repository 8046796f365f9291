"""The figures of an evaluation, from what has been judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.matrix.draws import Draw
from cluster.matrix.entries import Entry
from cluster.matrix.store import Column, Store
from cluster.measures.estimate import Estimate, by_prompt, each_prompt, over_prompts, share_by_prompt, wins
from cluster.measures.front import front
from cluster.measures.moved import across_halves, fid, kid
from cluster.measures.spread import mean_pairwise_distance, vendi
from cluster.measures.variance import split

_WORDS = ("value", "error", "low", "high")
# What is read of the features of a prompt's pictures alone, and of them beside the base model's.
_SPREAD = {"diversity": mean_pairwise_distance, "vendi": vendi}
_MOVED = {"prompt_averaged_fid": fid, "kid": kid}


def figures(
    store: Store,
    entries: Sequence[Entry],
    columns: Sequence[Column],
    shape: tuple[int, int, int],
    progress: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """A record of each entry, as JSON has it.

    Args:
        store: With all answers.
        entries: The rows.
        columns: Of scores and of features.
        shape: Prompts, initial noises and chains of the crossed design, if there is one.
        progress: Is told how many entries of how many are done.

    Returns:
        `model`, `source`, `group`, `base` (whether it is a base model), `against` (the name of its base model);
        `rewards`, by name: `mean`, `win_rate` against the base model and how many pictures could not be judged
        (`missing`); `features`, by name: what `_SPREAD` and `_MOVED` name; `variance`, by reward.
        Estimates are objects of `value`, `error`, `low` and `high`, null where unknown.
    """
    names = {entry.draw.key: entry.name for entry in entries if entry.is_base}
    records = []
    for done, entry in enumerate(entries, start=1):
        records.append({**_record(store, entry, columns, shape), "against": names[entry.base.key]})
        progress(done, len(entries))
    return records


def _record(store: Store, entry: Entry, columns: Sequence[Column], shape: tuple[int, int, int]) -> dict[str, Any]:
    groups = prompt_index(entry.draw)
    rewards, features, variance = {}, {}, {}
    for column in columns:
        own, base = store.answers(entry.draw, column), store.answers(entry.base, column)
        if column.what == "scores":
            found: dict[str, Any] = {"mean": _said(by_prompt(own, groups))}
            if not entry.is_base:
                found["win_rate"] = _said(share_by_prompt(wins(own, base), groups))
            rewards[column.name] = {**found, "missing": int((~np.isfinite(own)).sum())}
            if entry.crossed is not None:
                parts = split(store.answers(entry.crossed, column).reshape(shape))
                variance[column.name] = parts and {**parts._asdict(), "total": parts.total}
        else:
            spread = {name: each_prompt(measure, own, groups) for name, measure in _SPREAD.items()}
            own_by, base_by = ([rows[groups == group] for group in np.unique(groups)] for rows in (own, base))
            moved = {
                name: over_prompts([across_halves(measure, *of) for of in zip(own_by, base_by, strict=True)])
                for name, measure in _MOVED.items()
            }
            features[column.name] = {name: _said(estimate) for name, estimate in (spread | moved).items()}
    said = {"model": entry.name, "source": entry.model.source, "group": entry.group, "base": entry.is_base}
    return {**said, "rewards": rewards, "features": features, **({"variance": variance} if variance else {})}


def fronts(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each group the models on the Pareto front of each reward and the diversity in each features.

    Their base model takes part too.
    """
    found = []
    for group in dict.fromkeys(record["group"] for record in records if not record["base"]):
        own = [record for record in records if record["group"] == group and not record["base"]]
        bases = {record["against"] for record in own}
        there = [record for record in records if record["base"] and record["model"] in bases] + own
        for reward in there[0]["rewards"]:
            for features in there[0]["features"]:
                points = np.array([point(record, reward, features) for record in there], float)
                on = [record["model"] for record, is_on in zip(there, front(points), strict=True) if is_on]
                found.append({"group": group, "reward": reward, "features": features, "models": on})
    return found


def point(record: Mapping[str, Any], reward: str, features: str) -> tuple[float | None, float | None]:
    """Where a model lies between a reward and the diversity in some features."""
    return record["rewards"][reward]["mean"]["value"], record["features"][features]["diversity"]["value"]


def samples(store: Store, entries: Sequence[Entry], columns: Sequence[Column]) -> pa.Table:
    """A row a picture: model, prompt, prompt_index, sample_index, seed, and its score under each reward."""
    tables = []
    for entry in entries:
        requests = entry.draw.requests
        values: dict[str, Any] = {
            "model": [entry.name for request in requests for _ in request.prompts],
            "prompt": [str(prompt) for request in requests for prompt in request.prompts],
            "prompt_index": prompt_index(entry.draw),
            "sample_index": [number for request in requests for number in request.sample_index],
            "seed": [request.seed for request in requests for _ in request.prompts],
        }
        values |= {of.name: store.answers(entry.draw, of) for of in columns if of.what == "scores"}
        tables.append(pa.table(values))
    return pa.concat_tables(tables)


def prompt_index(draw: Draw) -> np.ndarray:
    """Which prompt each picture of a draw is of, `(B,)` int64."""
    return np.array([number for request in draw.requests for number in request.prompt_index], np.int64)


def _said(estimate: Estimate) -> dict[str, float | None]:
    return {word: float(x) if np.isfinite(x) else None for word, x in zip(_WORDS, estimate, strict=True)}
