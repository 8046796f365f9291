"""What is read off the source is what pydantic says, setting by setting; nothing heavy is imported for it."""

from __future__ import annotations

import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from cluster import settings
from cluster.config import Config
from learner.objectives import ObjectiveConfig

OBJECTIVES = typing.get_args(typing.get_args(ObjectiveConfig)[0])
HEAVY = {"torch", "ray", "pydantic", "diffusers", "transformers"}


def said(config: type[BaseModel], prefix: str = "", made: BaseModel | None = None) -> Iterator[tuple[str, Any, str]]:
    """Key, default (of what was made of a class, where it was) and description of every setting, as pydantic has it."""
    for name, field in config.model_fields.items():
        key, within = f"{prefix}{name}", [found for found in models(field.annotation) if found not in OBJECTIVES]
        default = field.get_default(call_default_factory=True) if made is None else getattr(made, name)
        if isinstance(default, BaseModel):
            yield from said(type(default), f"{key}.", default)
            continue
        if default is not PydanticUndefined or field.annotation not in within:
            yield key, default, field.description or ""
        for model in within:
            is_dict = typing.get_origin(field.annotation) is dict
            yield from said(model, f"{key}.{settings.ANY}." if is_dict else f"{key}.")


def models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [found for argument in typing.get_args(annotation) for found in models(argument)]


def read(found: list[settings.Setting]) -> list[tuple[str, Any, str]]:
    missing = PydanticUndefined
    return [(s.key, missing if s.default is settings.REQUIRED else s.default, s.description) for s in found]


def test_the_settings_of_a_run_are_those_of_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [(key, "runs" if key == "folder" else default, text) for key, default, text in said(Config)]
    found = read(settings.settings())
    assert found == expected
    assert len(found) > 100


@pytest.mark.parametrize("config", OBJECTIVES, ids=lambda config: config.model_fields["name"].default)
def test_the_settings_of_an_objective_are_those_of_its_class(config: type[BaseModel]) -> None:
    name = config.model_fields["name"].default
    own = settings.objective(name)
    assert own is not None
    assert own in settings.objectives()
    assert read(own.settings) == list(said(config, "objective."))
    assert own.description


def test_every_objective_is_there_in_its_order() -> None:
    assert [known.name for known in settings.objectives()] == [c.model_fields["name"].default for c in OBJECTIVES]
    assert settings.objective("nobody") is None


def test_a_prefix_chooses_whole_words() -> None:
    assert {setting.key.split(".")[0] for setting in settings.settings("learner")} == {"learner"}
    assert [setting.key for setting in settings.settings("learner.lr")] == ["learner.lr"]
    assert settings.settings("learn") == []
    assert settings.settings("failures.patience.")[0].key == "failures.patience.room"


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from cluster import settings; settings.settings(); settings.objectives(); "
        f"print(sorted(set(sys.modules) & {HEAVY}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout == "[]\n", done.stderr
