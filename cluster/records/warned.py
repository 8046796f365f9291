"""`warnings.jsonl`: what a run warned of, a line each, `{"iteration": int, "sentence": str, "rule": str}`."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cluster.records.files import replacing
from cluster.records.guard import Warned

log = logging.getLogger(__name__)
FILE = "warnings.jsonl"


def read(folder: Path) -> list[Warned]:
    """The warnings of a run, in order; none where there is no file, and without lines that cannot be read."""
    try:
        lines = (folder / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(Warned(**json.loads(line)))
        except (ValueError, TypeError) as error:
            log.warning("A line of %s cannot be read and was passed over (%s).", folder / FILE, error)
    return found


def write(folder: Path, warnings: Sequence[Warned]) -> None:
    """Replace the warnings of a run by these, whole.

    Raises:
        WriteError: If the folder cannot be written to.
    """
    with replacing(folder / FILE) as file:
        file.writelines(json.dumps(asdict(warned)).encode() + b"\n" for warned in warnings)
