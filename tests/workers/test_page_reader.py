"""The check of a page of event rows, as bytes: what it lets pass without a closer look; and the pipe that it comes by.

Not here: Postgres.
"""

import os
from hashlib import sha256
from multiprocessing import Pipe
from typing import Any

import psycopg
import pytest

from workers.page_reader import PageBytes, Span, is_intact, packed, receive

SPAN = Span("anthropic", 40, 43)
BEFORE = bytes(32)
BEGINNINGS = [b'{"type":"AttemptStarted","event_id":"%d","at_ms":%d,' % (number, number) for number in (1, 2, 3)]
REQUEST_IDS = [b'"request_id":"%d"' % number for number in (1, 2, 3)]
EVENTS = [
    beginning + b'"replica":"a",' + request_id + b"}"
    for beginning, request_id in zip(BEGINNINGS, REQUEST_IDS, strict=True)
]


def chain(events: list[bytes], before: bytes = BEFORE) -> bytes:
    """The hashes of a chain, side by side."""
    hashes = [before]
    for event in events:
        hashes.append(sha256(hashes[-1] + event).digest())
    return b"".join(hashes[1:])


def page(**changed: Any) -> PageBytes:
    """A page of three events as it should be, but for what is changed."""
    columns: dict[str, Any] = {
        "events": b"\n".join(EVENTS),
        "positions": packed(range(41, 44)),
        "beginnings": b"\n".join(BEGINNINGS),
        "request_ids": b"\n".join(REQUEST_IDS),
        "hashes": chain(EVENTS),
        "before": BEFORE,
    }
    return PageBytes(**(columns | changed))


def test_positions_are_packed_as_postgres_sends_them() -> None:
    """Eight bytes each, the highest first."""
    assert packed(range(1, 3)) == bytes([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2])


def test_a_page_as_it_was_written_is_intact() -> None:
    """Nothing of it needs a closer look."""
    assert is_intact(page(), SPAN)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"before": None}, id="no row before it"),
        pytest.param({"before": bytes(31) + b"1"}, id="another hash before it"),
        pytest.param({"positions": packed(range(41, 43)) + packed(range(44, 45))}, id="a gap, and one too far"),
        pytest.param({"positions": packed(range(41, 43)) + packed(range(42, 43))}, id="a position twice"),
        pytest.param({"beginnings": b"\n".join([BEGINNINGS[0], BEGINNINGS[2], BEGINNINGS[1]])}, id="columns swapped"),
        pytest.param({"request_ids": b"\n".join([*REQUEST_IDS[:2], REQUEST_IDS[0]])}, id="another request id"),
        pytest.param({"request_ids": b"\n".join([*REQUEST_IDS, b""])}, id="a line break within a request id"),
        pytest.param({"beginnings": b"\n".join([*BEGINNINGS, b"{"])}, id="a line break within a column"),
        pytest.param({"events": b"\n".join([*EVENTS, EVENTS[0]])}, id="a line break within an event"),
        pytest.param({"hashes": chain([*EVENTS[:2], EVENTS[0]])}, id="another hash"),
        pytest.param({"hashes": chain(EVENTS[:2])}, id="a hash missing"),
        pytest.param({"events": b"", "hashes": b"", "positions": b""}, id="nothing"),
    ],
)
def test_what_may_be_faulty_needs_a_closer_look(changed: dict[str, Any]) -> None:
    """The closer look says what it is (`test_verify`)."""
    assert not is_intact(page(**changed), SPAN)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="before a page"),
        pytest.param(b"\0\0", id="within a length"),
        pytest.param(b"\0\0\0\x09", id="before what was announced"),
        pytest.param(b"\0\0\0\x09half", id="within it"),
    ],
)
@pytest.mark.parametrize("suspects", [0, 1])
def test_a_process_may_be_killed_at_any_byte(suspects: int, sent: bytes) -> None:
    """Most of the time it waits for room in the pipe, in the middle of a page."""
    receiver, sender = Pipe(duplex=False)
    with receiver:
        for _ in range(suspects):
            sender.send([])
        os.write(sender.fileno(), sent)
        sender.close()
        with pytest.raises(psycopg.Error, match="was ended from outside; try again"):
            receive(receiver)
