"""The environment of a peer: made from the package index when first asked for, and again when its list changes."""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.records.files import writable
from rewards.environments import build


def interpreter(requirements: Path, folder: Path) -> Path:
    """The Python of an environment; what its list does not name is inherited, torch above all.

    Args:
        requirements: Its complete list.
        folder: Where it is, or goes.

    Raises:
        WriteError: If it cannot be written.
        CalledProcessError: If pip fails; it has said why.
    """
    python, made_of = folder / "bin" / "python", folder / "made_of"
    wanted = f"{sys.prefix}\n{requirements.read_text()}"
    if python.exists() and made_of.exists() and made_of.read_text() == wanted:
        return python
    with writable(folder):
        build(str(requirements), folder)
        made_of.write_text(wanted)  # last: without it the folder is no environment
    return python
