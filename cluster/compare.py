"""Runs beside one another, on one page that needs no network: what each has learned, and what it has cost.

    python -m cluster.compare RUN [RUN ...]            write compare.html; --out names another file
    python -m cluster.compare RUN [RUN ...] --json     print what it says instead

Runs that differ in their seed alone are one group, of which means and standard errors are shown.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.arguments import Parser
from cluster.errors import WriteError
from cluster.pages.compare import as_data, chosen_reward, figures, notes, read_groups, write_comparison
from cluster.pages.groups import read_config
from cluster.pages.render import is_page
from cluster.records.reading import CONFIG
from cluster.text import shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the runs that the command line names; returns the exit status."""
    parser = Parser("cluster.compare", __doc__ or "")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument("--reward", help="of the Pareto front; the first that is trained on if left out")
    parser.add_argument("--out", type=Path, default=Path("compare.html"), help="the page (compare.html)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, and write no page")
    args = parser.parse_args(arguments)
    for path in args.runs:
        if not os.path.isfile(path / CONFIG):
            print(f"error: There is no run in {shown(str(path))} (no {CONFIG}).", file=sys.stderr)
            return 1
        if not isinstance(read_config(path).get("objective"), dict):
            print(f"error: {shown(str(path / CONFIG))} is not what a run saved; leave this one out.", file=sys.stderr)
            return 1
    groups = read_groups(list(dict.fromkeys(path.resolve() for path in args.runs)))
    reward = chosen_reward(groups, args.reward)
    if args.reward and reward is None:
        there = sorted({name.rpartition("/")[2] for name in figures(groups)})
        print(
            f"error: No evaluation of these runs has a figure {shown(args.reward)!r}; there are "
            f"{', '.join(map(shown, there)) or 'none'}.",
            file=sys.stderr,
        )
        return 1
    for note in notes(groups):
        print(f"warning: {note}", file=sys.stderr)
    if args.json:
        print(json.dumps(as_data(groups, reward), indent=1))
        return 0
    if why := _why_not(args.out):
        print(f"error: {why}", file=sys.stderr)
        return 1
    try:
        write_comparison(groups, reward, args.out.absolute())
    except WriteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(args.out)
    return 0


def _why_not(out: Path) -> str | None:
    """Why no page may be written there, if none may: what is there is not a comparison of before."""
    name = shown(str(out))
    if os.path.isdir(out):
        return f"{name} is a folder; name a file with --out."
    if os.path.lexists(out) and not (os.path.isfile(out) and is_page(out, "compare.html")):
        return f"{name} is there and is no page of cluster.compare, so it stays; name another file with --out."
    return None


if __name__ == "__main__":
    sys.exit(main())
