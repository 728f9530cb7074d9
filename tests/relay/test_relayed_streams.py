"""Event streams through the relay, in memory: commit, pings, and how a stream ends."""

import asyncio

import pytest

from service.http1.upstream import UpstreamError
from service.ledger.events import ResourceCreated
from service.relay import streams
from service.relay.client_stream import PING
from tests.support.fake_upstream import FOREVER, Step, stream
from tests.support.relay_harness import ANTHROPIC_KEY, STREAM, MemoryClient, RelayFactory
from tests.support.streams import DELTA, END, START
from tests.support.virtual_time import advance

WHOLE = START + DELTA + END
RESET = UpstreamError("reset", "the connection broke")
BUSY = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n'


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
async def test_a_stream_passes_unchanged_however_it_is_cut(relays: RelayFactory, size: int) -> None:
    relay = relays.make()
    relay.upstream.script(stream(*(WHOLE[at : at + size] for at in range(0, len(WHOLE), size))))
    client = await relay.ask(STREAM)
    assert (client.status, client.body, client.ended, client.broken) == (200, WHOLE, True, False)
    assert all(part.endswith(b"\n\n") for part in client.parts), "only whole events are sent"
    [end] = relay.ends
    assert (end.outcome, end.tokens.input, end.tokens.output) == ("ok", 7, 9)


async def test_nothing_is_sent_before_content(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(stream(START, 3.0, DELTA, 2.0, END))
    client = MemoryClient()
    task = asyncio.create_task(relay.ask(STREAM, client=client))
    await advance(2.9)
    assert not client.started
    await advance(0.2)
    assert client.body == START + DELTA
    await task
    assert relay.ends[0].first_byte_ms == 0


async def test_a_slow_first_byte_is_recorded_as_slow(relays: RelayFactory) -> None:
    """Of the body, were it a ping: who pings is at work."""
    relay = relays.make(slow_ms=2_000)
    relay.upstream.script(stream(3.0, START, DELTA, END), stream(1.0, PING, 3.0, WHOLE), stream(START, 3.0, DELTA, END))
    for _ in range(3):
        await relay.ask(STREAM)
    assert [end.slow for end in relay.ends] == [True, False, False]


async def test_a_silent_stream_gets_pings_between_events(relays: RelayFactory) -> None:
    relay = relays.make(ping_ms=15_000)
    relay.upstream.script(stream(START + DELTA + DELTA[:20], 40.0, DELTA[20:], END))
    client = await relay.ask(STREAM)
    assert client.parts == [START + DELTA, PING, PING, DELTA, END]
    assert [at_s - client.part_times_s[0] for at_s in client.part_times_s] == [0, 15, 30, 40, 40]


async def test_events_wait_for_a_ping_that_is_being_sent(relays: RelayFactory) -> None:
    relay = relays.make(ping_ms=15_000, idle_ms=100_000)
    relay.upstream.script(stream(START, DELTA, 20.0, DELTA, END))
    client = MemoryClient()
    task = asyncio.create_task(relay.ask(STREAM, client=client))
    await advance(1)
    client.reads.clear()
    await advance(39)
    client.reads.set()
    await task
    assert client.parts == [START + DELTA, PING, DELTA, END]


async def test_a_client_that_reads_nothing_is_given_up(relays: RelayFactory) -> None:
    relay = relays.make(ping_ms=10_000, idle_ms=60_000)
    relay.upstream.script(stream(START, DELTA, 1.0, DELTA, FOREVER))
    client = MemoryClient()
    task = asyncio.create_task(relay.ask(STREAM, client=client))
    await advance(0.5)
    client.reads.clear()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert relay.ended == [("anthropic", "aborted", "")]
    assert 60_000 <= relay.ends[0].total_ms <= 80_000


async def test_a_start_that_is_too_long_is_committed(relays: RelayFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HELD_BYTES", 100)
    relay = relays.make()
    relay.upstream.script(stream(START, 1.0, DELTA, END))
    client = await relay.ask(STREAM)
    assert client.part_times_s[1] - client.part_times_s[0] == 1
    assert client.body == WHOLE


# -- ends


BREAKS: dict[str, tuple[tuple[Step, ...], str]] = {
    "reset": ((RESET,), "reset"),
    "in the middle of an event": ((DELTA[:30], RESET), "reset"),
    "no end": ((), "bad_answer"),
    "an event without end": ((b"event: ping\ndata: " + b"x" * 20_000_000,), "bad_answer"),
    "silence": ((UpstreamError("timeout", "silent for too long"),), "timeout"),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_a_stream_that_breaks_after_commit_ends_with_an_error(relays: RelayFactory, name: str) -> None:
    steps, kind = BREAKS[name]
    relay = relays.make()
    relay.upstream.script(stream(START, DELTA, *steps))
    client = await relay.ask(STREAM)
    sent, _, fault = client.body.partition(b"event: error\n")
    assert sent == START + DELTA, "only whole events, and none twice"
    assert fault.startswith(b'data: {"type":"error"')
    assert fault.endswith(b"\n\n")
    assert (client.broken, client.ended) == (True, True)
    assert relay.ended == [("anthropic", "failed", kind)]
    assert relay.ends[0].tokens.input == 7
    assert len(relay.upstream.sent) == 1


@pytest.mark.parametrize("together", [True, False])
async def test_an_error_behind_content_passes_unchanged(relays: RelayFactory, together: bool) -> None:  # noqa: FBT001
    relay = relays.make()
    relay.upstream.script(stream(START + DELTA + BUSY) if together else stream(START, DELTA, BUSY))
    client = await relay.ask(STREAM)
    assert client.body == START + DELTA + BUSY
    assert client.broken
    assert relay.ended == [("anthropic", "failed", "overloaded")]


@pytest.mark.parametrize("end", [BUSY, END], ids=["error", "end"])
@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("surplus", [DELTA + END, START + DELTA + END, DELTA[:30]])
async def test_nothing_follows_the_last_event(
    relays: RelayFactory,
    end: bytes,
    at_once: bool,  # noqa: FBT001
    line_end: bytes,
    surplus: bytes,
) -> None:
    """Even if it came at once with it: behind an error nobody may find a complete answer, or behind one a second."""
    relay = relays.make()
    first, last, others = (part.replace(b"\n", line_end) for part in (START + DELTA, end, surplus))
    relay.upstream.script(stream(*([first + last + others] if at_once else [first, last[:20], last[20:] + others])))
    client = await relay.ask(STREAM)
    assert client.body == first + last
    assert relay.ended[0][1] == ("ok" if end is END else "failed")


async def test_a_credential_in_an_error_of_a_stream_is_not_shown(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(stream(START, DELTA, BUSY.replace(b"busy", b"busy " + ANTHROPIC_KEY.encode())))
    client = await relay.ask(STREAM)
    assert b"busy ***" in client.body
    assert ANTHROPIC_KEY not in relay.ends[0].message


@pytest.mark.parametrize(("steps", "is_read"), [((0.1, b": bye\n\n"), True), ((60.0, b": bye\n\n"), False)])
async def test_the_end_of_the_connection_is_read_if_it_comes_soon(
    relays: RelayFactory,
    steps: tuple[Step, ...],
    is_read: bool,  # noqa: FBT001
) -> None:
    relay = relays.make()
    relay.upstream.script(stream(WHOLE, *steps))
    client = await relay.ask(STREAM)
    assert client.body == WHOLE
    assert relay.upstream.bodies[0].at_end is is_read


async def test_a_thread_that_a_stream_begins_is_recorded(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(stream(WHOLE))
    await relay.ask(STREAM, threaded=True)
    created = [event.resource_id for _, event in relay.events if isinstance(event, ResourceCreated)]
    assert created == ["msg_1"]
    home = await relay.resources.home_of("msg_1")
    assert home is not None
    assert home.route == "anthropic"
