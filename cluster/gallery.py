"""The pictures that a run keeps, or that lie in a folder, with their prompts: what people can be asked about.

    RUN[@ITERATION]    the grids of an evaluation, the newest if none is named; cells are at most 96 pixels wide
    FOLDER             pictures of cluster.generate; or those that metadata.jsonl names, a JSON object a line with
                       file_name, prompt and, where wanted, model and score; or those in a subfolder a prompt, which is
                       called like it

Reading needs neither Ray nor torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from cluster.errors import ConfigError
from cluster.records.parts import Parts
from cluster.records.pictures import cells
from cluster.records.png import read_facts, read_pixels
from cluster.records.reading import CONFIG
from cluster.text import decode, lines
from rewards.people.asking import Picture

_SPLITS = ("train", "held_out")
_ROWS, _COLUMNS = 12, 8  # of a run's grids, see cluster.evaluation.sample_grid
_METADATA = "metadata.jsonl"
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")


def has_pictures(folder: Path) -> bool:
    """Whether a folder is one of pictures, in itself or in folders of prompts, whatever datasets lie beside them."""
    names = (*folder.glob("*"), *folder.glob("*/*"))  # the page's own records are deeper
    return (folder / _METADATA).is_file() or any(name.suffix.lower() in _SUFFIXES for name in names if name.is_file())


def gallery(sources: Sequence[str]) -> list[Picture]:
    """The pictures of runs and folders; of several sources, each picture says which it is from.

    Raises:
        ConfigError: If a source has none, or is named twice, in one sentence.
    """
    places = [split_source(source) for source in sources]
    if twice := next((source for source, place in zip(sources, places, strict=True) if places.count(place) > 1), None):
        raise ConfigError(f"{twice} is named twice; it can be compared with another run, folder or evaluation.")
    found = {source: pictures(source) for source in sources}
    if len(sources) == 1:
        return found[sources[0]]
    names = [Path(source).name for source in sources]
    titles = [name if names.count(name) == 1 else source for name, source in zip(names, sources, strict=True)]
    return [
        picture._replace(model=title if picture.model is None else f"{title}, {picture.model}")
        for title, source in zip(titles, sources, strict=True)
        for picture in found[source]
    ]


def pictures(source: str) -> list[Picture]:
    """The pictures of a run or a folder.

    Raises:
        ConfigError: If there are none, in one sentence.
    """
    path, iteration = split_source(source)
    try:
        found = _pictures(path, iteration)
    except OSError as error:
        raise ConfigError(f"{error.filename or path} cannot be read ({error.strerror or error}).") from error
    if not found:
        raise ConfigError(
            f"{path} has no pictures with prompts: it needs those of cluster.generate, a {_METADATA}, or a subfolder "
            "for each prompt."
        )
    return found


def _pictures(path: Path, iteration: int | None) -> list[Picture]:
    if (path / CONFIG).is_file():
        return list(_of_run(path, iteration))
    if iteration is not None:
        raise ConfigError(f"There is no run in {path} ({CONFIG}), so it has no evaluation {iteration}.")
    if not path.is_dir():
        raise ConfigError(f"There is no folder {path}.")
    if (path / _METADATA).is_file():
        return list(_listed(path))
    return [*_generated(path), *_by_folder(path)]


def split_source(source: str) -> tuple[Path, int | None]:
    """The folder of `RUN@ITERATION`, and the iteration where there is one."""
    path = Path(source).expanduser()
    name, at, number = source.rpartition("@")
    if at and not path.exists() and number.isascii() and number.isdigit():
        return Path(name).expanduser().absolute(), int(number)
    return path.absolute(), None


def _of_run(run: Path, iteration: int | None) -> Iterator[Picture]:
    there = {split: _grids(run, split) for split in _SPLITS}
    every = sorted({number for grids in there.values() for number in grids})
    if not every:
        raise ConfigError(f"{run} keeps no pictures yet (images/): it has not been evaluated.")
    chosen = every[-1] if iteration is None else iteration
    if chosen not in every:
        raise ConfigError(f"{run} has no evaluation {chosen}, but {', '.join(map(str, every))}.")
    table = Parts(run / "samples.parquet").part(chosen)
    rows = [] if table is None else table.to_pylist()
    weights = _weights(run)
    for split, grids in there.items():
        shown = {
            (row["prompt_index"], row["sample_index"]): row
            for row in rows
            if row["split"] == split and row["prompt_index"] < _ROWS and row["sample_index"] < _COLUMNS
        }
        if chosen not in grids or not shown:
            continue
        prompts, columns = sorted({prompt for prompt, _ in shown}), 1 + max(sample for _, sample in shown)
        try:
            sheet = cells(read_pixels(grids[chosen]), len(prompts), columns)
        except (OSError, SyntaxError, ValueError) as error:
            raise ConfigError(f"{grids[chosen]} cannot be read ({error}).") from error
        for prompt, images in zip(prompts, sheet, strict=True):
            for sample, image in enumerate(images):
                row = shown[prompt, sample]
                yield Picture(row["prompt"], partial(_png, image), score=_score(row, weights))


def _grids(run: Path, split: str) -> dict[int, Path]:
    numbered = {path.stem.removeprefix(f"{split}-"): path for path in (run / "images").glob(f"{split}-*.png")}
    return {int(number): path for number, path in numbered.items() if number.isascii() and number.isdigit()}


def _weights(run: Path) -> dict[str, float]:
    """The weights of the rewards that a run trains on."""
    try:
        rewards = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))["rewards"]
        return {name: float(reward["weight"]) for name, reward in rewards.items() if reward["weight"]}
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{run / CONFIG} is not what the run saved ({' '.join(str(error).split())}).") from error


def _score(row: Mapping[str, Any], weights: Mapping[str, float]) -> float | None:
    """The weighted sum of a sample's rewards, each on its own scale; `None` where one could not judge it."""
    scores = [weight * row[name] if row.get(name) is not None else math.nan for name, weight in weights.items()]
    return sum(scores) if scores and math.isfinite(sum(scores)) else None


def _png(image: Image.Image) -> bytes:
    image.save(file := BytesIO(), "PNG")
    return file.getvalue()


def _listed(folder: Path) -> Iterator[Picture]:
    path = folder / _METADATA
    try:
        text = decode(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    for number, line in enumerate(lines(text), 1):
        if line.strip():
            yield _of_line(folder, line, f"Line {number} of {path}")


def _of_line(folder: Path, line: str, where: str) -> Picture:
    try:
        record = json.loads(line)
        name, prompt = record["file_name"], record.get("prompt", record.get("text"))
        score, model = record.get("score"), record.get("model")
        if not isinstance(name, str) or not isinstance(prompt, str):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(f"{where} is no JSON object with file_name and prompt.") from None
    model = None if model is None else str(model)
    try:
        f"{prompt}{model}".encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{where} has half a character (a lone surrogate, \\ud800 to \\udfff).") from None
    try:
        score = None if score is None else float(score)
        if score is not None and not math.isfinite(score):
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        raise ConfigError(f"{where} has a score that is no finite number.") from None
    try:
        image = (folder / name).resolve()
        inside = image.is_relative_to(folder.resolve()) and image.is_file()
    except (OSError, RuntimeError, ValueError):  # no name of a file, or a link that leads to itself
        inside = False
    if not inside:
        raise ConfigError(f"{where} names {name!r}, which is no file of the folder.")
    return Picture(prompt, image.read_bytes, model, score)


def _generated(folder: Path) -> Iterator[Picture]:
    """The pictures of cluster.generate: the adapter's, and with --base the model's own beside them."""
    facts = {}
    for path in sorted(folder.glob("*.png")):
        try:
            found = read_facts(path)
        except ValueError:
            continue
        if isinstance(found.get("prompt"), str):
            facts[path] = found
    both = len({bool(found.get("base")) for found in facts.values()}) > 1
    for path, found in facts.items():
        name = "pretrained" if found.get("base") else "trained"
        yield Picture(found["prompt"], path.read_bytes, name if both else None)


def _by_folder(folder: Path) -> Iterator[Picture]:
    for prompt in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        for path in sorted(prompt.iterdir()):
            if path.suffix.lower() in _SUFFIXES:
                yield Picture(prompt.name, path.read_bytes)
