"""What a run exports: names, tags and values, with stand-ins for Ray's metrics; the documentation lists all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cluster.records.telemetry
from cluster.records.telemetry import PHASES, Telemetry, exported_names

DOCS = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
VALUES: dict[tuple, float] = {}


class Metric:
    """Keeps what is recorded, and refuses tags that were not announced, as Ray does."""

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.info, self._keys, self._default = {"name": name}, tag_keys, {}
        assert description.endswith(".")

    def set_default_tags(self, tags: dict[str, str]) -> Metric:
        self._default = tags
        return self

    def key(self, tags: dict[str, str]) -> tuple:
        tags = self._default | tags
        assert set(tags) == set(self._keys)
        return self.info["name"], *sorted(tags.items())


class Gauge(Metric):
    def set(self, value: float, tags: dict[str, str]) -> None:
        VALUES[self.key(tags)] = value


class Counter(Metric):
    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0
        VALUES[self.key(tags)] = VALUES.get(self.key(tags), 0.0) + value


@pytest.fixture
def telemetry(monkeypatch: pytest.MonkeyPatch) -> Telemetry:
    VALUES.clear()
    monkeypatch.setattr(cluster.records.telemetry, "Gauge", Gauge)
    monkeypatch.setattr(cluster.records.telemetry, "Counter", Counter)
    return Telemetry("mine")


def value(name: str, **tags: str) -> float:
    return VALUES[(f"reinoise_{name}", *sorted({"run": "mine", **tags}.items()))]


def phases() -> dict[str, float]:
    return {phase: value("training_phase", phase=phase) for phase in PHASES}


def test_the_documentation_lists_exactly_what_is_exported() -> None:
    documented = set(re.findall(r"^\| `(ray_reinoise_\w+)` ", DOCS, flags=re.MULTILINE))
    assert documented == exported_names()


def test_exactly_one_phase_is_one_and_its_time_adds_up(telemetry: Telemetry) -> None:
    assert set(phases().values()) == {0.0}
    for phase in (*PHASES, "sampling"):
        telemetry.phase(phase)  # type: ignore[arg-type]
        assert phases() == {name: float(name == phase) for name in PHASES}
    telemetry.phase(None)
    assert set(phases().values()) == {0.0}
    assert all(value("phase_seconds", phase=phase) > 0 for phase in PHASES)


@pytest.mark.parametrize(
    ("figure", "name", "tags"),
    [
        ("reward/mean", "reward", {"statistic": "mean"}),
        ("score/shapes_gold", "score", {"reward": "shapes_gold"}),
        ("eval/held_out/shapes_gold", "evaluation", {"split": "held_out", "figure": "shapes_gold"}),
        ("kl/pretrained", "kl", {"reference": "pretrained"}),
        ("sampler/sampler-12/version", "sampler_version", {"actor": "sampler-12"}),
        ("queue/reward/waiting", "queue_calls", {"role": "reward", "state": "waiting"}),
        ("restarts/learner", "restarts", {"role": "learner"}),
        ("time/learn", "stage_seconds", {"stage": "learn"}),
        ("publish_to_applied", "publish_to_applied_seconds", {}),
        ("loss", "objective", {"figure": "loss"}),
        ("loss/forward", "objective", {"figure": "loss/forward"}),
    ],
)
def test_figures_find_their_gauge_and_the_rest_is_the_objectives(
    telemetry: Telemetry, figure: str, name: str, tags: dict[str, str]
) -> None:
    telemetry.record({figure: 0.5})
    telemetry.record({figure: -2.5})
    assert value(name, **tags) == -2.5


def test_counts_add_up_over_iterations_and_nothing_is_counted_as_nothing(telemetry: Telemetry) -> None:
    for images in (32.0, 0.0, 16.0):
        telemetry.record({"samples": 48.0, "sampler/sampler-0/images": images, "sampler/sampler-0/seconds": images / 4})
    assert value("samples") == 144
    assert value("sampler_images", actor="sampler-0") == 48
    assert value("sampler_busy_seconds", actor="sampler-0") == 12


def test_the_clip_fraction_is_told_apart_by_staleness(telemetry: Telemetry) -> None:
    telemetry.record({"clip/winner": 0.0, "staleness": 0.0})
    telemetry.record({"clip/winner": 0.25, "staleness": 1.0})
    assert value("clip_fraction", side="winner", staleness="0") == 0
    assert value("clip_fraction", side="winner", staleness="1") == 0.25
