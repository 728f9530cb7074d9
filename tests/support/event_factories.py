"""Events, and logs of them, for the tests of the ledger. Ids follow from numbers, so that a failing run is replayed."""

from collections.abc import Sequence
from typing import Any, TypeAlias, get_args

import msgspec
from hypothesis import strategies as st

from service.ledger import fold, ids
from service.ledger.events import (
    FOLD_RULES,
    AttemptEnded,
    AttemptLost,
    AttemptStarted,
    BatchItemUsed,
    NoticeCode,
    ResourceCreated,
    RouteEvent,
    RouteNotice,
    RouteReset,
    TokenCounts,
    Window,
)
from service.ledger.state import RouteLedger

NOW_MS = 1_789_000_000_000
"""A noon in September 2026."""
SECOND_MS = 1_000
MODEL = "claude-sonnet-4-5"

Log: TypeAlias = list[RouteEvent]


def id_of(number: int, at_ms: int = NOW_MS) -> str:
    """The UUIDv7 of this time and number."""
    return ids.uuid7(at_ms, number)


def started(number: int = 1, at_ms: int = NOW_MS, **fields: Any) -> AttemptStarted:
    """Attempt `number` begins."""
    values = {"replica": "r1", "seq": number, "request_id": f"q{number}", "model_sent": MODEL}
    return AttemptStarted(event_id=id_of(number, at_ms), at_ms=at_ms, **(values | fields))  # type: ignore[arg-type]


def ended(number: int = 1, at_ms: int = NOW_MS, **fields: Any) -> AttemptEnded:
    """Attempt `number`, a second long, has ended well with 10 tokens in and 5 out, unless `fields` say otherwise."""
    values: dict[str, Any] = {
        "replica": "r1",
        "seq": number,
        "attempt_id": id_of(number, at_ms),
        "request_id": f"q{number}",
        "started_at_ms": at_ms - SECOND_MS,
        "outcome": "ok",
        "status": 200,
        "model_sent": MODEL,
        "client_key": "alice",
        "tokens": TokenCounts(input=10, output=5),
        "cost_nusd": 1_000,
    }
    return AttemptEnded(event_id=ids.ended_id(id_of(number, at_ms)), at_ms=at_ms, **(values | fields))


def failed(number: int = 1, at_ms: int = NOW_MS, **fields: Any) -> AttemptEnded:
    """Attempt `number` has ended with a 500 of the route, unless `fields` say otherwise."""
    values: dict[str, Any] = {"outcome": "failed", "kind": "server_error", "scope": "route", "status": 500}
    return ended(number, at_ms, **(values | {"tokens": TokenCounts()} | fields))


def lost(number: int = 1, at_ms: int = NOW_MS, **fields: Any) -> AttemptLost:
    """Attempt `number` was given up, at an estimate of 10 tokens in."""
    values: dict[str, Any] = {"model_sent": MODEL, "client_key": "alice", "tokens": TokenCounts(input=10)}
    return AttemptLost(
        event_id=ids.lost_id(id_of(number, at_ms)),
        at_ms=at_ms,
        attempt_id=id_of(number, at_ms),
        request_id=f"q{number}",
        started_at_ms=at_ms - SECOND_MS,
        **(values | fields),
    )


def batch_item(number: int = 1, at_ms: int = NOW_MS, **fields: Any) -> BatchItemUsed:
    """An item of a batch used 10 tokens in."""
    values: dict[str, Any] = {"model_sent": MODEL, "client_key": "alice", "tokens": TokenCounts(input=10)}
    named = {"batch_id": "msgbatch_1", "custom_id": f"item-{number}"}
    return BatchItemUsed(event_id=id_of(number, at_ms), at_ms=at_ms, **(named | values | fields))


def after(*events: RouteEvent) -> RouteLedger:
    """The ledger after these events."""
    return fold.fold_route(RouteLedger(), events)


def distinct(log: Sequence[RouteEvent]) -> Log:
    """Each event where it stands first, as the workers fold it."""
    return list({event.event_id: event for event in log}.values())


MOMENTS = st.builds(
    lambda hours, ms: NOW_MS + hours * fold.HOUR_MS + ms,
    st.sampled_from([0, 0, 1, 30, fold.KEPT_HOURS - 1, fold.KEPT_HOURS + 40]),
    st.integers(0, 200_000),
)
ENDS: list[dict[str, Any]] = [
    {},
    {"slow": True},
    {"endpoint": "count_tokens"},
    {"outcome": "aborted"},
    {"outcome": "failed", "kind": "overloaded", "scope": "provider", "status": 529},
    {"outcome": "failed", "kind": "server_error", "scope": "route", "status": 500, "retry_at_ms": NOW_MS + 70_000},
    {"outcome": "failed", "kind": "connect", "scope": "route", "session_id": "s2"},
    {"outcome": "failed", "kind": "timeout", "scope": "route", "body": "b1", "session_id": "s1"},
    {"outcome": "failed", "kind": "server_error", "scope": "route", "status": 500, "probe": True},
    {"probe": True, "account": "a1"},
    {"outcome": "failed", "kind": "bad_request", "scope": "request", "status": 400, "words": "w1", "body": "b1"},
    {
        "outcome": "failed",
        "kind": "quota",
        "scope": "quota",
        "status": 429,
        "account": "a1",
        "endpoint": "count_tokens",
    },
    {"outcome": "failed", "kind": "throttle", "scope": "throttle", "status": 429},
    {"outcome": "failed", "kind": "quota", "scope": "quota", "status": 429, "retry_at_ms": NOW_MS + 90_000},
    {"outcome": "failed", "kind": "credential", "scope": "credential", "status": 401},
    {"outcome": "failed", "kind": "model_missing", "scope": "model", "status": 404},
    {"outcome": "failed", "kind": "bad_request", "scope": "request", "status": 400},
    {"windows": {"5h": Window(used_ratio=0.5, resets_at_ms=NOW_MS, status="allowed")}},
]
PARTS = [
    (started, ended),
    (started, ended),
    (started,),
    (ended,),
    (started, lost),
    (started, lost, ended),
    (lost, ended),
]
"""What is written of an attempt, in the order in which it happens."""


@st.composite
def attempts(draw: st.DrawFn, number: int, replica: str, seq: int) -> Log:
    """The events of an attempt, numbered by its replica from `seq` on."""
    fields: dict[str, Any] = {"replica": replica, "client_key": draw(st.sampled_from(["", "alice"]))}
    fields["model_sent"] = draw(st.sampled_from(["m1", "m2", fold.OTHER_MODEL, "m" * (fold.MODEL_BYTES + 1)]))
    made: Log = []
    begun_ms = draw(MOMENTS)
    for makes in draw(st.sampled_from(PARTS)):
        more = dict(fields)
        if makes is not started:
            amounts = draw(st.integers(0, 10**5 - 1))
            more["fold_rules"] = draw(st.integers(0, FOLD_RULES))
            more["tokens"] = TokenCounts(*(amounts // 10**place % 10 for place in range(5)))
        if makes is ended:
            more |= {"cost_nusd": draw(st.sampled_from([None, 7])), "spooled": draw(st.booleans())}
            more |= draw(st.sampled_from(ENDS))
        at_ms = begun_ms if makes is started else draw(MOMENTS)
        event = makes(number, at_ms, **(more | {"seq": seq + len(made)}))
        made.append(of_attempt(event, id_of(number, begun_ms)))
    return made


def of_attempt(event: RouteEvent, attempt_id: str) -> RouteEvent:
    """The event, under the ids that belong to this attempt."""
    if isinstance(event, AttemptEnded):
        return msgspec.structs.replace(event, event_id=ids.ended_id(attempt_id), attempt_id=attempt_id)
    if isinstance(event, AttemptLost):
        return msgspec.structs.replace(event, event_id=ids.lost_id(attempt_id), attempt_id=attempt_id)
    return event


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """What several replicas wrote, in any order: what waited on disk comes late, what was doubted comes again."""
    written: Log = []
    for replica in range(1, draw(st.integers(1, 3)) + 1):
        seq = 1
        for number in range(draw(st.integers(0, 4))):
            made = draw(attempts(100 * replica + number, f"r{replica}", seq))
            seq += len(made)
            written += made
    if draw(st.booleans()):
        written.append(batch_item(998, replica="r9", seq=1))
        written.append(ResourceCreated(event_id=id_of(999), at_ms=NOW_MS, resource_id="batch_1", resource_kind="batch"))
    for seq in range(1, draw(st.integers(0, 2)) + 1):
        code: NoticeCode = draw(st.sampled_from(get_args(NoticeCode)))
        written.append(RouteNotice(event_id=id_of(990 + seq), at_ms=draw(MOMENTS), replica="r7", seq=seq, code=code))
    if draw(st.booleans()):
        written.append(RouteReset(event_id=id_of(997), at_ms=draw(MOMENTS), replica="r8", seq=1))
    again = draw(st.lists(st.sampled_from(written), max_size=4)) if written else []
    return draw(st.permutations([*written, *again]))


def plain(ledger: RouteLedger) -> Any:
    """A ledger as plain values, which can be compared and shown."""
    return msgspec.to_builtins(ledger)
