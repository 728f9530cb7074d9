"""A route as people see it: one state, why, and its week."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.ledger.events import AttemptEnded, AttemptStarted, Endpoint
from service.ledger.fold import fold_route
from service.ledger.state import (
    ControlLedger,
    OpenAttempt,
    Refusal,
    ReplicaHealth,
    ReplicaNotice,
    RouteLedger,
    Usage,
    Wait,
    WindowTold,
)
from service.routing.circuit import CircuitReading
from service.routing.quota import WaitReading, WindowReading
from service.routing.rank import RoutingRequest, rank
from service.routing.route_status import (
    NoticeReading,
    RouteStatus,
    describe_credential,
    describe_failures,
    fields_of,
    models_without_price,
    read_notices,
    read_route_status,
    reading_of,
)
from service.routing.view import View
from service.settings import Route
from tests.support.routing_factories import (
    CLIENT,
    HOUR_MS,
    MONDAY_MS,
    NOW_MS,
    POLICY,
    A,
    S,
    open_circuit,
    route_of,
    tripped,
    used,
    view_of,
    waiting,
)

LIMITED = route_of("anthropic", weekly_tokens=1_000)
OFF = route_of("anthropic", off="no key; set ANTHROPIC_API_KEY")


RESET_MS = NOW_MS + 5 * HOUR_MS


def told(ratio: float, status: str = "allowed", name: str = "5h") -> RouteLedger:
    """What a provider said of a window; spent, when it did so with an error."""
    window = WindowTold(ratio, RESET_MS, status, at_ms=NOW_MS - 1, answered=status == "allowed")
    return RouteLedger(windows={name: window})


def read(view: View | None = None, route: Route = A) -> RouteStatus:
    """The route at noon."""
    return read_route_status(route, view or view_of(), POLICY, NOW_MS)


STATES = [
    pytest.param(A, view_of(), "healthy", "", id="nobody used it"),
    pytest.param(
        A,
        view_of(anthropic=RouteLedger(health={"me": tripped(3)})),
        "degraded",
        "3 failures in a row, the last: failure",
        id="3 failures",
    ),
    pytest.param(OFF, view_of(), "off", "no key; set ANTHROPIC_API_KEY", id="no key"),
    pytest.param(A, view_of(ControlLedger(disabled={"anthropic": "x"})), "disabled", "disabled: x", id="disabled"),
    pytest.param(
        A, view_of(anthropic=open_circuit()), "circuit_open", "5 failures in a row, the last: failure", id="open"
    ),
    pytest.param(
        A,
        view_of(anthropic=open_circuit(ago_ms=70_000)),
        "degraded",
        "5 failures in a row, the last: failure",
        id="half open",
    ),
    pytest.param(A, view_of(anthropic=waiting()), "waiting", "throttle 429", id="waiting"),
    pytest.param(LIMITED, view_of(anthropic=used(950)), "quota_warning", "", id="above the threshold"),
    pytest.param(LIMITED, view_of(anthropic=used(1_000)), "quota_spent", "weekly limit reached", id="quota spent"),
    pytest.param(
        S, view_of(subscription=told(0.93)), "quota_warning", "window 5h 93 %", id="a window above the threshold"
    ),
    pytest.param(
        S, view_of(subscription=told(1.0, "rejected")), "waiting", "window 5h rejected", id="a window is spent"
    ),
    pytest.param(
        A,
        view_of(ControlLedger(limits={"anthropic": 10}), anthropic=used(10)),
        "quota_spent",
        "weekly limit reached",
        id="an operator's limit",
    ),
]


@pytest.mark.parametrize(("route", "view", "state", "reason"), STATES)
def test_a_route_has_one_state_and_its_reason(route: Route, view: View, state: str, reason: str) -> None:
    """The first that speaks against it; a request would hear the same."""
    reading = read(view, route)
    assert (reading.state, reading.reason) == (state, reason)


@pytest.mark.parametrize(("route", "view", "state", "reason"), STATES)
def test_a_route_is_available_when_requests_may_take_it(route: Route, view: View, state: str, reason: str) -> None:
    """What is shown is what `rank` does; an open circuit is a last resort, and shown as what it is."""
    reading = read(view, route)
    candidates = rank(RoutingRequest(model="claude-x"), [route], view, POLICY, NOW_MS)
    assert reading.available == (candidates[0].usable and state != "circuit_open")
    assert reading.reason == reason


def test_the_week_is_counted_by_kind() -> None:
    """Attempts and tokens of the running week; what counts against the limit and its share."""
    hour = MONDAY_MS // HOUR_MS
    week = Usage(
        attempts=4, failed=1, aborted=1, lost=1, input=30, output=20, cache_read=5, cache_write_5m=6, cache_write_1h=7
    )
    ledger = RouteLedger(hours={hour - 1: Usage(attempts=99, input=99), hour: week, hour + 1: week})
    reading = read(view_of(anthropic=ledger), LIMITED)
    assert (reading.attempts, reading.failed, reading.aborted, reading.lost) == (8, 2, 2, 2)
    assert (reading.input_tokens, reading.output_tokens, reading.cache_read_tokens) == (60, 40, 10)
    assert (reading.cache_write_5m_tokens, reading.cache_write_1h_tokens) == (12, 14)
    assert (reading.used_tokens, reading.limit_tokens, reading.used_percent) == (100, 1_000, 10.0)
    assert (reading.week_start_ms, reading.resets_at_ms) == (MONDAY_MS, MONDAY_MS + 168 * HOUR_MS)
    a_part = RouteLedger(hours={hour: Usage(input=123)})
    assert read(view_of(anthropic=a_part), route_of("anthropic", weekly_tokens=7_000)).used_percent == 1.76


def test_what_is_under_way_is_shown() -> None:
    """Attempts that have begun and not ended."""
    begun = AttemptStarted(event_id="0198f3c0-1234-7abc-8def-0123456789ab", at_ms=NOW_MS, request_id="q")
    assert read(view_of(anthropic=fold_route(RouteLedger(), [begun]))).open_attempts == 1


def test_an_outcome_moves_the_reading() -> None:
    """From event to fold to reading: five failures in a row close the route, an answer opens it."""
    ledger = RouteLedger()
    for number in range(5):
        ledger = fold_route(ledger, [failure(number)])
    assert read(view_of(anthropic=ledger)).circuit == "open"
    answer = AttemptEnded(
        event_id="y", at_ms=NOW_MS, replica="me", attempt_id="y", request_id="q", started_at_ms=NOW_MS, outcome="ok"
    )
    assert read(view_of(anthropic=fold_route(ledger, [answer]))).state == "healthy"


def failure(number: int) -> AttemptEnded:
    """A 500 met by this replica."""
    return AttemptEnded(
        event_id=f"x{number}",
        at_ms=NOW_MS - 1,
        replica="me",
        attempt_id=f"a{number}",
        request_id="q",
        started_at_ms=NOW_MS - 2,
        outcome="failed",
        kind="server_error",
        scope="route",
    )


@given(st.integers(0, 20), st.integers(0, 2_000), st.integers(0, 10**6))
def test_an_end_is_only_named_for_what_ends(failures: int, tokens: int, ago_ms: int) -> None:
    """A route that may be taken has no end to wait for; one that may not by the clock has one ahead."""
    health = ReplicaHealth(failures_in_row=failures, last_failure_ms=NOW_MS - ago_ms, last_failure_id="x")
    reading = read(view_of(anthropic=RouteLedger(health={"me": health}, hours=used(tokens).hours)), LIMITED)
    assert (reading.until_ms > NOW_MS) == (not reading.available)


def test_the_clients_own_route_is_always_available() -> None:
    """It shares no state."""
    assert read(view_of(client=waiting()), CLIENT).available


def full_view() -> View:
    """A route that has something to say of everything."""
    ledger = told(0.97, "allowed_warning")
    ledger.windows["7d_opus"] = WindowTold(1.0, RESET_MS, "rejected", at_ms=NOW_MS - 1)
    ledger.waits = {
        "credential": Wait(at_ms=NOW_MS - 1, until_ms=NOW_MS + 9, kind="credential", status=401),
        "throttle": Wait(at_ms=NOW_MS - 1, until_ms=NOW_MS - 1, kind="throttle", status=429),
        "quota:haiku": Wait(at_ms=NOW_MS - 1, until_ms=NOW_MS + 7, kind="quota", status=429, holds="haiku"),
    }
    ledger.hours = {NOW_MS // HOUR_MS - ago: Usage(attempts=1, input=10) for ago in range(48)}
    return view_of(anthropic=ledger)


def test_every_wait_and_window_has_its_reason_and_clock() -> None:
    """Those that hold some models too; none that is over."""
    reading = read(full_view(), LIMITED)
    assert reading.waits == (
        WaitReading("credential", NOW_MS + 9, "credential refused 401", kind="credential", status=401),
        WaitReading("quota", NOW_MS + 7, "quota 429", "haiku", kind="quota", status=429),
        WaitReading("quota", RESET_MS, "window 7d_opus rejected", "opus", kind="quota"),
    )
    assert reading.windows == (
        WindowReading("5h", "warning", 97.0, RESET_MS, "allowed_warning", "", NOW_MS - 1),
        WindowReading("7d_opus", "spent", 100.0, RESET_MS, "rejected", "opus", NOW_MS - 1),
    )
    assert NOW_MS < reading.exhausted_at_ms < reading.resets_at_ms


def owned_view() -> View:
    """Two accounts and two classes of endpoint have cool-downs and met errors that no rule knows."""
    owners: list[tuple[Endpoint, str]] = [("messages", "a1"), ("count_tokens", "a1"), ("messages", "a2")]
    ledger = RouteLedger(account="a2", opinions={"none": 2, "answered": 1}, unknown_errors=7)
    for endpoint, account in owners:
        wait = Wait(at_ms=NOW_MS - 1, kind="throttle", status=429, account=account, endpoint=endpoint)
        ledger.waits[f"{endpoint}/{account}/throttle"] = wait
        refusal = Refusal(endpoint, account, 400, "the text", NOW_MS - 9, NOW_MS - 1, ["b1", "b2"], ["ann"])
        ledger.refusals[f"{endpoint}/{account}/w-{account}"] = refusal
    return view_of(anthropic=ledger)


@pytest.mark.parametrize(("account", "shown"), [("a1", "a1"), ("a3", ""), ("", "a2")])
def test_cool_downs_are_those_of_the_account_that_the_route_has(account: str, shown: str) -> None:
    """Of all its classes of endpoint; while the account is not known, of the one used last. Never an error's text."""
    view = owned_view()
    view.accounts = {A.id: account} if account else {}
    reading = read(view)
    owners = [(wait.endpoint, wait.account, wait.scope) for wait in reading.waits]
    errors = [(error.endpoint, error.account, error.words) for error in reading.unknown_words]
    expected: dict[str, list[str]] = {"a1": ["messages", "count_tokens"], "a2": ["messages"], "": []}
    assert owners == [(endpoint, shown, "throttle") for endpoint in expected[shown]]
    assert errors == [(endpoint, shown, f"w-{shown}") for endpoint in expected[shown]]
    assert (reading.state == "waiting") is bool(shown)
    assert (reading.unknown_errors, reading.second_opinions) == (7, {"answered": 1, "none": 2})
    assert "the text" not in str(fields_of(reading))


def test_a_reset_hides_unknown_errors_at_once() -> None:
    """Before the route's stream is folded."""
    view = owned_view()
    view.control.resets[A.id] = NOW_MS - 1
    assert (read(view).unknown_words, read(view).waits) == ((), ())


def test_a_rest_that_no_request_fits_into_is_spent() -> None:
    """With its true reset; unless something is under way, or limit or week are others by now."""
    view = view_of(anthropic=used(800))
    plain = read(view, LIMITED)
    view.spent = {A.id: f"{plain.week_start_ms} 1000"}
    reading = read(view, LIMITED)
    assert (plain.state, reading.state, reading.quota) == ("healthy", "quota_spent", "spent")
    assert reading.reason == "weekly limit spent: the 200 tokens left are less than a request may use"
    assert (reading.until_ms, reading.exhausted_at_ms) == (plain.resets_at_ms, 0)
    assert not reading.available
    view.control.limits[A.id] = 1_001
    assert read(view, LIMITED).state == "healthy"
    view.control.limits.clear()
    view.routes[A.id].open["1"] = OpenAttempt(request_id="q", at_ms=NOW_MS, replica="r1")
    assert read(view, LIMITED).state == "healthy"


def test_others_go_before_a_route_whose_rest_is_too_small() -> None:
    """A smaller request may still fit: the route is asked, last."""
    view = view_of(anthropic=used(800))
    view.spent = {A.id: f"{read(view, LIMITED).week_start_ms} 1000"}
    ranked = rank(RoutingRequest(model="claude-opus-4-8"), (LIMITED, S), view, POLICY, NOW_MS)
    assert [(candidate.route.id, candidate.usable) for candidate in ranked] == [(S.id, True), (A.id, True)]


def test_a_reading_survives_its_hash() -> None:
    """What is written for operators is read back as it was, also from a hash that lacks later fields."""
    for reading in (read(full_view(), LIMITED), read(owned_view()), read()):
        fields = {name: str(value) for name, value in fields_of(reading).items()}
        assert reading_of(fields) == reading
    assert reading_of({"route": "a", "title": "A", "state": "healthy"}).windows == ()


@pytest.mark.parametrize("wrong", [{"windows": "[}"}, {"windows": "[7]"}, {"state": "fine"}])
def test_another_versions_hash_is_none(wrong: dict[str, str]) -> None:
    """It is told apart, whatever is in it."""
    with pytest.raises(msgspec.DecodeError):
        reading_of({"route": "a", "title": "A", "state": "healthy"} | wrong)


def test_models_without_a_price_are_those_of_the_week() -> None:
    """From its first hour on, whichever key used them; in the order of their names."""
    free, paid = Usage(attempts=1, unpriced=1), Usage(attempts=1)
    ledger = RouteLedger(
        usage={
            9: {"old": {"k": free}},
            10: {"new": {"k": paid, "l": free}, "known": {"k": paid}},
            11: {"a-newer": {"k": free}},
        }
    )
    assert models_without_price(ledger, 10) == ("a-newer", "new")


def noticed(code: Any, *, usable: bool = False, at_ms: int = NOW_MS - 1) -> ReplicaNotice:
    """What a replica says of the credential."""
    return ReplicaNotice(code=code, usable=usable, message=f"it is {code}", at_ms=at_ms)


def test_notices_are_those_of_live_replicas() -> None:
    """Of all while nobody knows who lives; a notice that all is well is none."""
    ledger = RouteLedger(notices={"a": noticed("expired"), "b": noticed(""), "me": noticed("absent")})
    for live, shown in ((None, ["a", "me"]), (frozenset(), ["me"]), (frozenset("ab"), ["a", "me"])):
        view = replace(view_of(anthropic=ledger), live=live)
        assert [notice.replica for notice in read_notices(ledger, view)] == shown


def test_what_is_wrong_with_a_credential_is_told_before_its_last_refusal() -> None:
    """And a refusal, where nothing else is known."""
    refusal = Wait(at_ms=NOW_MS - 1, kind="credential", status=401)
    notice = NoticeReading("a", "expired", False, "it is expired", NOW_MS)
    told = "its credential was refused when it was used last: credential 401"
    assert describe_credential((), None, None) == ""
    assert describe_credential((), None, refusal) == told
    assert describe_credential([notice], frozenset("a"), refusal) == "it is expired"
    assert describe_credential([notice], frozenset("ab"), None) == "it is expired (on 1 of 2 proxies: a)"


def test_a_degraded_route_names_its_last_failure() -> None:
    """That of the replica that met one last."""
    health = {
        "old": tripped(3, ago_ms=9_000, last_failure_kind="timeout"),
        "new": tripped(3, ago_ms=1_000, last_failure_kind="overloaded"),
    }
    reading = CircuitReading(failures_in_row=3, degraded=True)
    assert describe_failures(reading, RouteLedger(health=health)) == "3 failures in a row, the last: overloaded"
    assert describe_failures(CircuitReading(reason="open"), RouteLedger()) == "open"
    assert describe_failures(CircuitReading(failures_in_row=1), RouteLedger(health=health)) == ""


@pytest.mark.parametrize(("limit", "source"), [(1_000, "settings"), (2_000, "operator")])
def test_whose_limit_holds(limit: int, source: str) -> None:
    """That of the settings is shown beside an operator's."""
    status = read(view_of(ControlLedger(limits={"anthropic": limit})), LIMITED)
    assert (status.limit_tokens, status.limit_source, status.configured_tokens) == (limit, source, 1_000)
