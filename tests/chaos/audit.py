"""Holds the ledger against what the fakes received and what the clients got. It reads; what it finds, it says.

One to one: every request has a mark, which the fakes see in its body and the ledger as its session. So for each route
and mark there must be as many `AttemptStarted` as requests that the provider received. An attempt may have started
without a request only if its proxy was stopped in between: killed, when the attempt has no end of its own, or asked to
end, when the attempt was given up. Both are counted and shown.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, TypeAlias

import msgspec
import psycopg
from msgspec import Struct, field
from msgspec.structs import replace

from service.ledger import wire
from service.ledger.events import AttemptEnded, AttemptLost, AttemptStarted, Event, ResourceUsed, UsageRepriced
from service.ledger.state import RouteLedger
from tests.chaos.fleet import Fate, Fleet, Outage
from tests.chaos.load import WANTED, Asked
from tests.fakes import FakeProvider, Usage
from tests.fakes.language import Received

KINDS = Usage.__struct_fields__
COUNTS = ("attempts", "failed", "aborted", "lost")
MONEY = ("cost_nusd", "unpriced")
GENESIS = bytes(32)
Cells: TypeAlias = dict[tuple[str, int, str, str], Counter[str]]
"""Usage by route, hour, model and client key."""
SHOWN = 8
"""Findings of one kind that are told; more of the same tell no more."""
LATE_S = 0.3
"""A connection that a dying proxy had taken shows its end a moment after the address is listened on again."""

MOST_OUTPUT = 200
"""No text in this load is estimated at more output tokens."""


class Row(NamedTuple):
    """An event as it stands in Postgres."""

    stream: str
    position: int
    body: str
    hash: bytes
    event: Event


class Key(NamedTuple):
    """A mark on a route."""

    route: str
    mark: str


class Tally(Struct):
    """What was counted, and what was wrong."""

    counts: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def find(self, what: str, found: Iterable[object]) -> None:
        """Note what must not be, if there is any."""
        all_found = list(found)
        self.findings += [f"{what}: {one}" for one in all_found[:SHOWN]]
        if len(all_found) > SHOWN:
            self.findings.append(f"{what}: {len(all_found)} in all")

    def same(self, what: str, seen: object, wanted: object) -> None:
        """Note a difference."""
        if seen != wanted:
            self.findings.append(f"{what}: {seen!r}, wanted {wanted!r}")


class Books:
    """The ledger in Postgres, read once."""

    def __init__(self, url: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            query = """SELECT stream, position, body::text, hash FROM ccproxy.events
                UNION ALL SELECT stream, position, body::text, hash FROM ccproxy.control_events ORDER BY 1, 2"""
            rows = connection.execute(query).fetchall()
            self.rows = [
                Row(stream, position, body, bytes(hash_), event_of(body)) for stream, position, body, hash_ in rows
            ]
            query = "SELECT stream, position, hash, state::text FROM ccproxy.checkpoints"
            self.checkpoints: dict[str, tuple[int, bytes, str]] = {row[0]: row[1:] for row in connection.execute(query)}
            names = ", ".join((*COUNTS, *KINDS, *MONEY))
            query = f"SELECT route, extract(epoch FROM hour)::bigint / 3600, model, client_key, {names} FROM ccproxy.usage_hourly"  # noqa: S608, E501 - our own words
            self.usage = {row[:4]: row[4:] for row in connection.execute(query.encode())}
            self.odd = [
                row
                for table in ("dead_letters", "quarantine")
                for row in connection.execute(f"SELECT '{table}', stream, reason FROM ccproxy.{table}".encode())  # noqa: S608 - our own names
            ]
        self.started = [(row.stream, row.event) for row in self.rows if isinstance(row.event, AttemptStarted)]
        self.ends = [(row.stream, row.event) for row in self.rows if isinstance(row.event, AttemptEnded)]
        self.lost = [(row.stream, row.event) for row in self.rows if isinstance(row.event, AttemptLost)]
        self.end_of = {event.attempt_id: event for _, event in self.ends}


def event_of(body: str) -> Event:
    event = wire.decode_event(body.encode())
    assert not isinstance(event, wire.Undecodable), body
    return event


def audit(fleet: Fleet, asked: Sequence[Asked]) -> Tally:
    """Everything that must hold, once all is quiet."""
    tally = Tally()
    books = Books(fleet.postgres.url)
    check_chain(books, tally)
    check_once(books, tally)
    check_usage(books, tally)
    check_sessions(books, fleet.anthropic.resources.sessions, tally)
    check_attempts(books, fleet.fakes, fleet.fates, tally)
    check_lost(books, fleet.fates, tally)
    check_clients(asked, [proxy.outages for proxy in fleet.proxies], tally)
    check_answers(books, asked, tally)
    check_snapshots(books, fleet, tally)
    tally.find("traceback", (f"{name}\n{tail(text)}" for name, text in fleet.logs() if "Traceback" in text))
    return tally


def tail(text: str) -> str:
    """The last traceback of a log."""
    return text[text.rindex("Traceback") :][:3000]


def check_chain(books: Books, tally: Tally) -> None:
    """Positions have no gap, every hash follows from the one before, and the checkpoint stands at the end."""
    heads = dict.fromkeys(books.checkpoints, (0, GENESIS))
    for row in books.rows:
        position, chained = heads[row.stream]
        chained = sha256(chained + row.body.encode()).digest()
        if row.position != position + 1 or row.hash != chained:
            tally.findings.append(f"chain: {row.stream} at {row.position} after {position}")
        heads[row.stream] = row.position, row.hash
    ends = {stream: checkpoint[:2] for stream, checkpoint in books.checkpoints.items()}
    tally.same("checkpoints", ends, heads)
    tally.counts["events"] = len(books.rows)


def check_once(books: Books, tally: Tally) -> None:
    """No event twice under two ids, nothing set aside, no number missing but of what was killed before it spoke."""
    numbers = Counter((row.stream, row.event.replica, row.event.seq) for row in books.rows if row.event.replica)
    tally.find("a number twice", (number for number, times in numbers.items() if times > 1))
    tally.find("set aside", books.odd)
    ends = Counter(event.attempt_id for _, event in books.ends)
    tally.find("two ends", (attempt for attempt, times in ends.items() if times > 1))
    started = {event.event_id for _, event in books.started}
    tally.find("an end without a start", sorted(set(ends) - started))
    highest: dict[tuple[str, str], int] = {}
    for stream, replica, seq in numbers:
        highest[stream, replica] = max(highest.get((stream, replica), 0), seq)
    sizes = Counter((stream, replica) for stream, replica, _ in numbers)
    tally.find("numbers missing", ((*key, high - sizes[key]) for key, high in highest.items() if high != sizes[key]))


def check_usage(books: Books, tally: Tally) -> None:
    """The hourly usage is the sum over the events."""
    cells: Cells = {}
    lost = [(stream, event) for stream, event in books.lost if event.attempt_id not in books.end_of]
    counted: list[tuple[str, AttemptEnded | AttemptLost]] = [*books.ends, *lost]
    for stream, event in counted:
        cell = cells.setdefault((stream, event.at_ms // 3_600_000, event.model_sent, event.client_key), Counter())
        outcome = event.outcome if isinstance(event, AttemptEnded) else "lost"
        cell.update({"attempts": 1, outcome: 1, **{kind: getattr(event.tokens, kind) for kind in KINDS}})
        cell.update({"cost_nusd": event.cost_nusd or 0, "unpriced": int(event.cost_nusd is None)})
    add_growth(cells, books)
    add_prices(cells, books)
    names = (*COUNTS, *KINDS, *MONEY)
    wanted = {key: tuple(cell[name] for name in names) for key, cell in cells.items()}
    nothing = (0,) * len(names)
    found = {key: tuple(map(int, row)) for key, row in books.usage.items() if tuple(row) != nothing}
    tally.same("usage_hourly", found, {key: row for key, row in wanted.items() if row != nothing})


def add_growth(cells: Cells, books: Books) -> None:
    """What sessions have grown: of each kind of token the highest that the whole or the sum of its parts has shown."""
    shown: dict[str, dict[str, ResourceUsed]] = {}
    booked: dict[str, Usage] = {}
    for row in books.rows:
        event = row.event
        if not isinstance(event, ResourceUsed):
            continue
        parts = shown.setdefault(event.resource_id, {})
        parts[event.part] = max(parts.get(event.part, event), event, key=lambda one: one.tokens.input)
        before = booked.get(event.resource_id, Usage(input=0, output=0))
        booked[event.resource_id] = now = Usage(*(highest_of(kind, parts, before) for kind in KINDS))
        grown = {kind: getattr(now, kind) - getattr(before, kind) for kind in KINDS}
        cell = cells.setdefault((row.stream, event.at_ms // 3_600_000, event.model, event.client_key), Counter())
        rates = event.rates_nusd
        assert rates is not None, event
        cost_nusd = sum(grown[kind] * getattr(rates, kind) for kind in KINDS) // 10**6
        cell.update(grown | {"cost_nusd": cost_nusd})


def highest_of(kind: str, parts: Mapping[str, ResourceUsed], before: Usage) -> int:
    """The highest count of a kind of token that readings prove."""
    threads = sum(getattr(event.tokens, kind) for part, event in parts.items() if part)
    whole: int = getattr(parts[""].tokens, kind) if "" in parts else 0
    booked: int = getattr(before, kind)
    return max(int(threads), whole, booked)


def add_prices(cells: Cells, books: Books) -> None:
    """What usage costs since it was priced again; estimates for which an end came have no price any more."""
    for row in books.rows:
        event = row.event
        if not isinstance(event, UsageRepriced) or (event.of_lost and event.attempt_id in books.end_of):
            continue
        for change in event.changes:
            cell = cells[row.stream, event.at_ms // 3_600_000, change.model, event.client_key]
            cell["cost_nusd"] += (change.cost_nusd or 0) - (change.was_nusd or 0)
            cell["unpriced"] += (change.cost_nusd is None) - (change.was_nusd is None)


def check_sessions(books: Books, totals: Mapping[str, int], tally: Tally) -> None:
    """Each session is booked as what the provider says of it in the end, once, whoever polled it."""
    readings = [row.event for row in books.rows if isinstance(row.event, ResourceUsed)]
    tally.counts["readings of sessions"] = len(readings)
    tally.counts["prices after others"] = sum(isinstance(row.event, UsageRepriced) for row in books.rows)
    for name, tokens in totals.items():
        highest = max(
            (event.tokens.input for event in readings if (event.resource_id, event.part) == (name, "")), default=0
        )
        tally.same(f"the highest reading of {name}", highest, tokens)


def check_attempts(books: Books, fakes: Mapping[str, FakeProvider], fates: Mapping[int, Fate], tally: Tally) -> None:
    """Attempts and requests are one to one; tokens are exact."""
    attempts: dict[Key, list[AttemptStarted]] = {}
    for route, event in books.started:
        attempts.setdefault(Key(route, event.session_id), []).append(event)
    served: dict[Key, list[Usage]] = {}
    for route, fake in fakes.items():
        answers = {one.index: one.usage for one in fake.served}
        for request in fake.requests:
            usage = answers.get(request.index, Usage())
            served.setdefault(Key(route, mark_of(request)), []).append(usage)
    tally.counts["attempts"] = len(books.started)
    tally.counts["requests at the providers"] = sum(len(usages) for usages in served.values())
    unsent = Counter[str]()
    for key in sorted(attempts.keys() | served.keys()):
        mine, theirs = attempts.get(key, []), served.get(key, [])
        if len(mine) < len(theirs):
            tally.findings.append(f"a request without its attempt: {key}")
        missing = len(mine) - len(theirs)
        excuses = sorted(filter(None, (excuse_of(one, books, fates) for one in mine)))
        if missing > len(excuses):
            ends = [books.end_of.get(one.event_id) for one in mine]
            tally.findings.append(f"an attempt without its request: {key} {ends}")
        unsent.update(excuses[: max(0, missing)])
        check_tokens(key, mine, theirs, books, tally)
    for excuse in ("killed", "asked to end"):
        tally.counts[f"started, never sent (proxy {excuse})"] = unsent[excuse]


def mark_of(request: Received) -> str:
    """The mark in a request's body, or in its query."""
    if not request.body:
        return request.query.removeprefix("mark=")
    found: dict[str, Any] = msgspec.json.decode(request.body)
    words: str = found["messages"][0]["content"]
    return words.removeprefix("mark ")


def excuse_of(started: AttemptStarted, books: Books, fates: Mapping[int, Fate]) -> str:
    """Why no request of this attempt need have come: its proxy was stopped before it could send."""
    fate = fates.get(pid_of(started.replica), Fate())
    end = books.end_of.get(started.event_id)
    if end is None:
        return "killed" if fate.killed else ""
    return "asked to end" if fate.ended and end.outcome == "aborted" else ""


def check_tokens(
    key: Key, attempts: Sequence[AttemptStarted], served: Sequence[Usage], books: Books, tally: Tally
) -> None:
    """What attempts that ended by themselves say they used is what the provider says it served. Of a stream that broke
    off, the output is estimated from what had come, at least what was said of it: the rest is as the provider says."""
    left = Counter(served)
    for started in attempts:
        end = books.end_of.get(started.event_id)
        if end is None or end.outcome == "aborted":
            continue
        usage = Usage(*(getattr(end.tokens, kind) for kind in KINDS))
        if not left[usage] and end.outcome == "failed":
            usage = next((one for one in left.elements() if is_estimate(usage, one)), usage)
        if not left[usage]:
            tally.findings.append(f"tokens: {key} {end.outcome} {usage}, served {list(served)}")
        left[usage] -= 1


def is_estimate(usage: Usage, served: Usage) -> bool:
    """Whether a usage is what was served, but for an output that may be estimated."""
    return replace(usage, output=served.output) == served and served.output < usage.output <= MOST_OUTPUT


def check_lost(books: Books, fates: Mapping[int, Fate], tally: Tally) -> None:
    """What has no end, or was closed as lost, belongs to a proxy that was killed."""
    tally.counts["closed as lost"] = len(books.lost)
    tally.counts["lost, and ended after all"] = sum(event.attempt_id in books.end_of for _, event in books.lost)
    replica_of = {event.event_id: event.replica for _, event in books.started}
    closed = {event.attempt_id for _, event in books.lost}
    still_open = [event for _, event in books.started if event.event_id not in books.end_of]
    tally.counts["without an end"] = len(still_open)
    tally.counts["of these still open"] = sum(event.event_id not in closed for event in still_open)
    died = {replica for replica in replica_of.values() if fates.get(pid_of(replica), Fate()).killed}
    tally.find("no end, though its proxy lived", (e for e in still_open if e.replica not in died))
    tally.find("lost, though its proxy lived", (e for _, e in books.lost if replica_of.get(e.attempt_id) not in died))
    in_state = {
        attempt
        for stream, (_, _, state) in books.checkpoints.items()
        if isinstance(ledger := wire.decode_state(stream, state.encode()), RouteLedger)
        for attempt in ledger.open
    }
    tally.same("open in the checkpoints", in_state, {event.event_id for event in still_open} - closed)


def pid_of(replica: str) -> int:
    """The process that a replica was."""
    return int(replica.rsplit("-", 2)[-2])


def check_clients(asked: Sequence[Asked], outages: Sequence[Sequence[Outage]], tally: Tally) -> None:
    """Every request ended in its time, and as it must unless its proxy was stopped meanwhile."""
    tally.counts["requests"] = len(asked)
    tally.counts["complete answers"] = sum(one.end == "complete" for one in asked)
    tally.find("a client hangs", (one for one in asked if one.end == "hung" or not one.ended_s))
    tally.find("an answer ended in order, but not whole", (one for one in asked if one.end == "cut"))
    odd = [one for one in asked if one.end not in (*WANTED[one.kind], "hung", "cut")]
    excused = [one for one in odd if any(overlap(one, outage) for outage in outages[one.proxy])]
    tally.counts["cut short by their proxy's end"] = len(excused)
    tally.find("a client saw an error", (one for one in odd if one not in excused))


def overlap(asked: Asked, outage: Outage) -> bool:
    """Whether a request was under way while its proxy was stopped."""
    return asked.began_s <= outage.ended_s + LATE_S and outage.began_s <= asked.ended_s


def check_answers(books: Books, asked: Sequence[Asked], tally: Tally) -> None:
    """Nobody holds a complete answer that the ledger does not; nor a complete error of a provider."""
    finals = {event.request_id: (route, event) for route, event in books.ends if event.final}
    for one in asked:
        if one.end not in ("complete", "error event", "error status") or not one.attempts:
            continue
        route, event = finals.get(one.request_id, ("", None))
        wanted = "ok" if one.end == "complete" else "failed"
        if event is None or event.outcome != wanted or (one.end == "complete" and route != one.route):
            tally.findings.append(f"an answer that the ledger does not know: {one} {route} {event}")


def check_snapshots(books: Books, fleet: Fleet, tally: Tally) -> None:
    """What stands in Redis for the proxies is what stands in Postgres."""
    with fleet.redis() as redis:
        for stream, (position, _, state) in books.checkpoints.items():
            raw = redis.get(wire.snapshot_key(stream))
            snapshot = wire.decode_snapshot(raw.encode()) if isinstance(raw, str) else None
            if snapshot is None or snapshot.position != position:
                tally.findings.append(f"snapshot of {stream}: {snapshot and snapshot.position}, wanted {position}")
                continue
            ledger = wire.decode_ledger(stream, snapshot.ledger)
            if isinstance(ledger, RouteLedger):
                told = sum(one.attempts for one in ledger.hours.values())
                tally.same(f"attempts in the snapshot of {stream}", told, attempts_of(books, stream))
                ledger.usage, ledger.hours = {}, {}
            tally.same(
                f"state of {stream}",
                wire.encode_ledger(ledger),
                wire.encode_ledger(wire.decode_state(stream, state.encode())),
            )


def attempts_of(books: Books, route: str) -> int:
    """The attempts of a route in the hourly usage."""
    return sum(int(row[0]) for key, row in books.usage.items() if key[0] == route)
