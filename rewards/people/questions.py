"""What people are asked: a prompt and two pictures, or sets of pictures, of which one is to be chosen."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from rewards.people.lines import Damaged, Journal, NotKept, read_lines, sync

FILE, PICTURES = "questions.jsonl", "pictures"
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif"}  # what every browser shows


@dataclass(frozen=True)
class Question:
    """A choice between pictures, or between sets of them; a pair is two sets of one picture each.

    Args:
        prompt: What the pictures are of.
        sets: The names of the pictures of each set, in the folder's `pictures/`.
        models: What made each set, where that is to be compared; nobody who answers sees it.
        scores: What the current reward says of each set, where it was asked.
        words: What is asked; empty for which picture is better.
    """

    prompt: str
    sets: tuple[tuple[str, ...], ...]
    models: tuple[str, ...] | None = None
    scores: tuple[float, ...] | None = None
    words: str = ""

    @cached_property
    def id(self) -> str:
        """A name that follows from what is asked, and from nothing else."""
        asked = json.dumps([self.prompt, self.sets, self.words])
        return hashlib.sha256(asked.encode()).hexdigest()[:16]

    @property
    def gap(self) -> float:
        """How far the current reward tells the sets apart: 0 is undecided, infinite where none was asked."""
        return max(self.scores) - min(self.scores) if self.scores else float("inf")

    def record(self) -> dict[str, Any]:
        """The line of a file; what is not known is left out."""
        fields = {"models": self.models, "scores": self.scores, "words": self.words}
        known = {name: value for name, value in fields.items() if value}
        return {"id": self.id, "prompt": self.prompt, "sets": self.sets, **known}

    @classmethod
    def of(cls, record: dict[str, Any]) -> Question:
        """The question whose `record` it is.

        Raises:
            ValueError: In a sentence that says what it lacks.
        """
        try:
            sets = tuple(tuple(map(_plain_name, names)) for names in record["sets"])
            models, scores = record.get("models"), record.get("scores")
            question = cls(
                str(record["prompt"]),
                sets,
                tuple(map(str, models)) if models else None,
                tuple(map(float, scores)) if scores else None,
                str(record.get("words", "")),
            )
            if len(sets) < 2 or not all(sets) or {len(x) for x in (models, scores) if x} - {len(sets)}:
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError):
            raise ValueError(
                "A question needs a prompt and at least two sets of names of pictures, and models and scores, where "
                f"there are any, one a set, which {json.dumps(record)[:120]} has not."
            ) from None
        return question


class Questions:
    """The questions of a folder, as they come; goes through them in the order of the file.

    Args:
        folder: Where the files are.

    Raises:
        Damaged: If a line is no question.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_id: dict[str, Question] = {}
        self._closed: set[str] = set()
        self._pictures: set[str] = set()
        self._position = 0
        self.refresh()

    def refresh(self) -> bool:
        """Read what has been appended; whether there was something; raises as the class."""
        path = self.folder / FILE
        try:
            if os.path.getsize(path) == self._position:
                return False
        except (FileNotFoundError, NotADirectoryError):
            return False
        records, position = read_lines(path, self._position)
        for record in records:
            if "closed" in record:
                self._closed.add(str(record["closed"]))
                continue
            try:
                question = Question.of(record)
            except ValueError as error:
                raise Damaged(f"{path} has a line that is no question: {error}") from None
            self._by_id[question.id] = question
            self._closed.discard(question.id)
            self._pictures |= {name for names in question.sets for name in names}
        self._position = position
        return bool(records)

    def __getitem__(self, name: str) -> Question:
        return self._by_id[name]

    def __contains__(self, name: str) -> bool:
        return name in self._by_id

    def __iter__(self) -> Iterator[Question]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def closed(self, name: str) -> bool:
        """Whether nobody is to be asked a question for the first time any more; its choices stay."""
        return name in self._closed

    def picture(self, name: str) -> Path | None:
        """The file of a picture that is asked about; `None` for every other name."""
        return self.folder / PICTURES / name if name in self._pictures else None


def offer(folder: Path, questions: Iterable[Question], again: bool = False) -> int:
    """Ask more questions; those that are there already are not asked twice.

    Any process may, also while the page is open. The pictures come first, see `keep_picture`.

    Args:
        folder: Of the questions.
        questions: To be asked.
        again: Have those open again that were closed.

    Returns:
        How many are new, or open again.

    Raises:
        Damaged: If the file says something else than questions.
        NotKept: If they cannot be written.
        ValueError: If one is no question, such as one with a single set; then none of them is asked.
    """
    with Journal(folder / FILE, wait=True) as file:
        closed = _closed(file.records)
        new = {each.id: each for each in questions if each.id not in closed or (again and closed[each.id])}
        records = [question.record() for question in new.values()]
        for record in records:
            Question.of(record)
        file.append(*records)
    return len(new)


def close(folder: Path, names: Iterable[str]) -> None:
    """Have nobody asked any more who has not been: of what use an answer would have been is over.

    Args:
        folder: Of the questions.
        names: Their ids.

    Raises:
        Damaged: If the file says something else than questions.
        NotKept: If it cannot be written.
    """
    with Journal(folder / FILE, wait=True) as file:
        closed = _closed(file.records)
        file.append(*({"closed": name} for name in names if not closed.get(name)))


def _closed(records: Iterable[dict[str, Any]]) -> dict[str, bool]:
    """Whether each question is closed, by its id; the last line about it counts."""
    return {str(record.get("closed") or record.get("id")): "closed" in record for record in records}


def keep_picture(folder: Path, data: bytes) -> str:
    """Put a picture where questions can show it, and return its name.

    Args:
        folder: Of the questions.
        data: The file: PNG, JPEG, WebP and GIF stay as they are, other formats become PNG.

    Raises:
        NotKept: If it cannot be written.
        ValueError: If it is no picture, or a damaged one.
    """
    try:
        with Image.open(BytesIO(data)) as image:
            image.load()
            if (suffix := _SUFFIXES.get(image.format or "")) is None:
                image.convert("RGB").save(converted := BytesIO(), "PNG")
                data, suffix = converted.getvalue(), ".png"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"it is no picture that can be shown ({' '.join(str(error).split())[:200]})") from error
    name = hashlib.sha256(data).hexdigest()[:24] + suffix
    path = folder / PICTURES / name
    if not path.exists():
        temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync(path.parent)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise NotKept(f"{path.parent} cannot be written to ({error.strerror}); see to its disk.") from error
    return name


def _plain_name(name: str) -> str:
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".."):
        raise ValueError
    return name
