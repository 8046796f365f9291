"""What the hacking benchmark reads off a run's records, and its tables; its settings are those of a run that can be."""

from __future__ import annotations

from pathlib import Path

from benchmarks.hacking import RULES, SETTINGS, Outcome, outcome, table
from cluster.config import load_words
from cluster.records import warned
from cluster.records.guard import Warned
from cluster.records.rundir import RunDirectory
from learner import checkpoint

GOLD = {0: 0.80, 1: 0.81, 2: 0.75, 3: 0.69}
MERIT = {iteration: (gold + 0.9) / 2 for iteration, gold in GOLD.items()}  # with .9 on the held-out prompts


def test_its_settings_are_a_run_whose_guard_knows_nothing_of_the_gold_score() -> None:
    config = load_words(SETTINGS)
    assert config.guard is not None
    assert set(config.guard.in_force) == set(RULES)
    assert all(config.guard.in_force[name] == rule for name, rule in RULES.items())
    assert not any(rule.figure == "shapes_gold" for rule in RULES.values())
    assert config.weights == {"brightness": 1.0, "shapes_agreement": 0.0, "shapes_reading": 0.0, "shapes_gold": 0.0}


def test_what_is_on_record_of_a_run(tmp_path: Path) -> None:
    run = RunDirectory.create(load_words([*SETTINGS, f"folder={tmp_path}", "name=run"]))
    for iteration, gold in GOLD.items():
        run.record(iteration, {"eval/train/shapes_gold": gold, "eval/held_out/shapes_gold": 0.9}, {})
    said = [Warned(2, "reading", "Fallen."), Warned(3, "agreement", "Fallen."), Warned(3, "reading", "Fallen.")]
    warned.write(run.path, said)
    with checkpoint.writing(run.best, 1) as folder:
        (folder / "file").touch()
    run.release()
    found = outcome(run)
    assert found == Outcome(GOLD, MERIT, {"reading": 2, "agreement": 3}, kept=1)
    assert (found.warned, found.fallen, found.in_time) == (2, 3, True)


def test_a_warning_with_the_fall_comes_too_late() -> None:
    assert not Outcome(GOLD, MERIT, {"reading": 3}, kept=0).in_time
    assert not Outcome(GOLD, MERIT, {}, kept=0).in_time
    assert Outcome({0: 0.8, 1: 0.79}, {0: 0.8, 1: 0.79}, {"reading": 1}, kept=0).in_time  # nothing has fallen yet


def test_the_tables_have_a_row_a_run_and_one_a_rule() -> None:
    lines = table(
        [Outcome(GOLD, MERIT, {"reading": 2}, kept=0), Outcome({0: 0.8}, {0: 0.8}, {}, kept=None)]
    ).splitlines()
    assert lines[2] == "| 0 | 2 | 0.050 | 3 | yes | 0 | 0.850 | 0.855 | 0.005 |"
    assert lines[3] == "| 1 | never | – | never | no | – | – | – | – |"
    assert "| shapes_reading, errors 2 | 2, never |" in lines
    assert len(lines) == 2 + 2 + 1 + 2 + len(RULES)
