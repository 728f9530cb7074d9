"""Prometheus' configuration and Grafana's board: promtool judges them, and every name in them and in the alerts exists.

When alerts go off: `tests/alerts`.
"""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.deploy.judges import DEPLOY
from tests.support.metric_names import METRICS
from tests.support.promtool import promtool

if TYPE_CHECKING:
    from pathlib import Path

TARGET = {"job", "instance"}
"""Labels that Prometheus gives to all that it scrapes."""
TOKEN = "/run/ccproxy/metrics/token"
ALERTS = DEPLOY / "chart" / "files" / "alerts.yml"
BOARD: dict[str, Any] = json.loads((DEPLOY / "chart" / "files" / "board.json").read_text(encoding="utf-8"))
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]
]
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
ASKED = {f"alert {rule['alert']}": rule["expr"] for rule in RULES} | {
    f"panel {panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]
}


def test_prometheus_would_start(tmp_path: Path) -> None:
    """Its configuration, with the rules beside it, as docker-compose.yml mounts them."""
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    (tmp_path / "token").write_text("a token", encoding="utf-8")
    assert TOKEN in text
    (tmp_path / "prometheus.yml").write_text(text.replace(TOKEN, str(tmp_path / "token")), encoding="utf-8")
    shutil.copy(ALERTS, tmp_path)
    said = promtool("check", "config", tmp_path / "prometheus.yml")
    assert f"{len(RULES)} rules found" in said


def test_the_boards_queries_are_promql(tmp_path: Path) -> None:
    """Written as rules, so that promtool reads them."""
    rules = [
        {"record": f"board:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(ASKED.values())
    ]
    file = tmp_path / "board.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}), encoding="utf-8")
    promtool("check", "rules", file)


@pytest.mark.parametrize("place", ASKED)
def test_every_metric_that_is_asked_for_exists(place: str) -> None:
    """With the labels that it is asked by."""
    query = ASKED[place]
    names = set(re.findall(r"\b(?:ccproxy|gen_ai)_\w+", query))
    assert names
    assert names <= set(METRICS), place
    labels = {label for part in re.findall(r"by \(([^)]*)\)", query) for label in re.split(r",\s*", part)}
    labels |= set(re.findall(r'(\w+)\s*[=!]~?\s*"', query))
    assert labels <= TARGET.union(*(METRICS[name] for name in names)), place


def test_every_metric_is_on_the_board() -> None:
    """So that none is kept for nobody."""
    shown = " ".join(query for place, query in ASKED.items() if place.startswith("panel"))
    assert [name for name in METRICS if not re.search(rf"\b{name}\b", shown)] == []


def test_panels_do_not_overlap_and_ask_the_boards_source() -> None:
    """Each has its own place within 24 columns, its own id, and the source that the board's visitor chose."""
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${datasource}"}
    assert [variable["name"] for variable in BOARD["templating"]["list"]] == ["datasource"]


def test_grafana_finds_the_board_and_prometheus() -> None:
    """Where docker-compose.yml mounts the one, and by the name of the other's service."""
    compose = (DEPLOY.parent / "docker-compose.yml").read_text(encoding="utf-8")
    boards = yaml.safe_load((DEPLOY / "grafana" / "boards.yml").read_text(encoding="utf-8"))
    assert f"./deploy/chart/files/board.json:{boards['providers'][0]['options']['path']}/" in compose
    sources = yaml.safe_load((DEPLOY / "grafana" / "datasource.yml").read_text(encoding="utf-8"))
    assert sources["datasources"][0]["url"] == "http://cc-prometheus:9090"
    assert "cc-prometheus:" in compose
