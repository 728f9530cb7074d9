"""Bytes of entries and snapshots, and the names under which they lie: what proxies, workers and people agree on."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.ledger import wire
from service.ledger.events import RouteDisabled
from service.ledger.state import ControlLedger, Ledger, RouteLedger
from service.ledger.wire import Snapshot, Undecodable
from tests.support.event_factories import NOW_MS, Log, after, ended, id_of, logs, started

GOOD = RouteDisabled(event_id=id_of(1), at_ms=NOW_MS, route="zai")
GOOD_BYTES = wire.encode_event(GOOD)
EVENT_HEAD = b'{"type":"route_disabled","event_id":"x","at_ms":1'


@settings(max_examples=60, deadline=None)
@given(logs())
def test_what_is_written_is_read(log: Log) -> None:
    """Events come out of an entry as they went in, in order; one event alone likewise."""
    assert wire.decode_entry(wire.encode_entry(log)) == log
    assert [wire.decode_event(wire.encode_event(event)) for event in log] == log


BAD = [
    pytest.param(b'{"type":"from_the_future","event_id":"x","at_ms":1}', id="an unknown tag"),
    pytest.param(b'{"event_id":"x","at_ms":1}', id="no tag"),
    pytest.param(EVENT_HEAD + b"}", id="a missing field"),
    pytest.param(EVENT_HEAD + b',"route":7}', id="another type of field"),
    pytest.param(EVENT_HEAD + b',"route":"\xff"}', id="text that is no UTF-8"),
    pytest.param(b'{"type":"attempt_ended","outcome":"shrugged"}', id="an unknown outcome"),
    pytest.param(b"7", id="a number"),
    pytest.param(b"null", id="null"),
    pytest.param(b"[]", id="a list"),
]


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_decoded_comes_alone(bad: bytes) -> None:
    """Its bytes and a reason take its place; its neighbours are decoded, in order."""
    first, middle, last = wire.decode_entry(b"[" + GOOD_BYTES + b", " + bad + b"," + GOOD_BYTES + b"]")
    assert (first, last) == (GOOD, GOOD)
    assert isinstance(middle, Undecodable)
    assert middle.raw == bad
    assert middle.reason
    assert isinstance(wire.decode_event(bad), Undecodable)


@pytest.mark.parametrize(
    "value",
    [b"", b"null", b"{}", b"[", GOOD_BYTES, b"[" + GOOD_BYTES, b"[" * 100_000, b'[{"a":' * 50_000, b"\xff", b"[\xff]"],
    ids=["nothing", "null", "no list", "cut", "an event", "cut event", "deep", "deep objects", "no UTF-8", "no JSON"],
)
def test_an_entry_that_is_none_comes_whole(value: bytes) -> None:
    """One undecodable part with all bytes, whatever they are; a worker never stops at it."""
    [part] = wire.decode_entry(value)
    assert isinstance(part, Undecodable)
    assert part.raw == value


@given(st.binary(max_size=60))
def test_decoding_never_raises(value: bytes) -> None:
    """Any bytes are events or undecodable, a snapshot or none, a change or none."""
    wire.decode_entry(value)
    wire.decode_event(value)
    wire.decode_snapshot(value)
    wire.decode_change(value)


def test_fields_from_the_future_are_passed_over() -> None:
    """A newer producer may say more than this version knows."""
    assert wire.decode_event(GOOD_BYTES[:-1] + b',"colour":"blue"}') == GOOD


def snapshot(**fields: object) -> Snapshot:
    """A snapshot of one event."""
    ledger = msgspec.Raw(wire.encode_ledger(after(ended())))
    made = Snapshot(
        version=wire.SNAPSHOT_VERSION,
        stream="zai",
        epoch=1,
        position=2,
        stream_id="5-0",
        as_of_ms=NOW_MS,
        ledger=ledger,
    )
    return msgspec.structs.replace(made, **fields)


def test_a_snapshot_is_read_as_it_was_published() -> None:
    """Its head and its ledger."""
    read = wire.decode_snapshot(wire.encode_snapshot(snapshot()))
    assert read is not None
    assert (read.stream, read.epoch, read.position, read.stream_id, read.as_of_ms) == ("zai", 1, 2, "5-0", NOW_MS)
    assert wire.decode_ledger("zai", read.ledger) == after(ended())


@pytest.mark.parametrize(
    "raw",
    [
        wire.encode_snapshot(snapshot(version=wire.SNAPSHOT_VERSION + 1)),
        wire.encode_snapshot(snapshot(version=0)),
        b'{"version":2,"shape":"another"}',
        b"",
        b"[]",
        b"\xff",
    ],
    ids=["a newer version", "an older version", "another shape", "nothing", "a list", "no text"],
)
def test_a_snapshot_of_another_version_is_none(raw: bytes) -> None:
    """The reader keeps the last good one, so that versions can run side by side."""
    assert wire.decode_snapshot(raw) is None


@pytest.mark.parametrize(("version", "left"), [(3, ["a1", "m1", "w1"]), (2, ["a1", "m1"]), (1, ["a1"])])
def test_an_older_reader_gets_the_shape_that_it_knows(
    version: int, left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version by version, the newest first."""

    def without_models(ledger: Ledger) -> Ledger:
        """The first version knew none, and its shape is made of that of the second."""
        assert ledger == RouteLedger(account="a1", missing_models={"m1": 1})
        return RouteLedger(account="a1")

    monkeypatch.setattr(wire, "SNAPSHOT_VERSION", 3)
    older = {2: lambda ledger: msgspec.structs.replace(ledger, unread={}), 1: without_models}
    monkeypatch.setattr(wire, "OLDER_SHAPES", older)
    newest = RouteLedger(account="a1", missing_models={"m1": 1}, unread={"w1": 1})
    read = wire.as_of_version(newest, version)
    assert isinstance(read, RouteLedger)
    assert [name for name in (read.account, *read.missing_models, *read.unread) if name] == left


def test_a_change_is_read_as_it_was_told() -> None:
    """Stream, epoch and position."""
    change = wire.Change("zai", 3, 4)
    assert wire.decode_change(wire.encode_change(change)) == change
    assert wire.encode_change(change) == b'{"stream":"zai","epoch":3,"position":4}'


def test_each_stream_has_its_kind_of_ledger() -> None:
    """`control` is the operators'; every other stream is a route's."""
    assert wire.new_ledger("control") == wire.decode_ledger("control", b"{}") == ControlLedger()
    assert wire.new_ledger("zai") == wire.decode_ledger("zai", b"{}") == RouteLedger()


def test_the_names_in_redis_are_a_contract() -> None:
    """docs/redis-keys.md documents them and operators type them: they change only with a line in CHANGELOG."""
    assert {
        wire.events_key("zai"): "events",
        wire.snapshot_key("zai"): "snapshot",
        wire.route_key("zai"): "readings",
        wire.wake_key("zai"): "wake-up",
    } == {
        "ccproxy:{zai}:events": "events",
        "ccproxy:{zai}:snapshot": "snapshot",
        "ccproxy:{zai}:route": "readings",
        "ccproxy:{zai}:wake": "wake-up",
    }
    assert wire.replica_key("r1") == "ccproxy:replica:r1"
    assert wire.resource_key("batch_1") == "ccproxy:resource:batch_1"
    assert wire.FINGERPRINT_KEY == "ccproxy:fingerprint-key"
    assert (wire.STREAMS_KEY, wire.CHANGES_CHANNEL) == ("ccproxy:streams", "ccproxy:changes")
    assert (wire.ENTRY_FIELD, wire.CONTROL, wire.SNAPSHOT_VERSION) == ("e", "control", 1)


def test_a_snapshot_reads_as_documented() -> None:
    """The names inside are what `redis-cli` shows: short of defaults, hours and buckets by number."""
    fields = msgspec.json.decode(
        wire.encode_snapshot(snapshot(ledger=msgspec.Raw(wire.encode_ledger(after(started(), ended())))))
    )
    assert list(fields) == ["version", "stream", "epoch", "position", "stream_id", "as_of_ms", "ledger"]
    hour = str(NOW_MS // 3_600_000)
    used = {"attempts": 1, "input": 10, "output": 5, "cost_nusd": 1_000}
    assert fields["ledger"] == {
        "heard": {"r1": {"high": 1, "at_ms": NOW_MS}},
        "usage": {hour: {"claude-sonnet-4-5": {"alice": used}}},
        "hours": {hour: used},
        "health": {"r1": {"last_success_ms": NOW_MS, "buckets": {str(NOW_MS // 10_000): {"ok": 1}}}},
        "newest_ms": NOW_MS,
    }


def test_entries_are_in_the_order_of_their_times_and_counts() -> None:
    """As numbers, not as texts; without a count it is the first of its millisecond."""
    assert sorted(["10-0", "5-10", "5-2", "5-1"], key=wire.entry_order) == ["5-1", "5-2", "5-10", "10-0"]
    assert wire.entry_order("5") == wire.entry_order("5-0") == (5, 0)


@pytest.mark.parametrize("stream", [wire.CONTROL, "zai"])
def test_a_stored_state_says_its_version(stream: str) -> None:
    """One without is of the first version; a newer one is left to newer workers, and an older worker can't read it."""
    empty = wire.new_ledger(stream)
    assert wire.decode_state(stream, b"{}") == empty == wire.decode_state(stream, wire.encode_state(empty))
    with pytest.raises(wire.NewerState):
        wire.decode_state(stream, b'[99,{"all":"new"}]')
    with pytest.raises(msgspec.DecodeError):
        wire.decode_ledger(stream, wire.encode_state(empty))
    with pytest.raises(msgspec.DecodeError):
        wire.decode_state(stream, b"[2]")
