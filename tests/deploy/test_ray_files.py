"""What Ray itself reads: cluster files against its schema, and the runtime environment of a submitted job."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
CLUSTERS = sorted((ROOT / "deploy").glob("cluster-*.yaml"))


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_cluster_files_are_what_ray_up_takes_and_start_with_a_token(path: Path) -> None:
    cluster = yaml.safe_load(path.read_text())
    jsonschema.validate(cluster, SCHEMA)
    for role in ("head", "worker"):
        (start,) = [line for line in cluster[f"{role}_start_ray_commands"] if "ray start" in line]
        assert "RAY_AUTH_MODE=token" in start
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster | {"max_worker": 1}, SCHEMA)


def test_an_upload_leaves_out_what_exists_and_is_not_needed() -> None:
    excluded = {
        path.strip("/") for path in yaml.safe_load((ROOT / "deploy" / "runtime_env.yaml").read_text())["excludes"]
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {package.split(".")[0] for package in project["tool"]["setuptools"]["packages"]} | {"configs"}
    assert not excluded & needed
    assert all((ROOT / path).exists() for path in excluded - {".git", ".ci"})
