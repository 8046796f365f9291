"""What there is: objectives, rewards, model families, settings with their defaults, and the runs of a folder.

    python -m cluster.list                             all of it, in short
    python -m cluster.list objectives [NAME]           the algorithms; with a name its settings
    python -m cluster.list rewards [NAME]              what can judge; with a name its options
    python -m cluster.list families                    the kinds of models
    python -m cluster.list settings [PREFIX]           every setting, such as all that begin with learner
    python -m cluster.list runs [FOLDER]               the runs in a folder (runs)
    python -m cluster.list sizing RUN [key=value ...]  how many of each role a run like that needs (docs/sizing.md)

`--json` prints the same for scripts.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster import settings
from cluster.arguments import Parser
from cluster.pages.groups import read_config
from cluster.pages.summary import state, trained
from cluster.records.reading import CONFIG, Records
from cluster.sizing import sizing
from cluster.text import figure, shown

Kind = Literal["objectives", "rewards", "families", "settings", "runs"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SIZING = "sizing"  # of one run, so not among what there is
Row = dict[str, Any]


def rows_of(kind: Kind, name: str | None = None) -> list[Row]:
    """What there is of a kind, a record each.

    Args:
        kind: Which.
        name: Of one of them, a prefix of settings, or the folder of runs.

    Raises:
        LookupError: In one sentence, if there is none of that name.
    """
    made = {
        "objectives": lambda: _objectives(name),
        "rewards": lambda: _rewards(name),
        "families": lambda: _families(name),
        "settings": lambda: [_setting(setting) for setting in settings.settings(name or "")],
        "runs": lambda: _runs(Path(name or "runs")),
    }[kind]()
    if name and not made:
        raise LookupError(f"There are no {kind} {_why_not(kind, name)}")
    return made


def _why_not(kind: Kind, name: str) -> str:
    if kind != "runs":
        known = {row["name"].lower(): row["name"] for row in rows_of(kind)}
        near = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f"did you mean {known[near[0]]!r}?" if near else f"python -m cluster.list {kind} says what there is."
        return f"{shown(name)!r}; {hint}"
    folder = Path(name).expanduser()
    if (folder / CONFIG).exists():
        return f"in {shown(name)!r}, which is itself one; name the folder above it."
    return f"in {shown(name)!r}{'' if folder.is_dir() else ', which is no folder'}; name a folder with runs in it."


def _objectives(name: str | None) -> list[Row]:
    return [
        {
            "name": known.name,
            "description": known.description,
            "settings": [_setting(setting) for setting in known.settings if setting.key != "objective.name"],
        }
        for known in settings.objectives()
        if name in (None, known.name)
    ]


def _rewards(name: str | None) -> list[Row]:
    found = []
    for kind, target in settings.literal("rewards", "REWARDS").items():
        if name in (None, kind):
            node = settings.class_of(target)
            said = {"name": kind, "description": settings.paragraph(ast.get_docstring(node))}
            found.append({**said, **_reward(node, target.partition(":")[0])})
    return found


def _reward(node: ast.ClassDef, module: str) -> Row:
    """The options of a reward's class of a module, without a default where one is required, and its environment."""
    made = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
    options = []
    if made is not None:
        names = [*made.args.args[1:], *made.args.kwonlyargs]
        defaults = [*[None] * (len(made.args.args) - 1 - len(made.args.defaults)), *made.args.defaults]
        for argument, default in zip(names, [*defaults, *made.args.kw_defaults], strict=True):
            known = {} if default is None else {"default": _written(default, module)}
            options.append({"key": argument.arg, **known})
    values = {
        target.id: statement.value
        for statement in node.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    environment = values.get("environment")
    return {
        "settings": options,
        "environment": ast.literal_eval(environment) if isinstance(environment, ast.Constant) else None,
    }


def _written(default: ast.expr, module: str) -> Any:
    """A default's value where it or the constant of the module that it names is a plain one, else as it is written."""
    with contextlib.suppress(ValueError):  # it is computed
        return settings.literal(module, default.id) if isinstance(default, ast.Name) else ast.literal_eval(default)
    return ast.unparse(default)


def _families(name: str | None) -> list[Row]:
    found = settings.literal("actors.families", "FAMILIES")
    return [
        {"name": pipeline, "description": settings.paragraph(ast.get_docstring(settings.class_of(target)))}
        for pipeline, target in found.items()
        if name in (None, pipeline, target.partition(":")[0].rpartition(".")[2])
    ]


def _setting(setting: settings.Setting) -> Row:
    row: Row = {"name": setting.key, "kind": setting.kind, "description": setting.description}
    return row if setting.default is settings.REQUIRED else {**row, "default": setting.default}


def _runs(folder: Path) -> list[Row]:
    found = []
    for path in sorted(folder.expanduser().glob(f"*/{CONFIG}"), key=lambda path: path.stat().st_mtime):
        config, run = read_config(path.parent), Records(path.parent)
        done, series = run.latest()
        objective, asked, rewards = config.get("objective"), config.get("iterations"), trained(config)
        found.append(
            {
                "name": path.parent.name,
                "path": str(path.parent),
                "state": state(path.parent, done, asked),
                "iterations": done,
                "iterations_asked": asked,
                "objective": objective.get("name") if isinstance(objective, dict) else None,
                "seed": config.get("seed"),
                "scores": {name: series[f"score/{name}"] for name in rewards if f"score/{name}" in series},
            }
        )
    return found


def _print(console: Console, kind: Kind, rows: Sequence[Row], in_full: bool) -> None:
    if kind == "runs":
        table = _table("run", "state", "iterations", "objective", "seed", "last scores")
        for row in rows:
            scores = ", ".join(f"{name} {figure(value)}" for name, value in row["scores"].items())
            asked = row["iterations_asked"]
            count = str(row["iterations"]) if asked is None else f"{row['iterations']} of {asked}"
            _add(table, row["name"], row["state"], count, row["objective"], row["seed"], scores)
    elif kind == "settings":
        table = _table("setting", "default", "what it is")
        for row in rows:
            _add(table, row["name"], _default(row), row["description"])
    else:
        table = _table(kind, "what it is")
        for row in rows:
            needs = f" (environment {row['environment']})" if row.get("environment") else ""
            _add(table, row["name"], row["description"] + needs)
    console.print(table)
    if in_full and rows and (inner := rows[0].get("settings")):
        table = _table("setting" if kind == "objectives" else "option", "default", "what it is")
        for row in inner:
            _add(table, row.get("name", row.get("key")), _default(row), row.get("description", ""))
        console.print(table)


def _say_sizing(run: str, words: Sequence[str], as_json: bool) -> int:
    rows = sizing(run, words)
    if as_json:
        print(json.dumps(rows, indent=1))
        return 0
    cases = ("run", "synchronous", "max_staleness=1")
    table = _table("", "busy s an iteration", "images/s of one", "the run", *cases[1:])
    for row in rows:
        cells = [row.get(key) for key in ("busy_seconds", "images_per_second", *cases)]
        _add(table, row["name"], *(f"{cell:.3g}" if isinstance(cell, float) else cell for cell in cells))
    _console().print(table)
    return 0


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))


def _add(table: Table, *cells: Any) -> None:
    table.add_row(*(Text("" if cell is None else shown(str(cell))) for cell in cells))


def _default(row: Row) -> str:
    if "default" not in row:
        return "required"
    value = row["default"]
    return value if isinstance(value, str) else json.dumps(value)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120, emoji=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Say what the command line asks for; returns the exit status."""
    parser = Parser("cluster.list", __doc__ or "")
    words = "what to list; all of it, in short, if left out"
    parser.add_argument("kind", nargs="?", choices=(*KINDS, SIZING), help=words)
    parser.add_argument("name", nargs="?", help="one of them, a prefix of settings, the folder of runs or of a run")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of sizing: what is to differ from the run")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    args = parser.parse_intermixed_args(arguments)
    if args.kind == SIZING and not args.name:
        parser.error("sizing needs the folder of a run that has been measured")
    if args.kind != SIZING and args.settings:
        parser.error(f"unrecognized arguments: {' '.join(args.settings)}")
    kinds = [args.kind] if args.kind else [kind for kind in KINDS if kind != "settings"]
    try:
        if args.kind == SIZING:
            return _say_sizing(args.name, args.settings, args.json)
        found = {kind: rows_of(kind, args.name) for kind in kinds}
    except (LookupError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(found[args.kind] if args.kind else found, indent=1))
        return 0
    console = _console()
    for place, (kind, rows) in enumerate(found.items()):
        if place:
            console.print()
        _print(console, kind, rows, in_full=bool(args.name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
