"""The settings of a run as the source says them: keys, defaults, descriptions; no class of theirs is imported.

Importing the configuration brings torch, which takes seconds. Its classes are plain declarations, so they are read off
their syntax trees instead; `tests/cluster/test_settings.py` holds what is read here to what pydantic says.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

_ROOT = Path(__file__).parents[1]
_OURS = ("actors", "cluster", "learner", "rewards", "shapes")
SCHEMA, OBJECTIVES = "cluster.config.schema", "learner.objectives"
ANY = "NAME"  # stands in a key for any name, as in rewards.NAME.weight


class Required:
    """The default of a setting that has none."""

    def __repr__(self) -> str:
        return "required"


REQUIRED = Required()


class Setting(NamedTuple):
    """A setting."""

    key: str  # as `key=value` has it
    default: Any  # a plain value, or REQUIRED
    description: str
    kind: str  # its type, as the source has it


class Objective(NamedTuple):
    """An objective, or whatever else has a name and settings of its own."""

    name: str
    description: str  # the first paragraph of its file
    settings: list[Setting]


def settings(prefix: str = "") -> list[Setting]:
    """The settings of a run, those of the default objective among them; with a prefix those that begin with it."""
    found = _fields(SCHEMA, "Config", "")
    return [setting for setting in found if not prefix or f"{setting.key}.".startswith(f"{prefix.rstrip('.')}.")]


def objectives() -> list[Objective]:
    """The objectives, in the order of their list."""
    union = next(
        node.value
        for node in _tree(OBJECTIVES).body
        if isinstance(node, ast.Assign) and _names(node, "ObjectiveConfig")
    )
    classes = [node for node in ast.walk(union) if isinstance(node, ast.Name) and node.id.endswith("Config")]
    return [_objective(node.id) for node in sorted(classes, key=lambda node: node.lineno)]


def objective(name: str) -> Objective | None:
    """An objective by its name, which is its file's; no other file is read."""
    for node in _tree(OBJECTIVES).body:
        if isinstance(node, ast.ImportFrom) and node.module == f"{OBJECTIVES}.{name}":
            return _objective(node.names[0].name)
    return None


def _objective(config: str) -> Objective:
    module, _ = _find(OBJECTIVES, config) or (OBJECTIVES, None)
    fields = _fields(module, config, "objective.")
    name = next(setting.default for setting in fields if setting.key == "objective.name")
    return Objective(name, first_paragraph(module), fields)


def first_paragraph(module: str) -> str:
    """Of a module's docstring, on one line."""
    return paragraph(ast.get_docstring(_tree(module)))


def paragraph(docstring: str | None) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((docstring or "").split("\n\n")[0].split())


def class_of(target: str) -> ast.ClassDef:
    """The class that `module:Class` names."""
    module, _, name = target.partition(":")
    _, node = _find(module, name) or (module, None)
    assert isinstance(node, ast.ClassDef), target
    return node


def literal(module: str, name: str) -> Any:
    """The value of a constant of a module, where it is written out."""
    return _constant(module, name)


@cache
def _tree(module: str) -> ast.Module:
    path = _ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _find(module: str, name: str) -> tuple[str, ast.ClassDef | ast.expr] | None:
    """Where a name of a module is made, through imports of ours, and what makes it: a class or a value."""
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.Assign) and _names(node, name):
            return module, node.value
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in _OURS:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find(node.module, alias.name)
    return None


def _names(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)


def _constant(module: str, name: str) -> Any:
    where, value = _find(module, name) or (module, None)
    assert isinstance(value, ast.expr), f"{module}.{name} is no constant"
    return _value(where, value)


def _value(module: str, node: ast.expr) -> Any:
    """The plain value of an expression: written out, or a constant of ours."""
    if isinstance(node, ast.Name):
        return _constant(module, node.id)
    return ast.literal_eval(node)


def _fields(module: str, name: str, prefix: str, given: Mapping[str, Any] | None = None) -> list[Setting]:
    """The settings of a configuration's class and of those within it; those of its bases first, as pydantic has them.

    Args:
        module: Where its name is known.
        name: Of the class.
        prefix: Of its keys.
        given: Defaults that stand where the class is made.
    """
    where, node = _find(module, name) or (module, None)
    assert isinstance(node, ast.ClassDef), f"{module}.{name} is no class"
    found: dict[str, list[Setting]] = {}
    for base in reversed(node.bases):
        if isinstance(base, ast.Name) and base.id != "BaseModel":
            for setting in _fields(where, base.id, prefix):
                found.setdefault(setting.key.removeprefix(prefix).partition(".")[0], []).append(setting)
    for field in node.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        kind = ast.unparse(field.annotation)
        if not kind.startswith("ClassVar") and not field.target.id.startswith("_"):
            found[field.target.id] = list(_setting(where, field, f"{prefix}{field.target.id}", kind))
    for key, value in (given or {}).items():
        found[key] = [setting._replace(default=value) for setting in found[key]]
    return [setting for settings in found.values() for setting in settings]


def _setting(module: str, field: ast.AnnAssign, key: str, kind: str) -> Iterator[Setting]:
    """A field, and the settings within it."""
    value, description = field.value, ""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "Field":
        words = {word.arg: word.value for word in value.keywords}
        description = ast.literal_eval(words["description"]) if "description" in words else ""
        value = value.args[0] if value.args else words.get("default")
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):  # a class within it
        given = {word.arg: _value(module, word.value) for word in value.keywords if word.arg}
        yield from _fields(module, value.func.id, f"{key}.", given)
        return
    within = [
        node.id
        for node in ast.walk(field.annotation)
        if isinstance(node, ast.Name) and (made := _find(module, node.id)) and isinstance(made[1], ast.ClassDef)
    ]
    if value is not None or kind not in within:
        yield Setting(key, REQUIRED if value is None else _value(module, value), description, _choices(module, field))
    for name in within:  # where there is one, or one by each name
        yield from _fields(module, name, f"{key}.{ANY}." if kind.startswith("dict") else f"{key}.")


def _choices(module: str, field: ast.AnnAssign) -> str:
    """A field's type, with an alias of ours written out where that names choices."""
    annotation = field.annotation
    made = _find(module, annotation.id) if isinstance(annotation, ast.Name) else None
    if made and isinstance(made[1], ast.Subscript) and ast.unparse(made[1]).startswith("Literal"):
        return ast.unparse(made[1])
    return ast.unparse(annotation)
