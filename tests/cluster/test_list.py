"""What there is, said in full and without importing it."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.families import FAMILIES
from cluster import list as listing
from cluster.config import Config
from rewards import REWARDS, reward_class
from tests.support.made_up_run import make_up

HEAVY = {"torch", "ray", "pydantic", "diffusers", "transformers"}


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert listing.main(words) == 0
    return capsys.readouterr().out


def test_every_reward_is_there_with_the_options_of_its_class() -> None:
    found = {row["name"]: row for row in listing.rows_of("rewards")}
    assert list(found) == list(REWARDS)
    for name, row in found.items():
        made = reward_class(name)
        assert row["description"], name
        assert row["environment"] == made.environment, name
        own = made.__init__ if "__init__" in vars(made) else None
        options = list(inspect.signature(own).parameters)[1:] if own else []
        known = [option["key"] for option in row["settings"]]
        assert known == [
            o for o in options if inspect.signature(own).parameters[o].kind != inspect.Parameter.VAR_KEYWORD
        ]  # type: ignore[arg-type]


def test_every_family_and_objective_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    families = json.loads(asked(capsys, "families", "--json"))
    assert [row["name"] for row in families] == list(FAMILIES)
    objectives = json.loads(asked(capsys, "objectives", "--json"))
    assert all(row["description"] for row in (*families, *objectives))
    assert all("description" in setting for row in objectives for setting in row["settings"])


def test_one_of_them_is_said_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    said = asked(capsys, "objectives", "refl")
    assert "objective.threshold" in said
    assert "ppod" not in said
    assert "objective.name" not in said
    assert "yuvalkirstain/PickScore_v1" in asked(capsys, "rewards", "pickscore")


def test_settings_have_their_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    lines = asked(capsys, "settings", "prompts").splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("prompts.s")] == [["prompts.samples", "8"]]
    assert [line.split()[:2] for line in lines if line.startswith("prompts.t")] == [["prompts.train", "required"]]
    found = json.loads(asked(capsys, "settings", "--json"))
    assert "default" not in next(row for row in found if row["name"] == "prompts.train")


def test_runs_are_listed_with_what_they_are_at(
    make_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_up(make_config("name=mine", "iterations=4"), (0, 4))
    (run.path.parent / "no-run").mkdir()
    (row,) = json.loads(asked(capsys, "runs", str(run.path.parent), "--json"))
    assert (row["name"], row["state"], row["iterations"], row["objective"]) == ("mine", "finished", 4, "ppod")
    assert row["scores"] == {"shapes_agreement": run.metrics()["score/shapes_agreement"][-1][1]}
    assert "4 of 4" in asked(capsys, "runs", str(run.path.parent))


def test_without_a_word_there_is_everything_in_short(capsys: pytest.CaptureFixture[str]) -> None:
    said = asked(capsys)
    for word in ("ppod", "shapes_gold", "StableDiffusionPipeline"):
        assert word in said
    assert set(json.loads(asked(capsys, "--json"))) == set(listing.KINDS) - {"settings"}


@pytest.mark.parametrize(
    "words",
    [("objectives", "nope"), ("rewards", "x\x1b"), ("settings", "learn"), ("families", "nope"), ("runs", "/no")],
)
def test_what_there_is_not_is_one_sentence(words: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert listing.main(words) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: There are no {words[0]} ")
    assert said.count("\n") == 1
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("kind", "name", "near"), [("objectives", "ppdo", "ppod"), ("rewards", "clp", "clip"), ("rewards", "zzzz", None)]
)
def test_a_name_that_is_nearly_there_is_asked_about(
    kind: str, name: str, near: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert listing.main((kind, name)) == 1
    hint = f"python -m cluster.list {kind} says what there is." if near is None else f"did you mean {near!r}?"
    assert capsys.readouterr().err == f"error: There are no {kind} {name!r}; {hint}\n"


def test_nothing_heavy_is_imported() -> None:
    code = f"import sys, cluster.list as l; l.main([]); print(sorted(set(sys.modules) & {HEAVY}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_family_is_named_by_its_pipeline_or_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    (one,) = json.loads(asked(capsys, "families", "sdxl", "--json"))
    assert json.loads(asked(capsys, "families", one["name"], "--json")) == [one]


def test_a_required_option_has_no_default_and_a_constant_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    (judge,) = json.loads(asked(capsys, "rewards", "vlm_judge", "--json"))
    options = {option["key"]: option for option in judge["settings"]}
    assert "default" not in options["base_url"]
    assert options["key_variable"]["default"] is None
    assert "How well does the picture" in options["question"]["default"]


def test_a_folder_without_runs_is_told_apart_from_a_run(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="name a folder with runs in it"):
        listing.rows_of("runs", str(tmp_path))
    with pytest.raises(LookupError, match="which is no folder"):
        listing.rows_of("runs", str(tmp_path / "nowhere"))
    (tmp_path / "config.yaml").write_text("name: a")
    with pytest.raises(LookupError, match="which is itself one; name the folder above it"):
        listing.rows_of("runs", str(tmp_path))
