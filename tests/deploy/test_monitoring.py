"""The Grafana dashboard asks for all that a run exports and nothing else; Prometheus and Grafana fit together."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from cluster.records.telemetry import COUNTERS, GAUGES, exported_names

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "reinoise.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
TAGS = {name: set(re.findall(r"<(\w+)>", figure)) for figure, (name, _) in (GAUGES | COUNTERS).items()}


def asked_for(pattern: str) -> set[str]:
    return set(re.findall(rf"\b{pattern}\w+", " ".join(QUERIES)))


def test_the_dashboard_shows_every_metric_that_a_run_exports_and_no_other() -> None:
    assert asked_for("ray_reinoise_") == exported_names()


def test_rays_own_metrics_on_it_are_documented() -> None:
    documented = set(re.findall(r"^\| `(ray_\w+)` ", (ROOT / "docs" / "metrics.md").read_text(), flags=re.MULTILINE))
    assert asked_for("ray_") <= documented


def test_counters_are_shown_as_rates_and_legends_use_tags_that_exist() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            if "_total" in target["expr"] and panel["type"] != "stat":
                assert target["expr"].startswith("rate(")
            if names := re.findall(r"ray_(reinoise_\w+?)(?:_total)?\{", target["expr"]):
                tags = {"run", "staleness"}.union(*(TAGS.get(name, {"phase"}) for name in names))
                assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= tags


def test_panels_lie_beside_each_other_within_the_grid() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken
        assert all(x < 24 for x, _ in cells)
        taken |= cells


def test_grafana_finds_the_dashboard_and_asks_prometheus() -> None:
    def read(path: str) -> Any:
        return yaml.safe_load((ROOT / "deploy" / path).read_text())

    (provider,) = read("grafana/provisioning/dashboards/reinoise.yml")["providers"]
    assert (ROOT / provider["options"]["path"] / "reinoise.json").is_file()
    assert "provisioning = deploy/grafana/provisioning\n" in (ROOT / "deploy" / "grafana" / "grafana.ini").read_text()
    (source,) = read("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert DASHBOARD["templating"]["list"][0]["current"]["value"] == source["name"]
    assert (
        f"--web.listen-address={source['url'].removeprefix('http://')}"
        in (ROOT / "deploy" / "prometheus.yml").read_text()
    )
