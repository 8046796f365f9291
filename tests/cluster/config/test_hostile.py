"""Whatever is handed in as a configuration is one, or is refused in one sentence, and soon."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import Config, load_config
from cluster.errors import ConfigError
from cluster.text import is_control
from cluster.yaml_text import write

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.sampled_from([0, 1, -1, 10**12, 2**63, 10**4000]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["shapes", "nan", "1e3", "${name}", "${", "../..", "~", "/", "\x1b[2J", "[red]", "x" * 5000, "ppod"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


def settings_of(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all settings."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += settings_of(inner, (*path, key))
    return found


VALID = load_config(None).model_dump()
PATHS = settings_of(VALID)
KEYS = st.sampled_from([".".join(path) for path in PATHS]) | st.text("abp.[]=_", max_size=12)


def survives(path: Path | None, *overrides: str) -> None:
    started = time.process_time()
    try:
        assert isinstance(load_config(path, overrides), Config)
    except ConfigError as error:
        said = str(error)
        assert said.endswith((".", "?"))
        assert len(said) < 3000
        assert not any(map(is_control, said))
    assert time.process_time() - started < 2


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "c.yaml"


@given(st.text(max_size=60) | st.text("[]{}:,-?!&*#|>'\" \nab01.~", max_size=60))
def test_any_text(place: Path, text: str) -> None:
    place.write_bytes(text.encode("utf-8", "surrogatepass"))
    survives(place)


@given(st.binary(max_size=60))
def test_any_bytes(place: Path, data: bytes) -> None:
    place.write_bytes(data)
    survives(place)


@given(st.sampled_from(PATHS), VALUES)
def test_any_value_of_any_setting_in_a_file(place: Path, path: tuple, value: Any) -> None:
    config = copy.deepcopy(VALID)
    inner = config
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    place.write_text(write(config))
    survives(place)


@given(st.lists(st.tuples(KEYS, VALUES | st.text("[]{}:,-?!&*#|>'\" \nab01.~$", max_size=12)), max_size=3))
def test_any_overrides(pairs: list[tuple[str, Any]]) -> None:
    survives(None, *(f"{key}={value}" for key, value in pairs))


@pytest.mark.parametrize(
    "override",
    [
        "[=5",
        "=",
        "=5",
        ".=5",
        "..=5",
        "a.=5",
        "objective=[1]",
        "rewards=[1]",
        "rewards=3",
        "policy=[]",
        "objective=ppod",
        "rewards.x=[1]",
        "rewards={1: {}}",
        "rewards={null: {}}",
        "prompts=text",
        "iterations=!!int x",
        "name=!!binary aGk=",
        "name=!!python/object:os.system x",
        "iterations=" + "9" * 5000,
        "iterations=0x" + "f" * 5000,
        "seed='" + "9" * 5000 + "'",
        "name=" + "[" * 300 + "]" * 300,
        "name=" + "{a: " * 2000 + "}" * 2000,
        "policy.model=" + "a" * 5000,
        "prompts.train=" + "p" * 5000,
        "prompts.train=/",
        "prompts.train='a\\0b'",
        "folder='a\\0b'",
        "policy.model='a\\0b'",
        "folder=" + "f" * 5000,
        "rewards.shapes_gold.environment=" + "e" * 5000,
        "a" * 5000 + "=1",
        "learner." + "a" * 5000 + "=1",
        "name=${name}",
        "name=${oc.env:NO_SUCH_VARIABLE}",
        "name=${learner.lr",
        "rewards.x.kind=antigravity.nothing:X",
        "rewards.x.kind=:",
        "rewards.x.kind=:X",
        "rewards.x.kind=.:X",
        "rewards.x.kind=..x:X",
        "rewards.x.kind=a..b:X",
        "rewards.x.kind=grpc://",
        "rewards.x.kind=" + "k" * 5000,
        "samplers.request_size=1000000000000",
        "prompts.samples=1000000000000",
        "samplers.labels={a: [1]}",
        "name=*a",
        "name=&a [*a]",
        "? [1]: 2=3",
        "<<=1",
        "<<={a: 1}",
    ],
    ids=lambda text: text[:40],
)
def test_what_has_been_a_traceback_or_may_become_one(override: str) -> None:
    survives(None, override)


def test_aliases_that_unfold_without_end_are_refused(place: Path) -> None:
    lines = ["a0: &a0 [x, x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 20))]
    place.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="unfolds without end"):
        load_config(place)


@pytest.mark.parametrize("path", ["/dev/zero", "/", "/no/such/file", "x" * 5000, "a\0b"])
def test_paths_that_are_no_configs_are_refused(path: str) -> None:
    with pytest.raises(ConfigError):
        load_config(Path(path))


def test_a_reward_module_that_ends_the_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaves.py").write_text("import sys; sys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="SystemExit"):
        load_config(None, ["rewards.x.kind=leaves:X"])
