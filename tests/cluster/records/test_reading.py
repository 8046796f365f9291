"""Reading a run from a process that has nothing of what makes one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from cluster.config import Config
from cluster.records.rundir import RunDirectory

HEAVY = ("torch", "ray", "diffusers", "transformers", "pydantic")


def test_a_runs_figures_are_read_without_ray_or_torch(make_config: Callable[..., Config]) -> None:
    run = RunDirectory.create(make_config("name=mine"))
    run.record(1, {"loss": 0.5}, {})
    run.release()
    code = (
        "import sys; from pathlib import Path; from cluster.records.reading import Records; "
        f"print(Records(Path({str(run.path)!r})).metrics(), sorted(set(sys.modules) & set({HEAVY})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "{'loss': [(1, 0.5)]} []\n", done.stderr


def test_a_report_is_written_without_ray_or_torch(make_config: Callable[..., Config]) -> None:
    run = RunDirectory.create(make_config("name=mine"))
    code = (
        f"import sys, cluster.report as r; r.main([{str(run.path)!r}]); print(sorted(set(sys.modules) & set({HEAVY})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == [str(run.path / "report.html"), "[]"], done.stderr
