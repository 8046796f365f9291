"""The KubeRay manifests against the schema of KubeRay's own resources, in which unknown fields are refused."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((Path(__file__).parent / "kuberay.schema.json").read_text())
MANIFESTS = sorted((ROOT / "deploy" / "kuberay").glob("*.yaml"))


def check(manifest: dict[str, Any]) -> None:
    schema = {**SCHEMA[manifest["kind"]], "definitions": SCHEMA["definitions"]}
    jsonschema.Draft7Validator(schema).validate(manifest)


def cluster(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"].get("rayClusterSpec", manifest["spec"])


@pytest.fixture(params=MANIFESTS, ids=lambda path: path.stem)
def manifest(request: pytest.FixtureRequest) -> dict[str, Any]:
    return yaml.safe_load(request.param.read_text())


def test_every_manifest_is_one_that_kuberay_takes(manifest: dict[str, Any]) -> None:
    assert manifest["apiVersion"] == "ray.io/v1"
    check(manifest)


@pytest.mark.parametrize(
    "place",
    [
        lambda spec: spec,
        lambda spec: spec["headGroupSpec"],
        lambda spec: spec["workerGroupSpecs"][0],
        lambda spec: spec["workerGroupSpecs"][0]["template"]["spec"],
        lambda spec: spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0],
        lambda spec: spec["headGroupSpec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"],
    ],
)
def test_a_misspelt_field_is_refused_wherever_it_is(manifest: dict[str, Any], place: Any) -> None:
    broken = copy.deepcopy(manifest)
    place(cluster(broken))["replica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="'replica' was unexpected"):
        check(broken)


def test_a_value_of_the_wrong_type_is_refused(manifest: dict[str, Any]) -> None:
    cluster(manifest)["workerGroupSpecs"][0]["maxReplicas"] = "many"
    with pytest.raises(jsonschema.ValidationError, match="'many' is not of type 'integer'"):
        check(manifest)


def test_all_pods_are_unprivileged_share_the_runs_and_have_room_for_the_object_store(manifest: dict[str, Any]) -> None:
    groups = [cluster(manifest)["headGroupSpec"], *cluster(manifest)["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        assert pod["securityContext"]["runAsNonRoot"]
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts == {"shared": "/mnt/shared", "shm": "/dev/shm", "ray": "/tmp/ray"}
        assert {volume["name"] for volume in pod["volumes"]} == set(mounts)


def test_ray_is_the_pinned_one_and_asks_for_the_token(manifest: dict[str, Any]) -> None:
    pinned = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert [cluster(manifest)["rayVersion"]] == pinned
    assert cluster(manifest)["authOptions"] == {"mode": "token"}


def test_the_job_has_the_environment_of_a_submitted_one_and_a_config_that_exists() -> None:
    spec = yaml.safe_load((ROOT / "deploy" / "kuberay" / "rayjob.yaml").read_text())["spec"]
    submitted = yaml.safe_load((ROOT / "deploy" / "runtime_env.yaml").read_text())
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"] == submitted["env_vars"]
    configs = re.findall(r"configs/\w+\.yaml", spec["entrypoint"])
    assert configs
    assert all((ROOT / config).is_file() for config in configs)
