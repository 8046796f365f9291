"""The metrics that docs/metrics.md explains."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def undocumented(names: Iterable[str]) -> list[str]:
    """Those metrics of a run that have no row in docs/metrics.md."""
    table = _DOCS.read_text(encoding="utf-8").partition("## TensorBoard")[0]
    rows = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    known = {name for row in rows for name in re.findall(r"`(.*?)`", row)}
    patterns = [re.sub(r"<\\?\w+>", ".+", re.escape(name).replace("\\<", "<").replace("\\>", ">")) for name in known]
    return [name for name in names if not any(re.fullmatch(pattern, name) for pattern in patterns)]
