"""Each alert goes off on what Prometheus recorded of a real fault, in time, and nothing goes off when all is well.

Recorded by `tests.alerts.record`; a recording goes on as its last minutes did where an alert takes longer. Two alerts
have no recording, as the product does not let it happen at will: their series are laid over the healthy one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, get_args

import pytest
import yaml
from msgspec import Struct

from service.edge.traffic import REFUSAL_REASONS, VERDICTS
from service.fleet.outbox import RESENT_REASONS
from service.fleet.status import LAG_LIMIT
from service.ledger.events import Endpoint, FailureKind, Outcome
from service.problems import CODES
from service.routing.route_status import RouteState
from service.settings.providers import CLIENT_ROUTE_ID
from tests.alerts.record import ALERTS, metrics_of_alerts
from tests.alerts.recording import FOLDER, INTERVAL_S, Recording, Values, encoded, load, prolonged
from tests.alerts.scenarios import SCENARIOS
from tests.support.processes import ROOT
from tests.support.promtool import promtool

if TYPE_CHECKING:
    from pathlib import Path

RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]
]
SEVERITIES = {rule["alert"]: rule["labels"]["severity"] for rule in RULES}
PAGE = ROOT / "docs" / "alerts.md"
ROW = re.compile(r"^\| `(Ccproxy\w+)` \| (\w+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
HOUR_S = 3600
WEEKEND_S = 60 * HOUR_S
"""Rules look back an hour at most, so that the last hour of an idle weekend stands for all of it."""


class Case(Struct, frozen=True, kw_only=True):
    """What a recording has to raise, and by when: seconds from the mark `wrong`. Anything else may not go off.

    It ends at the mark `cut`, if that is given, and goes on as in its last `tail_s` until `until_s`. `over_s`: by when
    after the mark `mended` all is quiet again. `from_s`: what was before is left out.
    `missed_each`: one of so many scrapes fails.
    """

    recording: str
    fires: dict[str, int] = {}
    until_s: int = 0
    cut: str = ""
    tail_s: int = 60
    over_s: int = 0
    from_s: int = 0
    missed_each: int = 0
    laid_over: dict[str, Values] = {}


NOT_ALWAYS = {"ccproxy_unpriced_total"}
"""What is absent where there is nothing to tell of it."""


def judge(folder: Path, case: Case) -> None:
    """Have promtool play a case."""
    recording = load(case.recording)
    series = series_of(recording, case)
    group = {
        "interval": f"{INTERVAL_S}s",
        "input_series": [{"series": name, "values": encoded(values)} for name, values in series.items()],
        "promql_expr_test": [*checks_of(case, recording)],
    }
    file = folder / f"{case.recording}.yml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": f"{INTERVAL_S}s", "tests": [group]}),
        encoding="utf-8",
    )
    promtool("test", "rules", file)


def series_of(recording: Recording, case: Case) -> dict[str, Values]:
    """The series of a recording and what is laid over them, to the end of the case."""
    kept = recording.marks[case.cut] // INTERVAL_S + 1 if case.cut else recording.scrapes
    scrapes, tail = max(kept, case.until_s // INTERVAL_S + 1), case.tail_s // INTERVAL_S
    first = case.from_s // INTERVAL_S
    found = {name: going_on(name, values[:kept], tail, scrapes)[first:] for name, values in recording.values().items()}
    assert case.laid_over.keys() <= found.keys()
    found |= case.laid_over
    if case.missed_each:
        found = {name: with_gaps(name, values, case.missed_each) for name, values in found.items()}
    return found


def going_on(name: str, values: Values, tail: int, scrapes: int) -> Values:
    """A series that goes on as it did last; of entries to fold no more are counted than a proxy counts."""
    found = prolonged(values, tail, scrapes)
    if name.startswith("ccproxy_stream_lag_entries{"):
        return [None if value is None else min(value, float(LAG_LIMIT)) for value in found]
    return found


def with_gaps(name: str, values: Values, each: int) -> Values:
    """A series some scrapes of which have failed."""
    failed = 0.0 if name.startswith("up{") else None
    return [failed if number % each == each - 1 else value for number, value in enumerate(values)]


def checks_of(case: Case, recording: Recording) -> list[dict[str, Any]]:
    """What has to be firing when."""
    wrong_s, end_s = recording.marks.get("wrong", 0), (case.until_s or recording.lasts_s) - case.from_s
    checks = [check(wrong_s + within_s, {name}, name) for name, within_s in case.fires.items()]
    checks += [check(end_s, set(case.fires))]
    if wrong_s:
        checks += [check(wrong_s, set())]
    if case.over_s:
        mended_s = recording.marks["mended"] + case.over_s
        checks += [check(mended_s, set(), for_s=INTERVAL_S)]
    return checks


def check(at_s: int, names: set[str], asked: str = "", *, for_s: int = 0) -> dict[str, Any]:
    """A query for the alerts, or the one, that have gone off until a moment, or in the seconds before; its answer."""
    selected = f',alertname="{asked}"' if asked else ""
    query = f'group by (alertname) (last_over_time(ALERTS{{alertstate="firing"{selected}}}[{for_s or at_s}s]))'
    samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)]
    return {"expr": query, "eval_time": f"{at_s}s", "exp_samples": samples}


TOTAL = {"CcproxyNoRoute": 120}
PROXY = '{{job="ccproxy",instance="proxy-1"{}}}'
TOKENS = PROXY.format(',route="anthropic"')
SCRAPES = HOUR_S // INTERVAL_S + 1
CASES = (
    Case(recording="healthy", cut="idle", tail_s=240, until_s=HOUR_S),
    Case(recording="healthy", cut="idle", tail_s=240, until_s=HOUR_S // 2, missed_each=8),
    Case(recording="healthy", tail_s=120, until_s=HOUR_S // 2),
    Case(recording="healthy", tail_s=120, until_s=WEEKEND_S, from_s=WEEKEND_S - HOUR_S),
    Case(recording="fleet", until_s=900, tail_s=90),
    Case(recording="outage_refused", fires=TOTAL | {"CcproxyRequestsFail": 165}, over_s=300, until_s=900),
    Case(recording="outage_overloaded", fires=TOTAL | {"CcproxyRequestsFail": 165}, over_s=300, until_s=900),
    Case(recording="outage_credential", fires=TOTAL | {"CcproxyCredentialRefused": 30}),
    Case(
        recording="outage_throttled",
        cut="mended",
        fires=TOTAL | {"CcproxyClientsThrottled": 600, "CcproxyRouteAway": 600},
        until_s=900,
    ),
    Case(recording="outage_alone", fires=TOTAL, over_s=420, until_s=900),
    Case(recording="outage_hang", fires=TOTAL),
    Case(recording="some_fail", fires={"CcproxyRequestsFail": 240}),
    Case(recording="route_away", fires={"CcproxyRouteAway": 600}, until_s=1200),
    Case(recording="credential_refused", fires={"CcproxyCredentialRefused": 30}),
    Case(recording="credential_missing", fires={"CcproxyCredentialRefused": 30, "CcproxyRouteAway": 600}, until_s=900),
    Case(recording="client_credential_refused"),
    Case(recording="quota_near", fires={"CcproxyQuotaNearlySpent": 180}),
    Case(
        recording="quota_spent",
        fires={"CcproxyQuotaNearlySpent": 120, "CcproxyQuotaSpent": 120, "CcproxyNoRoute": 180},
    ),
    Case(recording="workers_gone"),
    Case(
        recording="workers_gone",
        cut="mended",
        fires={"CcproxyLedgerStands": 480, "CcproxyLedgerBehind": 900},
        until_s=1200,
    ),
    Case(recording="workers_never", fires={"CcproxyLedgerStands": 360}, until_s=450),
    Case(recording="postgres_gone", cut="mended", fires={"CcproxyLedgerStands": 480}, until_s=570),
    Case(recording="redis_gone", fires={"CcproxyRedisAway": 90}, over_s=60),
    Case(
        recording="redis_gone",
        cut="mended",
        fires={"CcproxyRedisAway": 90, "CcproxyEventsOnDisk": 960},
        until_s=1200,
    ),
    Case(recording="redis_full", fires={"CcproxyRedisAway": 90}, over_s=60),
    Case(recording="redis_evicts", fires={"CcproxyProblem": 210}, over_s=120),
    Case(recording="events_lost", fires={"CcproxyRedisLosesEvents": 120}),
    Case(recording="proxy_gone", cut="all wrong", fires={"CcproxyProxyAway": 930}, until_s=1200),
    Case(recording="proxy_gone", fires={"CcproxyNoProxy": 210}, until_s=300),
    Case(recording="unpriced", fires={"CcproxyUnpricedUsage": 30}),
    Case(recording="key_spent", fires={"CcproxyKeySpent": 60}),
    Case(recording="settings_differ", fires={"CcproxySetDifferently": 930}, until_s=1200),
    Case(recording="slow_first_token", fires={"CcproxySlowFirstToken": 900}, until_s=1200),
    Case(recording="dead_letter", fires={"CcproxyEventsPutAside": 30}),
    Case(
        recording="healthy",
        cut="idle",
        fires={"CcproxyQuotaOvershot": 60},
        until_s=HOUR_S,
        laid_over={
            f"ccproxy_quota_limit_tokens{TOKENS}": [1_000_000.0] * SCRAPES,
            f"ccproxy_quota_overshoot_tokens{TOKENS}": [6_000.0] * SCRAPES,
        },
    ),
    Case(
        recording="healthy",
        fires={"CcproxyProblem": 150},
        until_s=HOUR_S // 2,
        laid_over={"ccproxy_problem" + PROXY.format(',problem="task"'): [1.0] * SCRAPES},
    ),
    Case(
        recording="healthy",
        cut="idle",
        fires={"CcproxyProxySlow": 1200},
        until_s=HOUR_S,
        laid_over={
            "ccproxy_added_latency_seconds_bucket" + PROXY.format(f',le="{bound}"'): [0.0] * SCRAPES
            for bound in (0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25)
        },
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.recording}: {', '.join(case.fires)}")
def test_what_happened_raises_its_alerts_and_no_others(tmp_path: Path, case: Case) -> None:
    """In time, not before, and once it is over, not for long."""
    judge(tmp_path, case)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.recording.startswith("outage")], ids=lambda case: case.recording
)
def test_a_total_outage_is_critical_within_two_minutes(case: Case) -> None:
    """Also for one developer alone, whose client waits longer and longer before it asks again."""
    assert case.fires["CcproxyNoRoute"] <= 120
    assert SEVERITIES["CcproxyNoRoute"] == "critical"


def test_every_alert_goes_off_and_every_recording_is_judged() -> None:
    """None is forgotten above, and none is recorded for nothing."""
    assert {name for case in CASES for name in case.fires} == set(SEVERITIES)
    assert {case.recording for case in CASES} == set(SCENARIOS) == {path.stem for path in FOLDER.glob("*.txt")}


@pytest.mark.parametrize("name", ["healthy", "fleet"])
def test_where_all_is_well_every_alert_could_go_off(name: str) -> None:
    """Its metrics are there: none is silent for lack of them."""
    assert metrics_of_alerts() - NOT_ALWAYS == {series.partition("{")[0] for series in load(name).series}


@pytest.mark.parametrize("name", SCENARIOS)
def test_recordings_are_small_and_about_alerts_alone(name: str) -> None:
    """Or they were recorded for what is gone."""
    assert {series.partition("{")[0] for series in load(name).series} <= metrics_of_alerts()
    assert (FOLDER / f"{name}.txt").stat().st_size < 40_000


KNOWN: dict[str, set[str]] = {
    "endpoint": set(get_args(Endpoint)),
    "kind": set(get_args(FailureKind)),
    "outcome": set(get_args(Outcome)),
    "problem": set(CODES),
    "reason": {*REFUSAL_REASONS, *RESENT_REASONS},
    "route": {CLIENT_ROUTE_ID},
    "state": set(get_args(RouteState)),
    "verdict": set(VERDICTS),
}


def test_alerts_ask_for_values_that_exist() -> None:
    """A state or a kind that is spelled wrong would never go off."""
    asked = [
        (label, value)
        for rule in RULES
        for label, values in re.findall(r'(\w+)[!=]?=?~?"([^"]*)"', rule["expr"])
        for value in values.split("|")
    ]
    assert {label for label, _ in asked} - {"le"} == set(KNOWN)
    assert [(label, value) for label, value in asked if label != "le" and value not in KNOWN[label]] == []


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    """A summary for the pager, a description for whoever looks."""
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
    assert len(SEVERITIES) == len(RULES)


def test_every_alert_is_in_the_documents() -> None:
    """With its severity, what it means, and what to do, in the order of the file."""
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert [(name, severity) for name, severity, _, _ in rows] == [*SEVERITIES.items()]
