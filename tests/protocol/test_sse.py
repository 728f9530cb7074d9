"""Cutting a stream into events, however it arrives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.protocol.sse import EventTooLarge, SseEvent, SseReader

STREAM = (
    b'event: message_start\ndata: {"a": 1}\n\n: ping\n\nevent: x\ndata: one\ndata: two\n\ndata: \xc3\xa4\n\nid: 7\n\n\n'
)


def read(chunks: list[bytes], limit_bytes: int = 1_000_000) -> list[tuple[bytes, bytes]]:
    reader = SseReader(limit_bytes)
    return [(event.name, event.data) for chunk in chunks for event in reader.feed(chunk)]


def cut_at(stream: bytes, places: list[int]) -> list[bytes]:
    ends = [*sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        pytest.param(b"", [], id="nothing"),
        pytest.param(b"data: x\n", [], id="an event without its empty line"),
        pytest.param(b"data: x\n\n", [(b"", b"x")], id="data alone"),
        pytest.param(b"event: a\ndata: x\n\n", [(b"a", b"x")], id="a name and data"),
        pytest.param(b"event:a\ndata:x\n\n", [(b"a", b"x")], id="no blank after the colon"),
        pytest.param(b"data:  x \n\n", [(b"", b" x ")], id="one blank goes and others stay"),
        pytest.param(b"data: x\nevent: a\n\n", [(b"a", b"x")], id="the name after the data"),
        pytest.param(b"event: a\nevent: b\ndata: x\n\n", [(b"b", b"x")], id="the last name counts"),
        pytest.param(b"data: x\ndata\ndata: y\n\n", [(b"", b"x\n\ny")], id="data of several lines"),
        pytest.param(b"data: a: b\n\n", [(b"", b"a: b")], id="a colon in the data"),
        pytest.param(b"event: a\r\ndata: x\r\n\r\n", [(b"a", b"x")], id="CR LF"),
        pytest.param(b"event: a\rdata: x\r\r", [(b"a", b"x")], id="CR"),
        pytest.param(b"event: a\ndata: x\r\r\ndata: y\n\r", [(b"a", b"x"), (b"", b"y")], id="mixed line ends"),
        pytest.param(b"\xef\xbb\xbfdata: x\n\n", [(b"", b"x")], id="a byte order mark"),
        pytest.param(b"\n\n\n\ndata: x\n\n\n\n", [(b"", b"x")], id="empty lines before and after"),
        pytest.param(b": ping\n\n", [(b"", b"")], id="a comment"),
        pytest.param(b"eventual: a\ndatas: x\nother\n\n", [(b"", b"")], id="unknown fields"),
    ],
)
def test_events_are_what_the_standard_says(stream: bytes, events: list[tuple[bytes, bytes]]) -> None:
    """Each case reads the same whole and byte by byte."""
    assert read([stream]) == events
    assert read([stream[place : place + 1] for place in range(len(stream))]) == events


PIECES = st.lists(
    st.sampled_from([b"data: x", b"event: a", b"event: message_stop", b": c", b"\n", b"\r\n", b"\r", b"\n\n",
                     b"\r\n\r\n", b"z", b"\xc3\xa4", b"\xef\xbb\xbf"]),
    max_size=30,
)  # fmt: skip


@given(PIECES, st.lists(st.integers(0, 200), max_size=12))
def test_splitting_a_stream_changes_no_event(pieces: list[bytes], places: list[int]) -> None:
    """Any split of a stream gives the same events as the whole."""
    stream = b"".join(pieces)
    assert read(cut_at(stream, places)) == read([stream])


@given(st.lists(st.integers(0, 200), max_size=12))
def test_offsets_lead_back_to_the_events_bytes(places: list[int]) -> None:
    """`start` and `end` frame the event's bytes within the chunk that completes it."""
    reader = SseReader()
    for chunk in cut_at(STREAM, places):
        for event in reader.feed(chunk):
            assert 0 <= event.start < event.end <= len(chunk)
            assert chunk[: event.end].endswith(b"\n")
            assert event.block.endswith(chunk[event.start : event.end].strip(b"\n"))


def test_an_event_of_one_chunk_begins_where_it_begins() -> None:
    """An event that lies whole in a chunk is framed exactly."""
    assert SseReader().feed(b"data: x\n\ndata: y\n\ndata") == [
        SseEvent(b"data: x", 0, 9),
        SseEvent(b"data: y", 9, 18),
    ]


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize("ending", [b"", b"\n\n"])
def test_an_event_over_the_limit_is_refused(step: int, ending: bytes) -> None:
    """No event grows beyond the limit, finished or not, however it comes."""
    stream = b"data: " + b"x" * 95 + ending
    with pytest.raises(EventTooLarge):
        read([stream[place : place + step] for place in range(0, len(stream), step)], limit_bytes=100)


def test_an_event_of_just_the_limit_is_read() -> None:
    """The limit itself is allowed, and many such events in a row."""
    event = b"data: " + b"x" * 94 + b"\n\n"
    assert len(read([event * 50], limit_bytes=100)) == 50


def test_a_large_event_in_single_bytes_costs_time_in_proportion() -> None:
    """What was searched is not searched again: 200 KB byte by byte take no noticeable time."""
    stream = b"data: " + b"x" * 200_000 + b"\r\n\r\n"
    assert len(read([stream[place : place + 1] for place in range(len(stream))])) == 1


def test_an_event_of_many_lines_is_too_large() -> None:
    """Millions of lines of nothing would be looked at while everything else waits."""
    reader = SseReader()
    [few] = reader.feed(b"data:\n" * 10_000 + b"\n")
    assert few.data == b"\n" * 9_999
    [many] = reader.feed(b"data:\n" * 10_002 + b"\n")
    with pytest.raises(EventTooLarge):
        assert many.data


PING = b"event: ping\n\n"


@pytest.mark.parametrize(
    ("before", "chunk", "passed"),
    [
        pytest.param(b": hello\n\n", PING, True, id="one event of a kind that nobody looks into"),
        pytest.param(b": hello\n\n", b"event: ping\ndata: 12345678\n\n", True, id="of just the limit"),
        pytest.param(b": hello\n\n", b"event: ping\ndata: 123456789\n\n", False, id="a byte over it"),
        pytest.param(b": hello\n\n", PING + PING, False, id="two of them"),
        pytest.param(b": hello\n\n", PING[:-1], False, id="one that has not ended"),
        pytest.param(b": hello\n\n", PING + b"\n", False, id="an empty line more"),
        pytest.param(b": hello\n\n", b"event: stop\n\n", False, id="of another kind"),
        pytest.param(b": hello\n\n", b"event: ping\rdata: x\n\n", False, id="with another line end"),
        pytest.param(b": hello\r\n\r\n", PING, False, id="in a stream of other line ends"),
        pytest.param(b": hello\n\ndata: x\n", PING, False, id="the rest of another event"),
        pytest.param(b"", PING, False, id="the first event of a stream"),
        pytest.param(b"\n\n\n", PING, False, id="the first behind empty lines"),
    ],
)
def test_most_chunks_are_one_event_that_need_not_be_read(before: bytes, chunk: bytes, passed: bool) -> None:  # noqa: FBT001
    """Only where reading it would give nothing, and leave nothing behind."""
    reader = SseReader(limit_bytes=len(b"event: ping\ndata: 12345678"))
    reader.feed(before)
    reader.passed = (b"event: ping",)
    assert reader.is_passed(chunk) is passed


@pytest.mark.parametrize(
    ("chunks", "free"),
    [
        ([b"data"], [0]),
        ([b"data: x\n\ndata"], [9]),
        ([b"data: x\n\n", b"data"], [9, 0]),
        ([b"data: x\n", b"\ndata: y\n\nd"], [0, 10]),
        ([b"data: x\n\n", PING, PING + b"data"], [9, 13, 13]),
        ([b"\n\n"], [0]),
    ],
    ids=["none ended", "one", "none of the second chunk", "two, one begun before", "ones that are passed", "blanks"],
)
def test_what_is_free_to_leave_ends_with_a_whole_event(chunks: list[bytes], free: list[int]) -> None:
    """Also one that nobody looks into."""
    reader = SseReader()
    reader.passed = (b"event: ping",)
    for chunk, expected in zip(chunks, free, strict=True):
        reader.feed(chunk)
        assert reader.free == expected


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_a_block_has_no_empty_lines(end: bytes) -> None:
    """Neither before nor behind it, however many there were."""
    blocks = [b"data: x", b"data: y", b"data: z"]
    stream = end * 3 + blocks[0] + end * 2 + blocks[1] + end * 3 + blocks[2] + end * 4
    assert [event.block for event in SseReader().feed(stream)] == blocks


@pytest.mark.parametrize(("size", "fits"), [(100, True), (101, False)])
@pytest.mark.parametrize("step", [1, 1_000])
def test_what_is_kept_of_an_event_is_bounded(size: int, step: int, fits: bool) -> None:  # noqa: FBT001 - a case
    """Before it ends; its lines count, and no empty ones before them."""
    stream = b"\n\n" + b"x" * size
    chunks = [stream[place : place + step] for place in range(0, len(stream), step)]
    if fits:
        assert read(chunks, limit_bytes=100) == []
    else:
        with pytest.raises(EventTooLarge):
            read(chunks, limit_bytes=100)


@pytest.mark.parametrize("end", [b"\n", b"\r"])
def test_an_event_of_10000_lines_is_read_and_no_more(end: bytes) -> None:
    for lines, fits in [(10_001, True), (10_002, False)]:
        [event] = SseReader().feed(end.join([b"data:"] * lines) + end * 2)
        if fits:
            assert event.name == b""
        else:
            with pytest.raises(EventTooLarge):
                assert event.name


def test_events_that_nobody_reads_are_counted_and_not_returned() -> None:
    """By how they begin; the stream's first is returned whatever it is, since a byte order mark may stand before it."""
    reader = SseReader()
    reader.passed = (b"event: a\n",)
    dull, other = b"event: a\ndata: 1\n\n", b"event: b\ndata: 2\n\n"
    stream = dull + dull + other + dull
    assert [event.name for event in reader.feed(stream)] == [b"a", b"b"]
    assert (reader.passed_count, reader.free) == (2, len(stream))
    assert reader.feed(dull + other[:9]) == []
    assert (reader.passed_count, reader.free) == (1, len(dull))
