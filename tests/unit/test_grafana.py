"""What the rules and the dashboards ask for exists, and Grafana finds the dashboards."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pooltasks.metrics.families import families

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "config/grafana/dashboards").glob("*.json"))
RULES = [
    rule
    for path in (ROOT / "config/prometheus/rules").glob("*.yml")
    for group in yaml.safe_load(path.read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
SUFFIXES = {
    "counter": ["_total"],
    "histogram": ["_bucket", "_count", "_sum"],
    "summary": ["_count", "_sum"],
    "gauge": [""],
}


def metrics() -> dict[str, set[str]]:
    """Return the labels of every metric, recorded ones too."""
    labels = {
        family.name + suffix: {"job", "instance", *family._labelnames}
        for family in families({}, {}, up=None)
        for suffix in SUFFIXES[family.type]
    }
    for name in [name for name in labels if name.endswith("_bucket")]:
        labels[name].add("le")
    for rule in RULES:
        if "record" in rule:
            labels[rule["record"]] = {"job", "pool"}
    return labels


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each metric of a query with the labels by which it is selected."""
    for name, matchers in re.findall(
        r"((?:job_pool:)?pooltasks_[\w:]+)(?:\{([^}]*)\})?", expression
    ):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def load(path: Path) -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return dashboard


def expressions() -> Iterator[tuple[str, str]]:
    for rule in RULES:
        yield rule.get("alert") or rule["record"], rule["expr"]
    for path in DASHBOARDS:
        for panel in panels(load(path)):
            for target in panel["targets"]:
                yield f"{path.name}: {panel['title']}", target["expr"]
        for variable in load(path)["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{path.name}: {variable['name']}", variable["query"]["query"]


def test_what_the_queries_name_exists() -> None:
    known = metrics()
    every = {label for labels in known.values() for label in labels}
    for where, expression in expressions():
        found = list(selectors(expression))
        assert found or "ALERTS{" in expression, where
        for name, labels in found:
            assert name in known, f"{where}: {name}"
            assert labels <= known[name], f"{where}: {name} {labels}"
        grouped = re.findall(r"\b(?:by|without|on)\s*\(([^)]*)\)", expression)
        assert {label.strip() for its in grouped for label in its.split(",")} <= every, where


def test_the_documentation_names_what_there_is() -> None:
    text = (ROOT / "docs/monitoring.md").read_text("utf-8")
    named = set(re.findall(r"^\| `(pooltasks_\w+|Pooltasks\w+)`", text, re.MULTILINE))
    suffix = {"counter": "_total", "histogram": "", "summary": "", "gauge": ""}
    assert named == {
        *(family.name + suffix[family.type] for family in families({}, {}, up=None)),
        *(rule["alert"] for rule in RULES if "alert" in rule),
    }


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_a_dashboard_is_whole(path: Path) -> None:
    dashboard = load(path)
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    places: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        covers = set(
            itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"]))
        )
        assert at["x"] + at["w"] <= 24
        assert not places & covers, panel["title"]
        places |= covers
    for panel in panels(dashboard):
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs))
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source["uid"] == "${datasource}" for source in sources)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(dashboard)))
    assert used == variables


def test_grafana_finds_the_dashboards_and_their_source() -> None:
    assert len({load(path)["uid"] for path in DASHBOARDS}) == len(DASHBOARDS) == 2
    provisioning = ROOT / "config/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text("utf-8"))[
        "datasources"
    ]
    for path in DASHBOARDS:
        variable = load(path)["templating"]["list"][0]
        assert variable["current"] == {"text": source["name"], "value": source["uid"]}
    (provider,) = yaml.safe_load((provisioning / "dashboards/pooltasks.yml").read_text("utf-8"))[
        "providers"
    ]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    mounts = dict(volume.split(":")[:2] for volume in compose["services"]["grafana"]["volumes"])
    assert provider["options"]["path"] == mounts["./config/grafana/dashboards"]
    link = re.search(r"/d/([\w-]+)\?var-pool", json.dumps(load(DASHBOARDS[1])))
    assert link
    assert link[1] == load(DASHBOARDS[0])["uid"]
