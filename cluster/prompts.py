"""Prompts: reading a list, and which an iteration asks for (a pure function, so a resumed run asks the same)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

import shapes
from actors.trajectories import EVALUATION, Request
from cluster.published import as_ours
from cluster.start_images import first_step, image_of, load_start, with_start
from cluster.tables import read_table
from cluster.text import decode, lines
from rewards.prompt import Prompt

# Prompts of each list that an evaluation asks for unless it is told otherwise.
EVALUATED = 64
# Control characters but for tabs and line ends (of JSON's texts), and halves of pairs.
_ODD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
Kind = Literal["text", "json", "array", "csv", "tsv", "parquet"]
_KINDS: dict[str, Kind] = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "array",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
T = TypeVar("T")
_EMBEDDED = {f"shapes:{path.stem}": path for path in (Path(shapes.__file__).parent / "prompts").glob("*.txt")}


def locate(source: str) -> Path:
    """The file of a prompt list: an embedded one's by its name, any other path as it is."""
    return _EMBEDDED.get(source, Path(source))


def read_prompts(source: str) -> tuple[Prompt, ...]:
    """The prompts of a file, or of an embedded list.

    A file has one prompt a line; blank lines do not count. Or it has JSON lines, if it is called *.jsonl or its lines
    look so: texts, or objects with a `prompt` and whatever the rewards may want to know beside it; *.json may also be
    one array of these. Or it is a table, *.csv, *.tsv or *.parquet, with a column `prompt`. `image` and `strength`
    beside a prompt are the picture that it begins from, see `cluster.start_images`. Files of benchmarks are read as
    published, see `cluster.published`.

    Raises:
        ValueError: If there is no such file, it is not UTF-8, a line cannot be read, or it holds no prompt.
    """
    path = locate(source)
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"the prompt file {path} is no file")
        prompts = _parse(path.read_bytes(), _KINDS.get(path.suffix.lower(), "text"), path.parent)
    except OSError as error:
        known = ", ".join(sorted(_EMBEDDED))
        raise ValueError(
            f"the prompt file {path} cannot be read ({error.strerror}); embedded lists are {known}"
        ) from error
    except ValueError as error:
        raise ValueError(f"the prompt file {path} cannot be read: {error}") from error
    if not prompts:
        raise ValueError(f"the prompt file {path} holds no prompt")
    return prompts


# By what a file holds, not by its name: a config asks for its list again and again, and 100,000 prompts take seconds.
@lru_cache(maxsize=4)
def _parse(data: bytes, kind: Kind, folder: Path) -> tuple[Prompt, ...]:
    if kind == "csv" or kind == "tsv" or kind == "parquet":
        rows = enumerate(read_table(data, kind), 1)
        return tuple(_checked(f"row {number}", row, lambda row: _of_record(row, folder)) for number, row in rows)
    text = decode(data)
    if (elements := _json_array(text)) is not None:
        if kind != "array":
            raise ValueError(
                "it is one JSON array; call the file *.json, or write each of its elements on a line of its own (JSON "
                "lines)"
            )
        return tuple(
            _checked(f"element {n}", element, lambda element: _of_record(_json_value(element), folder))
            for n, element in enumerate(elements, 1)
        )
    numbered = [(number, line.strip()) for number, line in enumerate(lines(text), 1) if line.strip()]
    if kind == "json" or kind == "array" or _looks_like_json(numbered):
        return tuple(_checked(f"line {n}", line, lambda line: _of_record(_json(line), folder)) for n, line in numbered)
    return _texts(text)


@lru_cache(maxsize=4)  # the same wherever the file is: a run reads its own copy too
def _texts(text: str) -> tuple[Prompt, ...]:
    numbered = enumerate(lines(text), 1)
    return tuple(_checked(f"line {number}", line.strip(), Prompt) for number, line in numbered if line.strip())


def make_prompt(text: str) -> Prompt:
    """A prompt of a command line.

    Raises:
        ValueError: If it holds a control character.
    """
    if odd := _ODD.search(text):
        raise ValueError(f"the prompt {text!r} holds the character {odd[0]!r}, which no prompt needs; remove it")
    return Prompt(text.strip())


def absolute_source(source: str) -> str:
    """A source of prompts that means the same in every folder."""
    return source if source in _EMBEDDED else str(Path(os.path.expanduser(source)).absolute())


def _checked(place: str, what: T, read: Callable[[T], Prompt]) -> Prompt:
    try:
        prompt = read(what)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} {error}") from error
    if odd := _ODD.search(prompt):
        raise ValueError(f"{place} holds the character {odd[0]!r}, which no prompt needs; remove it")
    return prompt


def _json_array(text: str) -> list[Any] | None:
    try:
        found = json.loads(text) if text.lstrip().startswith("[") else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _looks_like_json(numbered: Sequence[tuple[int, str]]) -> bool:
    """Whether the first line begins as an object with keys does, or every line is a text in quotes."""
    if not numbered or re.match(r'\{\s*"', numbered[0][1]):
        return bool(numbered)
    return all(_is_quoted(line) for _, line in numbered)


def _is_quoted(line: str) -> bool:
    try:
        return line.startswith('"') and isinstance(json.loads(line), str)
    except ValueError:
        return False


def _json(line: str) -> Any:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON ({error.msg} at character {error.pos + 1})") from error
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    return _json_value(value)


def _json_value(value: Any) -> Any:
    return {"prompt": value} if isinstance(value, str) else value


def _of_record(record: Any, folder: Path) -> Prompt:
    """The prompt of an object with a text as its `prompt`, or by what a benchmark calls it."""
    if isinstance(record, dict):
        record = as_ours(record, folder)
    if not isinstance(record, dict) or not isinstance(prompt := record.pop("prompt", None), str) or not prompt.strip():
        raise ValueError("is neither a text nor an object with a text as its 'prompt'")
    return with_start(prompt.strip(), record, folder)


def prompts_of(prompts: tuple[str, ...], iteration: int, count: int, seed: int) -> tuple[str, ...]:
    """The `count` prompts of an iteration: consecutive slices of an endless list that shuffles every pass anew."""
    return tuple(prompt_of(prompts, iteration, group, count, seed) for group in range(count))


def prompt_of(prompts: tuple[str, ...], iteration: int, group: int, count: int, seed: int) -> str:
    """One of `prompts_of`, at a cost that the list's length does not change."""
    if count == len(prompts):
        return prompts[group]
    pass_, offset = divmod(iteration * count + group, len(prompts))
    return prompts[_order(len(prompts), seed, pass_)[offset]]


@lru_cache(maxsize=4)
def _order(size: int, seed: int, pass_: int) -> np.ndarray:
    return np.random.default_rng([seed, pass_]).permutation(size)


def spread(prompts: tuple[str, ...], count: int | None) -> tuple[str, ...]:
    """At most `count` of the prompts, in their order: drawn once, so the same for every run of the list; `None` is all.

    Drawn and not taken at even distances, because lists that were made from templates repeat at even distances.
    """
    if count is None or count >= len(prompts):
        return prompts
    return tuple(prompts[i] for i in sorted(np.random.default_rng(0).choice(len(prompts), count, replace=False)))


def make_requests(
    prompts: tuple[str, ...],
    samples: int,
    size: int,
    *,
    seed: int,
    iteration: int = EVALUATION,
    stored_steps: tuple[int, ...] = (),
    share_init_noise: bool = False,
    clean: bool = False,
    most: int | None = EVALUATED,
    steps: int = 0,
) -> list[Request]:
    """Cut prompts x samples, in that order, into requests of `size` samples (the last may be smaller).

    Those that begin within the chain, at different steps, go into requests of their own.

    Args:
        prompts: What to ask for.
        samples: Of each prompt.
        size: Of a request.
        seed, iteration, stored_steps, share_init_noise, clean: See `Request`.
        most: Ask for so many of the prompts at most (`spread`); `None` for all.
        steps: Of a chain; who has no start images need not know.
    """
    asked = spread(prompts, most)
    alike: dict[tuple[int, bool], list[int]] = {}
    for number, prompt in enumerate(asked):
        alike.setdefault((first_step(prompt, steps), image_of(prompt) is None), []).append(number)
    wanted = (stored_steps, share_init_noise, clean, steps)
    requests = []
    for numbers in alike.values():
        rows = [number * samples + sample for number in numbers for sample in range(samples)]
        for start in range(0, len(rows), size):
            requests.append(
                make_request(asked.__getitem__, rows[start : start + size], samples, seed, iteration, *wanted)
            )
    return requests


def make_request(
    prompt: Callable[[int], str],
    rows: Sequence[int],
    samples: int,
    seed: int,
    iteration: int,
    stored_steps: tuple[int, ...] = (),
    share_init_noise: bool = False,
    clean: bool = False,
    steps: int = 0,
    noisy_steps: tuple[int, int] | None = None,
) -> Request:
    """Some rows of prompts x samples as a request; all begin at one step, and from images or all from noise.

    Args:
        prompt: The prompt of a group; asked for the groups of the rows alone.
        rows: Row r is sample r % samples of group r // samples.
        samples: Of each group.
        seed, iteration, stored_steps, share_init_noise, clean, noisy_steps: See `Request`.
        steps: As for `make_requests`.

    Raises:
        ValueError: If a start image cannot be read.
    """
    groups, numbers = zip(*(divmod(row, samples) for row in rows), strict=True)
    texts = {group: prompt(group) for group in set(groups)}
    starts = {group: load_start(path) for group, text in texts.items() if (path := image_of(text)) is not None}
    return Request(
        seed,
        iteration,
        tuple(texts[group] for group in groups),
        groups,
        numbers,
        stored_steps,
        share_init_noise,
        clean,
        first_step(texts[groups[0]], steps),
        tuple(starts[group] for group in groups) if starts else None,
        noisy_steps,
    )
