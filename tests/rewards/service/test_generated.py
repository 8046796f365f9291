"""The generated module is that of the proto file beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rewards

ROOT = Path(rewards.__file__).parents[1]
PROTO = "rewards/service/reward.proto"


def test_the_generated_files_are_up_to_date(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([*command, PROTO], cwd=ROOT, check=True)
    for suffix in ("_pb2.py", "_pb2.pyi"):
        name = PROTO.replace(".proto", suffix)
        fresh, kept = ((folder / name).read_text() for folder in (tmp_path, ROOT))
        # Another compiler writes its version into the file.
        assert _without_version(fresh) == _without_version(kept)


def _without_version(source: str) -> list[str]:
    lines = source.splitlines()
    return [line for line in lines if "Protobuf Python Version" not in line and not line.strip(" ,").isdecimal()]
