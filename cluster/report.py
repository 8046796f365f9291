"""`report.html`: what a run did, on one page that needs no network.

python -m cluster.report RUN [RUN ...]             write the pages of runs, finished, under way or broken
python -m cluster.report RUN [RUN ...] --json      print what they say instead, an object a run in a list
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.arguments import Parser
from cluster.errors import WriteError
from cluster.pages.report import write_report
from cluster.pages.summary import curves, summary
from cluster.records.reading import CONFIG, Records
from cluster.text import shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages that the command line names; returns the exit status."""
    parser = Parser("cluster.report", __doc__ or "")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, and write no page")
    args = parser.parse_args(arguments)
    for path in args.runs:
        if not os.path.isfile(path / CONFIG):
            print(f"error: There is no run in {shown(str(path))} (no {CONFIG}).", file=sys.stderr)
            return 1
    runs = [Records(path.absolute()) for path in args.runs]
    if args.json:
        found = [(run, run.metrics()) for run in runs]
        print(json.dumps([{**summary(run, series), "metrics": curves(series)} for run, series in found], indent=1))
        return 0
    for run in runs:
        try:
            print(write_report(run))
        except WriteError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
