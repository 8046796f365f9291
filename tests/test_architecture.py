"""The import rules of the architecture, read off the syntax trees."""

from __future__ import annotations

import ast
import typing
from pathlib import Path

import pytest

from learner.objectives import ObjectiveConfig

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FORBIDDEN = {
    "shapes": {"actors", "rewards", "learner", "cluster"},
    "actors": {"shapes", "rewards", "learner", "cluster"},
    "rewards": {"actors", "learner", "cluster"},
    "learner": {"shapes", "rewards", "cluster"},
    "cluster": set(),
}
FILES = [file.relative_to(ROOT) for package in FORBIDDEN for file in sorted((ROOT / package).rglob("*.py"))]
everywhere = pytest.mark.parametrize("file", FILES, ids=str)


def imported_packages(source: str) -> set[str]:
    """Top-level names of what a file imports, inside functions too; a relative import is the package's own."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_every_package_was_found() -> None:
    assert {file.parts[0] for file in FILES} == set(FORBIDDEN)


@everywhere
def test_imports_stay_within_what_the_package_may_use(file: Path) -> None:
    assert not imported_packages((ROOT / file).read_text()) & FORBIDDEN[file.parts[0]]


@everywhere
def test_ray_is_imported_only_where_it_runs(file: Path) -> None:
    allowed = file == Path("actors/sampler.py") or file.parts[0] == "cluster"
    assert allowed or "ray" not in imported_packages((ROOT / file).read_text())


@everywhere
def test_files_have_at_most_400_lines(file: Path) -> None:
    assert len((ROOT / file).read_text().splitlines()) <= 400


def test_the_readme_names_every_objective() -> None:
    configs = typing.get_args(typing.get_args(ObjectiveConfig)[0])
    names = {config.model_fields["name"].default for config in configs} - {"ppod"}  # which is the default
    assert not {name for name in names if f"`{name}`" not in README and f"objective.name={name}`" not in README}


# What runs it, from the ground up: a room of `cluster` imports what stands before it, and no room after.
ROOMS = (
    "text",
    "yaml_text",
    "arguments",
    "counting",
    "errors",
    "settings",
    "published",
    "tables",
    "start_images",
    "prompts",
    "stopping",
    "config",
    "crew",
    "sources",
    "records",
    "measures",
    "pages",
    "evaluation",
    "guarding",
    "loop",
    "sizing",
    "report",
    "compare",
    "list",
    "run",
    "local",
    "train",
    "trained",
    "order",
    "pairing",
    "matrix",
    "evaluate",
    "generate",
    "export",
    "gallery",
    "label",
)
IN_CLUSTER = [file for file in FILES if file.parts[0] == "cluster" and file.name != "__init__.py"]


@pytest.mark.parametrize("file", IN_CLUSTER, ids=str)
def test_no_room_of_cluster_looks_up(file: Path) -> None:
    own = ROOMS.index(file.with_suffix("").parts[1])
    seen = rooms((ROOT / file).read_text())
    assert all(ROOMS.index(room) <= own for room in seen)


def rooms(source: str) -> set[str]:
    """The rooms of `cluster` that a file imports from, in whatever form."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("cluster.")}
    return found


def test_the_reader_of_rooms_sees_every_form_of_imports() -> None:
    source = "import cluster.run as r\nfrom cluster import loop, text\ndef f():\n    from cluster.crew.pool import Pool"
    assert rooms(source) == {"run", "loop", "text", "crew"}


def test_the_reader_of_imports_sees_every_form_of_them() -> None:
    source = "import a.b, c\nfrom d.e import f\nfrom . import g\ndef h():\n    from i import j\n    import k as l"
    assert imported_packages(source) == {"a", "c", "d", "i", "k"}
