"""What the ledger says, read from Postgres, and from Redis by `ccproxy status`: the tests' own arithmetic over it."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import psycopg
from redis import RedisError

from service.ledger import wire
from tests.fakes import FakeProvider, Usage
from tests.support.installation import Installation
from tests.support.processes import run
from tests.support.waiting import eventually, settles_to

KINDS = Usage.__struct_fields__


class Cell(NamedTuple):
    """Whose tokens: as `usage_hourly` has them, hours together."""

    route: str
    model: str
    client_key: str


class Counted(NamedTuple):
    """Attempts and tokens."""

    attempts: int = 0
    failed: int = 0
    aborted: int = 0
    usage: Usage = Usage()

    def plus(self, other: "Counted") -> "Counted":
        """The sum."""
        return Counted(
            self.attempts + other.attempts,
            self.failed + other.failed,
            self.aborted + other.aborted,
            self.usage + other.usage,
        )


class LedgerReader:
    """Questions to the ledger of an installation."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """What Postgres answers."""
        with psycopg.connect(self.installation.postgres.url, autocommit=True) as connection:
            return connection.execute(query.encode(), parameters).fetchall()

    def number(self, query: str, *parameters: object) -> int:
        """The one number that Postgres answers."""
        return int(self.rows(query, *parameters)[0][0])

    def ended(self, request_ids: Sequence[str]) -> list[dict[str, Any]]:
        """The ends of these requests' attempts, in the order in which they were made, however soon one came after the
        other: within a millisecond, the final one is the last.
        """
        query = """SELECT stream, body FROM ccproxy.events WHERE type = 'attempt_ended' AND request_id = ANY(%s)
            ORDER BY (body->>'started_at_ms')::bigint, at_ms, coalesce((body->>'final')::boolean, true), event_id"""
        return [{"route": stream, **body} for stream, body in self.rows(query, list(request_ids))]

    def wait_for_ends(self, request_id: str, number: int = 1) -> list[dict[str, Any]]:
        """The same for one request, once there are so many."""
        return eventually(lambda: ends if len(ends := self.ended([request_id])) >= number else None) or []

    def usage(self, where: str = "true", *parameters: object) -> dict[Cell, Counted]:
        """The hourly usage, hours together, of the rows that satisfy `where`."""
        columns = ", ".join(f"sum({name})::bigint" for name in ("attempts", "failed", "aborted", *KINDS))
        query = f"SELECT route, model, client_key, {columns} FROM ccproxy.usage_hourly WHERE {where} GROUP BY 1, 2, 3"  # noqa: S608 - the tests' own words
        return {
            Cell(*row[:3]): Counted(row[3], row[4], row[5], Usage(*row[6:])) for row in self.rows(query, *parameters)
        }

    def route_totals(self) -> dict[str, Counted]:
        """All usage by route."""
        totals: dict[str, Counted] = {}
        for cell, counted in self.usage().items():
            totals[cell.route] = totals.get(cell.route, Counted()).plus(counted)
        return totals

    def is_settled(self) -> bool:
        """Whether Postgres has all that stands on the streams; not while Redis fails over."""
        try:
            with self.installation.redis() as redis:
                streams = sorted(name.decode() for name in redis.smembers(wire.STREAMS_KEY))
                last = {name: redis.xrevrange(wire.events_key(name), count=1) for name in streams}
        except RedisError:
            return False
        ends = {name: entries[0][0].decode() for name, entries in last.items() if entries}
        folded = dict(self.rows("SELECT stream, stream_id FROM ccproxy.checkpoints"))
        return all(folded.get(name) == end for name, end in ends.items())

    def settle(self) -> None:
        """Wait until it has."""
        eventually(self.is_settled)

    def check_sound(self) -> None:
        """Nothing odd was seen: no dead letter, no contradiction, no gap in a replica's numbers, an unbroken count."""
        assert self.rows("SELECT stream, reason FROM ccproxy.dead_letters") == []
        assert self.rows("SELECT stream, reason FROM ccproxy.quarantine") == []
        query = """SELECT stream, count(*), max(position), count(DISTINCT position) FROM ccproxy.events GROUP BY 1"""
        for stream, count, last, distinct in self.rows(query):
            assert (last, distinct) == (count, count), stream

    def check_against(self, routes: dict[str, FakeProvider]) -> None:
        """Each request that a fake received is one attempt, with its tokens, in events and projections alike."""
        wanted = {
            route: (len(fake.requests), sum((served.usage for served in fake.served), Usage()))
            for route, fake in routes.items()
        }
        settles_to(wanted, lambda: {route: self._counted(route) for route in routes})
        self.settle()
        assert {route: self._counted(route) for route in routes} == wanted
        assert {route: self._in_events(route) for route in routes} == wanted
        self.check_sound()

    def _counted(self, route: str) -> tuple[int, Usage]:
        counted = self.route_totals().get(route, Counted())
        return counted.attempts, counted.usage

    def _in_events(self, route: str) -> tuple[int, Usage]:
        sums = ", ".join(f"coalesce(sum((body->'tokens'->>'{kind}')::bigint), 0)" for kind in KINDS)
        query = f"SELECT count(*), {sums} FROM ccproxy.events WHERE stream = %s AND type = 'attempt_ended'"  # noqa: S608 - our own names
        count, *tokens = self.rows(query, route)[0]
        return count, Usage(*(int(token) for token in tokens))

    def status(self) -> dict[str, Any]:
        """What `ccproxy status --json` says."""
        variables = self.installation.addresses | self.installation.upstreams
        status, said = run("status", "--json", home=self.installation.folder / "status", variables=variables)
        assert status == 0, said
        found: dict[str, Any] = json.loads(said)
        return found


def added(before: dict[Cell, Counted], after: dict[Cell, Counted]) -> dict[Cell, Counted]:
    """What has come between two looks at the usage."""
    found = {}
    for cell, counted in after.items():
        was = before.get(cell, Counted())
        usage = Usage(*(getattr(counted.usage, kind) - getattr(was.usage, kind) for kind in KINDS))
        more = Counted(
            counted.attempts - was.attempts, counted.failed - was.failed, counted.aborted - was.aborted, usage
        )
        if more != Counted():
            found[cell] = more
    return found


def doubled(ids: Iterable[str]) -> list[str]:
    """What occurs more than once."""
    return [one for one, times in Counter(ids).items() if times > 1]
