"""Where a run comes from: each time it was started, with which command, on which machines, with which versions.

origin.jsonl    a JSON object a start: time, command, versions, machines
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from cluster.records.files import writable
from cluster.records.masking import masked_word

log = logging.getLogger(__name__)

NAME = "origin.jsonl"
# What figures depend on; those that are not installed are left out.
_PACKAGES = ("reinoise", "torch", "diffusers", "transformers", "peft", "ray", "numpy", "pyarrow")


def note_start(folder: Path, command: Sequence[str], machines: Sequence[Mapping[str, Any]]) -> None:
    """Note that a run starts, or goes on.

    Args:
        folder: Of the run.
        command: What was typed, a word each; secrets in it are masked.
        machines: Of the run, as `cluster.crew.machine.machines` describes them.

    Raises:
        WriteError: If the folder cannot be written to.
    """
    start = {
        "time": time.time(),
        "command": [masked_word(word) for word in command],
        "versions": _versions(),
        "machines": list(machines),
    }
    with writable(folder), (folder / NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(start) + "\n")


def read_starts(folder: Path) -> list[dict[str, Any]]:
    """The starts of a run, in order; lines that are none are passed over."""
    try:
        text = (folder / NAME).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        log.warning("%s cannot be read (%s).", folder / NAME, error)
        return []
    return json_lines(text)


def json_lines(text: str) -> list[dict[str, Any]]:
    """The JSON objects of a text, one a line; other lines are passed over, such as one that is half written."""
    found = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
