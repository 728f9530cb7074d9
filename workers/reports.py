"""Reports that need Postgres, by name, with JSON-compatible arguments and results.

Their shapes are those of the admin API. An invalid request raises Refused with a message for its sender. Not here: the
queue (`report_service`) and the fold.
"""

import re
from datetime import UTC, datetime
from threading import Event
from typing import Any

from redis import Redis

from service.ledger import ids, wire
from workers.archive import Archive
from workers.consume import Streams
from workers.project import Projector
from workers.publish import Publisher
from workers.store import QUERIES, PostgresAddress, Store
from workers.turn import StreamBusy, run_step
from workers.usage import DIMENSIONS, Period, Report, UsageSum, dimensions_of, fields_of, period_of, report

LATENCY_DIMENSIONS = ("hour", "day", "route", "model")
LATENCY_HOURS = 8 * 24
MOST_ROWS = 5_000
MAX_TRIES = 60
LAST_MS = 2**48 - 1
"""The latest time that an event id (UUIDv7) can hold."""
REQUEST_ID = re.compile(r"[0-9a-f]{18}")
BEFORE_MS, AFTER_MS = 60_000, 7_200_000
FILTERS = ("stream", "type", "route", "key", "model", "request", "outcome")
LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"
KINDS = {"dead": "dead letter", "quarantined": "quarantine"}


class Refused(Exception):
    """The request for a report is invalid; the message says why."""


class Reports:
    """Makes reports from one archive. `redis` is the ledger's, to publish replayed events."""

    def __init__(self, archive: Archive, postgres: PostgresAddress, redis: Redis) -> None:
        self._archive = archive
        self._postgres = postgres
        self._redis = redis
        self._made: dict[str, Any] = {
            "usage": self.usage,
            "latency": self.latency,
            "events": self.events,
            "request": self.request,
            "put_aside": self.set_aside,
            "replay": self.replay,
            "drop": self.drop,
        }

    def make(self, name: str, arguments: dict[str, Any]) -> Any:
        """Make a report by name. Raises Refused, psycopg.Error, RedisError."""
        if name not in self._made:
            raise Refused(f"the workers do not know the report {name!r}; upgrade them")
        return self._made[name](**arguments)

    def usage(self, *, since: str, until: str, by: str, route: str, model: str, key: str) -> dict[str, Any]:
        """Return usage in whole hours, grouped by any of the dimensions."""
        period = requested_period(since, until)
        dimensions = requested_dimensions(by, DIMENSIONS)
        found = report(self._archive, period, dimensions, route=route, model=model, key=key)
        if len(found.rows) > MOST_ROWS:
            raise Refused(f"more than {MOST_ROWS:,} rows; choose a shorter period or fewer groups")
        return usage_fields(found)

    def latency(self, *, since: str, until: str, by: str) -> dict[str, Any]:
        """Return latency percentiles of answered attempts."""
        period = requested_period(since, until)
        if (period.until - period.since).total_seconds() > LATENCY_HOURS * 3600:
            raise Refused(f"latency is available for at most {LATENCY_HOURS // 24} days")
        dimensions = requested_dimensions(by, LATENCY_DIMENSIONS)
        parameters: dict[str, Any] = {name: name in dimensions for name in LATENCY_DIMENSIONS}
        parameters |= {"since": ms_of(period.since), "until": ms_of(period.until), "limit": MOST_ROWS}
        parameters |= {"first": id_at(ms_of(period.since) - AFTER_MS), "last": id_at(ms_of(period.until))}
        rows = self._archive.connection.execute(QUERIES["latency_report"], parameters).fetchall()
        return {
            **period_fields(period),
            "by": list(dimensions),
            "rows": [latency_fields(row, dimensions) for row in rows],
        }

    def events(self, *, before: str, limit: int, since: int, until: int, **filters: str) -> dict[str, Any]:
        """Return events before an id, newest first, and the id at which the next page starts ("" if there is none)."""
        parameters: dict[str, Any] = {name: filters.get(name, "") for name in FILTERS}
        parameters |= {
            "before": before or LAST_ID,
            "first": id_at(max(0, since - AFTER_MS)),
            "since": since,
            "until": until or 2**62,
            "limit": limit,
        }
        rows = self._archive.connection.execute(QUERIES["events_page"], parameters).fetchall()
        return {"rows": [event_fields(row) for row in rows], "next": rows[-1][0] if len(rows) == limit else ""}

    def request(self, *, request_id: str) -> list[dict[str, Any]]:
        """Return all events of a request; the time is taken from its id."""
        if not REQUEST_ID.fullmatch(request_id):
            return []
        at_ms = ids.time_of_request_id_ms(request_id)
        parameters = {
            "request": request_id,
            "first": id_at(max(0, at_ms - BEFORE_MS)),
            "last": id_at(at_ms + AFTER_MS),
        }
        rows = self._archive.connection.execute(QUERIES["events_of_request"], parameters).fetchall()
        return [event_fields(row) for row in rows]

    def set_aside(self, *, stream: str, limit: int) -> dict[str, Any]:
        """Return dead letters and quarantined events, newest first, and their counts."""
        parameters = {"stream": stream or None, "limit": limit}
        rows = self._archive.connection.execute(QUERIES["put_aside_page"], parameters).fetchall()
        counts = [self._archive.set_aside_counts(name) for name in self._streams(stream)]
        return {
            "rows": [set_aside_fields(row) for row in rows],
            "dead_letters": sum(dead for dead, _ in counts),
            "quarantined": sum(quarantined for _, quarantined in counts),
        }

    def replay(self, *, stream: str) -> dict[str, int]:
        """Fold the dead letters that this version can decode."""
        read = left = 0
        for name in self._streams(stream):
            before, _ = self._archive.set_aside_counts(name)
            if before:
                self._replay_stream(name)
                after, _ = self._archive.set_aside_counts(name)
                read, left = read + max(0, before - after), left + after
        return {"read": read, "left": left}

    def drop(self, *, ids: list[str], by: str) -> dict[str, int]:  # noqa: ARG002 - for the service's log
        """Delete dead letters or quarantined events for good; their numbers stay acknowledged."""
        wanted: dict[str, list[bytes]] = {}
        for row_id in ids:
            stream, _, digest = row_id.rpartition("/")
            try:
                wanted.setdefault(stream, []).append(bytes.fromhex(digest))
            except ValueError:
                raise Refused(f"{row_id!r} is not the id of a dead letter or quarantined event") from None
        dropped = 0
        for stream, digests in sorted(wanted.items()):
            dropped += self._drop(stream, digests)
        return {"dropped": dropped}

    def _drop(self, stream: str, digests: list[bytes]) -> int:
        connection = self._archive.connection
        with connection.transaction():
            checkpoint = self._archive.await_checkpoint(stream)
            if checkpoint is None:
                return 0
            dead = connection.execute(QUERIES["drop_dead_letters"], (stream, digests)).rowcount
            quarantined = connection.execute(QUERIES["drop_quarantined"], (stream, digests)).rowcount
            left = checkpoint._replace(dead=checkpoint.dead - dead, quarantined=checkpoint.quarantined - quarantined)
            self._archive.save_checkpoint(left)
        # Nothing was folded, so no snapshot follows: update the count for operators directly.
        self._redis.hset(wire.route_key(stream), mapping={"dead": left.dead, "quarantined": left.quarantined})
        return dead + quarantined

    def _replay_stream(self, stream: str) -> None:
        """Fold the stream's decodable dead letters and publish it."""
        store = Store(self._postgres)
        try:
            projector = Projector(store, Streams(self._redis))
            run_step(projector, Publisher(self._redis, Event()), lambda one: one.retry_dead_letters(stream), MAX_TRIES)
        except StreamBusy:
            raise Refused(f"{stream}: workers are still busy with it; try again") from None
        finally:
            store.close()

    def _streams(self, stream: str) -> list[str]:
        known = self._archive.streams()
        return [name for name in known if stream in ("", name)]


def requested_period(since: str, until: str) -> Period:
    """Parse a period of whole hours. Raises Refused."""
    try:
        return period_of(since or None, until or None, datetime.now(UTC))
    except (ValueError, OverflowError) as error:
        raise Refused(str(error)) from None


def requested_dimensions(by: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Parse the dimensions to group by. Raises Refused."""
    try:
        return dimensions_of([by], known)
    except ValueError as error:
        raise Refused(str(error)) from None


def period_fields(period: Period) -> dict[str, str]:
    """Return a period as text."""
    return {"since": f"{period.since:%Y-%m-%dT%H:%MZ}", "until": f"{period.until:%Y-%m-%dT%H:%MZ}"}


def usage_fields(found: Report) -> dict[str, Any]:
    """Return a report in the admin API's shape."""
    return {
        **period_fields(found.period),
        "by": list(found.by),
        "rows": [row_fields(row, found.by) for row in found.rows],
        "total": row_fields(found.total, ()),
    }


def row_fields(row: UsageSum, by: tuple[str, ...]) -> dict[str, Any]:
    """Return a row with its share of cached tokens."""
    fields = fields_of(row, by)
    del fields["cost_usd"]
    usage = row.usage
    read = usage.input + usage.cache_read + usage.cache_write_5m + usage.cache_write_1h
    return fields | {"cache_hit_percent": round(100 * usage.cache_read / read, 2) if read else None}


def latency_fields(row: tuple[Any, ...], by: tuple[str, ...]) -> dict[str, Any]:
    """Return a group's percentiles."""
    names = dict(zip(LATENCY_DIMENSIONS, row, strict=False))
    count, first_byte, total = row[len(LATENCY_DIMENSIONS) :]
    fields: dict[str, Any] = {name: names[name] for name in by} | {"attempts": count}
    for label, values in (("first_byte", first_byte), ("total", total)):
        for percent, value in zip((50, 95, 99), values or (None,) * 3, strict=True):
            fields[f"{label}_p{percent}_ms"] = value
    return fields


def event_fields(row: tuple[Any, ...]) -> dict[str, Any]:
    """Return an event's stream, position and body."""
    _, stream, position, body = row
    return {"stream": stream, "position": position, "body": body}


def set_aside_fields(row: tuple[Any, ...]) -> dict[str, Any]:
    """Return a dead letter or quarantined event."""
    kind, stream, seen_at, entry, reason, raw, digest = row
    return {
        "id": f"{stream}/{digest.hex()}",
        "kind": KINDS[kind],
        "stream": stream,
        "seen_at_ms": ms_of(seen_at),
        "entry": entry,
        "reason": reason,
        "raw": raw.decode(errors="replace")[:4_000],
    }


def ms_of(moment: datetime) -> int:
    """Return a datetime as Unix milliseconds."""
    return int(moment.timestamp() * 1000)


def id_at(at_ms: int) -> str:
    """Return the lowest event id of a millisecond."""
    return ids.lowest_id(min(max(0, at_ms), LAST_MS))
