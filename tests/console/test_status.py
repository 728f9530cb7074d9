"""How the fleet stands, asked of a real Valkey that proxies and workers have written to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis import Redis

from service.embedded.valkey import Valkey
from service.fleet.status import Status, read_status
from service.ledger import wire
from service.ledger.events import AttemptEnded, TokenCounts
from service.ledger.fold import fold_route
from service.ledger.state import ControlLedger, RouteLedger
from service.routing.quota import WindowReading
from service.routing.route_status import RouteStatus, fields_of
from service.settings import Settings, load


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The usual routes; Z.AI has a key."""
    return load(environ={"CCPROXY_HOME": str(tmp_path), "ZAI_API_KEY": "k"})


def now_ms(redis: Redis) -> int:
    """Fleet time."""
    seconds, micros = redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


def ended(redis: Redis) -> AttemptEnded:
    """An attempt that used 10 tokens in and 5 out."""
    return AttemptEnded(
        event_id="e",
        at_ms=now_ms(redis),
        attempt_id="a",
        request_id="q",
        started_at_ms=now_ms(redis),
        outcome="ok",
        tokens=TokenCounts(10, 5),
    )


def write(redis: Redis, stream: str, number: int) -> list[bytes]:
    """So many entries on a stream; their ids."""
    redis.sadd(wire.STREAMS_KEY, stream)
    field = {wire.ENTRY_FIELD: wire.encode_entry([ended(redis)])}
    return [redis.xadd(wire.events_key(stream), field) for _ in range(number)]  # type: ignore[arg-type, misc]


def publish(
    redis: Redis, stream: str, ledger: bytes, stream_id: str = "0-0", version: int = wire.SNAPSHOT_VERSION
) -> None:
    """A snapshot of a stream at position 7."""
    made = wire.Snapshot(
        version=version,
        stream=stream,
        epoch=2,
        position=7,
        stream_id=stream_id,
        as_of_ms=now_ms(redis),
        ledger=msgspec.Raw(ledger),
    )
    redis.set(wire.snapshot_key(stream), wire.encode_snapshot(made))


def beat(redis: Redis, replica: str, fields: Mapping[Any, Any]) -> None:
    """A replica's heartbeat."""
    redis.hset(wire.replica_key(replica), mapping=dict(fields))


def by_route(status: Status) -> dict[str, RouteStatus]:
    """The readings by route."""
    return {reading.route: reading for reading in status.routes}


def test_an_empty_redis_has_a_status(valkey: Valkey, redis: Redis, settings: Settings) -> None:
    """Routes as this process's settings have them, no events, nobody alive."""
    assert redis.dbsize() == 0
    status = read_status(settings, valkey.url)
    assert [(reading.route, reading.state) for reading in status.routes] == [
        ("anthropic", "off"),
        ("subscription", "off"),
        ("zai", "healthy"),
    ]
    assert [(stream.stream, stream.position, stream.lag) for stream in status.streams] == [("control", 0, 0)]
    assert status.replicas == ()


def test_usage_is_that_of_the_published_ledger(valkey: Valkey, redis: Redis, settings: Settings) -> None:
    """No proxy needs to be alive for it."""
    write(redis, "zai", 1)
    publish(redis, "zai", wire.encode_ledger(fold_route(RouteLedger(), [ended(redis)])))
    reading = by_route(read_status(settings, valkey.url))["zai"]
    assert (reading.attempts, reading.input_tokens, reading.output_tokens) == (1, 10, 5)


def test_lag_is_what_lies_behind_the_snapshot(valkey: Valkey, redis: Redis, settings: Settings) -> None:
    """Entries after the last one folded; all of them where nothing was published."""
    ids = write(redis, "zai", 5)
    publish(redis, "zai", b"{}", ids[1].decode())
    write(redis, "anthropic", 2)
    streams = {stream.stream: stream for stream in read_status(settings, valkey.url).streams}
    assert (streams["zai"].epoch, streams["zai"].position, streams["zai"].lag) == (2, 7, 3)
    assert (streams["anthropic"].position, streams["anthropic"].lag) == (0, 2)
    assert (streams["zai"].snapshot_age_ms or 0) >= 0
    assert streams["anthropic"].snapshot_age_ms is None


@pytest.mark.parametrize(
    ("ledger", "version"),
    [(b"{}", wire.SNAPSHOT_VERSION + 1), (b'{"hours":"none"}', wire.SNAPSHOT_VERSION)],
    ids=["a version from the future", "a ledger of another shape"],
)
def test_a_snapshot_that_cannot_be_read_is_none(
    valkey: Valkey, redis: Redis, settings: Settings, ledger: bytes, version: int
) -> None:
    """The rest is shown all the same."""
    write(redis, "zai", 1)
    publish(redis, "zai", ledger, version=version)
    assert by_route(read_status(settings, valkey.url))["zai"].attempts == 0


def test_operators_words_are_seen(valkey: Valkey, redis: Redis, settings: Settings) -> None:
    """What the control ledger holds is in the readings."""
    publish(redis, "control", wire.encode_ledger(ControlLedger(disabled={"zai": "too dear"})))
    reading = by_route(read_status(settings, valkey.url))["zai"]
    assert (reading.state, reading.reason) == ("disabled", "disabled: too dear")


def test_live_proxies_tell_how_they_read_their_routes(valkey: Valkey, redis: Redis, settings: Settings) -> None:
    """Under their own settings: the routes of the one heard last, in its order."""
    window = WindowReading("5h", "warning", 93.5, now_ms(redis) + 9_000, "allowed", told_at_ms=now_ms(redis))
    told = RouteStatus(route="eu", title="Europe", state="degraded", used_percent=12.5, attempts=3, windows=(window,))
    redis.hset(wire.route_key("eu"), mapping={name: str(value) for name, value in fields_of(told).items()})
    beat(redis, "old", {"pid": 1, "at_ms": now_ms(redis) - 9_000, "pending": 0, "routes": "zai"})
    more = {"version": "9", "address": "h:1", "started_at_ms": 7, "draining": 1}
    beat(redis, "new", {"pid": 2, "at_ms": now_ms(redis), "pending": 4, "routes": "eu", **more})
    status = read_status(settings, valkey.url)
    assert status.routes == (told,)
    assert [(replica.replica, replica.pid, replica.pending) for replica in status.replicas] == [
        ("new", 2, 4),
        ("old", 1, 0),
    ]
    new, old = status.replicas
    assert old.seen_ms_ago >= 9_000
    assert (new.version, new.address, new.started_at_ms, new.draining) == ("9", "h:1", 7, True)
    assert (old.version, old.draining) == ("", False), "of a version that does not tell"


def test_a_reading_of_another_version_gives_way(valkey: Valkey, redis: Redis, settings: Settings) -> None:
    """What a proxy of another version wrote is read from the ledger instead."""
    redis.hset(wire.route_key("zai"), mapping={"route": "zai", "state": "confused"})
    beat(redis, "new", {"pid": 2, "at_ms": now_ms(redis), "pending": 0, "routes": "zai"})
    assert by_route(read_status(settings, valkey.url))["zai"].state == "healthy"


def test_clients_own_credentials_are_shown_once_they_were_used(
    valkey: Valkey, redis: Redis, settings: Settings
) -> None:
    """The pseudo-route comes last, when its stream is there."""
    write(redis, settings.client_route.id, 1)
    assert [reading.route for reading in read_status(settings, valkey.url).routes][-1] == "anthropic:client"


def test_status_is_plain_json(valkey: Valkey, redis: Redis, settings: Settings) -> None:
    """For scripts: names as documented."""
    write(redis, "zai", 1)
    fields = msgspec.json.decode(msgspec.json.encode(read_status(settings, valkey.url).fields()))
    assert list(fields) == ["at_ms", "next_route", "routes", "streams", "replicas", "workers", "redis_faults"]
    assert fields["routes"][0]["route"] == "anthropic"
    assert list(fields["streams"][0]) == ["stream", "epoch", "position", "lag", "snapshot_age_ms"]
