"""Prometheus' configuration, the alerts and Grafana's board: promtool judges them, and every name in them exists."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any, get_args

import pytest
import yaml

from service.ledger.events import FailureKind
from tests.deploy.judges import DEPLOY, judged, promtool
from tests.support.metric_names import METRICS

if TYPE_CHECKING:
    from pathlib import Path

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
    said = judged(promtool(), "check", "config", tmp_path / "prometheus.yml")
    assert f"{len(RULES)} rules found" in said


# A fleet in which all is well, as promtool takes series: start, step, number of minutes.
HEALTHY = {
    'ccproxy_info{version="1",settings="a",instance="1"}': "1x60",
    'ccproxy_info{version="1",settings="a",instance="2"}': "1x60",
    'ccproxy_requests_total{endpoint="messages",verdict="ok"}': "0+100x60",
    'ccproxy_requests_total{endpoint="messages",verdict="provider_error"}': "0+1x60",
    'ccproxy_requests_total{endpoint="messages",verdict="throttled"}': "0+1x60",
    'ccproxy_attempts_total{route="one",outcome="failed",kind="timeout"}': "0+1x60",
    'ccproxy_attempts_total{route="one",outcome="failed",kind="credential"}': "0x60",
    'ccproxy_route_available{route="one"}': "1x60",
    'ccproxy_route_available{route="two"}': "0x5 1x55",
    'ccproxy_quota_used_tokens{route="one"}': "0+10x60",
    'ccproxy_quota_limit_tokens{route="one"}': "1000x60",
    'ccproxy_quota_limit_tokens{route="two"}': "0x60",
    'ccproxy_quota_used_tokens{route="two"}': "5000x60",
    'ccproxy_quota_overshoot_tokens{route="one"}': "4x60",
    'gen_ai_server_time_to_first_token_seconds_bucket{route="one",le="10"}': "0+10x60",
    'gen_ai_server_time_to_first_token_seconds_bucket{route="one",le="60"}': "0+10x60",
    'gen_ai_server_time_to_first_token_seconds_bucket{route="one",le="+Inf"}': "0+10x60",
    'ccproxy_added_latency_seconds_bucket{le="0.1"}': "0+10x60",
    'ccproxy_added_latency_seconds_bucket{le="1"}': "0+10x60",
    'ccproxy_added_latency_seconds_bucket{le="+Inf"}': "0+10x60",
    "ccproxy_redis_up": "1x60",
    "ccproxy_spool_events": "5x10 0x50",
    'ccproxy_stream_lag_entries{stream="one"}': "10x60",
    'ccproxy_snapshot_age_seconds{stream="one"}': "1x60",
    'ccproxy_stream_lag_entries{stream="idle"}': "0x60",
    'ccproxy_snapshot_age_seconds{stream="idle"}': "0+60x60",
    'ccproxy_dead_letters{stream="one"}': "0x60",
    'ccproxy_quarantined_events{stream="one"}': "0x60",
}
# What has to be different for an alert to go off.
WRONG: dict[str, dict[str, str]] = {
    "CcproxyNoProxy": {series: "_x60" for series in HEALTHY if series.startswith("ccproxy_info")},
    "CcproxyRequestsFail": {'ccproxy_requests_total{endpoint="messages",verdict="provider_error"}': "0+10x60"},
    "CcproxyClientsThrottled": {'ccproxy_requests_total{endpoint="messages",verdict="throttled"}': "0+20x60"},
    "CcproxyRouteAway": {'ccproxy_route_available{route="two"}': "0x60"},
    "CcproxyNoRoute": {f'ccproxy_route_available{{route="{route}"}}': "0x60" for route in ("one", "two")},
    "CcproxyCredentialRefused": {'ccproxy_attempts_total{route="one",outcome="failed",kind="credential"}': "0x55 1x5"},
    "CcproxyQuotaNearlySpent": {'ccproxy_quota_used_tokens{route="one"}': "950x60"},
    "CcproxyQuotaOvershot": {'ccproxy_quota_overshoot_tokens{route="one"}': "6x60"},
    "CcproxySlowFirstToken": {'gen_ai_server_time_to_first_token_seconds_bucket{route="one",le="10"}': "0+1x60"},
    "CcproxyProxySlow": {'ccproxy_added_latency_seconds_bucket{le="0.1"}': "0+1x60"},
    "CcproxyRedisAway": {"ccproxy_redis_up": "0x60"},
    "CcproxyEventsOnDisk": {"ccproxy_spool_events": "5x60"},
    "CcproxyLedgerBehind": {'ccproxy_stream_lag_entries{stream="one"}': "2000x60"},
    "CcproxyLedgerStands": {'ccproxy_snapshot_age_seconds{stream="one"}': "0+60x60"},
    "CcproxyEventsPutAside": {'ccproxy_quarantined_events{stream="one"}': "1x60"},
    "CcproxyUnpricedUsage": {'ccproxy_unpriced_total{route="one",model="claude-new"}': "_x55 1x5"},
    "CcproxySetDifferently": {
        'ccproxy_info{version="1",settings="a",instance="2"}': "_x60",
        'ccproxy_info{version="1",settings="b",instance="2"}': "1x60",
    },
}
FIRING = 'group by (alertname) (ALERTS{alertstate="firing"})'


def tried(series: dict[str, str], firing: set[str]) -> dict[str, Any]:
    """A test of promtool's: after an hour of these series, these alerts have gone off."""
    samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(firing)]
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": FIRING, "eval_time": "59m", "exp_samples": samples}],
    }


def test_the_alerts_go_off_when_they_should_and_not_before(tmp_path: Path) -> None:
    """Promtool evaluates the rules: none while all is well, then each one alone, with what follows from it."""
    follows = {"CcproxyNoRoute": {"CcproxyRouteAway"}}
    tests = [tried(HEALTHY, set())]
    tests += [tried(HEALTHY | wrong, {name} | follows.get(name, set())) for name, wrong in WRONG.items()]
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": tests}), encoding="utf-8")
    judged(promtool(), "test", "rules", file)


def test_every_alert_is_tried() -> None:
    """None is forgotten above."""
    assert list(WRONG) == [rule["alert"] for rule in RULES]


def test_the_boards_queries_are_promql(tmp_path: Path) -> None:
    """Written as rules, so that promtool reads them."""
    rules = [
        {"record": f"board:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(ASKED.values())
    ]
    file = tmp_path / "board.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}), encoding="utf-8")
    judged(promtool(), "check", "rules", file)


@pytest.mark.parametrize("place", ASKED)
def test_every_metric_that_is_asked_for_exists(place: str) -> None:
    """With the labels that it is asked by."""
    query = ASKED[place]
    names = set(re.findall(r"\b(?:ccproxy|gen_ai)_\w+", query))
    assert names
    assert names <= set(METRICS), place
    labels = {label for part in re.findall(r"by \(([^)]*)\)", query) for label in re.split(r",\s*", part)}
    labels |= set(re.findall(r'(\w+)\s*[=!]~?\s*"', query))
    assert labels <= set().union(*(METRICS[name] for name in names)), place


def test_every_metric_is_on_the_board() -> None:
    """So that none is kept for nobody."""
    shown = " ".join(query for place, query in ASKED.items() if place.startswith("panel"))
    assert [name for name in METRICS if not re.search(rf"\b{name}\b", shown)] == []


def test_the_alerts_know_the_kinds_of_failure() -> None:
    """A kind that is spelled wrong would never go off."""
    kinds = {
        kind for rule in RULES for found in re.findall(r'kind=~?"([^"]*)"', rule["expr"]) for kind in found.split("|")
    }
    assert kinds
    assert kinds <= set(get_args(FailureKind))


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    """A summary for the pager, a description for whoever looks."""
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
    assert len({rule["alert"] for rule in RULES}) == len(RULES)


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
