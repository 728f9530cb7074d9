"""Plans how an answer travels: which bytes, in which writes, with which silences, and where it breaks off.

The plan is pure, a run of steps; `connection.py` carries it out. What the answer says is no business of this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, TypeAlias

from tests.fakes.compression import compressor
from tests.fakes.language import Cut, Delivery, How, Pause, Point

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fakes.sse import Piece

WRITE_BYTES = 65_536  # a large body goes in several writes, so that back-pressure is felt

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer, made concrete, and how it travels."""

    status: int
    headers: list[tuple[str, str]]
    pieces: list[Piece]
    streams: bool = False
    delivery: Delivery = field(default_factory=Delivery)
    kind: Literal["message", "error", "raw", "api"] = "api"
    request_id: str = ""
    message_id: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class Write:
    """Bytes to write; `piece` is the one that these bytes complete; `body_bytes` leaves the framing out."""

    data: bytes
    body_bytes: int = 0
    piece: Piece | None = None


@dataclass(frozen=True)
class Wait:
    wait_ms: int


@dataclass(frozen=True)
class Stop:
    how: How


Step: TypeAlias = Write | Wait | Stop


def plan(answer: Answer, *, bodiless: bool = False) -> Iterator[Step]:
    """All steps of an answer, the last one being its end or its break."""
    delivery = answer.delivery
    yield from (Wait(pause.wait_ms) for pause in delivery.pauses if pause.after == "request")
    if delivery.cut and delivery.cut.after == "request":
        yield Stop("fin" if delivery.cut.how == "end" else delivery.cut.how)
        return
    encoded = encode(answer.pieces, delivery)
    places = _Places(answer, [len(data) for data in encoded])
    cut_at = places.offset(delivery.cut)
    framing = _framing(answer)
    length = places.total if delivery.cut is None or delivery.cut.how != "end" else cut_at
    yield Write(head(answer, framing, length or 0))
    if not bodiless:
        yield from _body(answer, encoded, places, cut_at, chunked=framing == "chunked")


def _body(
    answer: Answer, encoded: list[bytes], places: _Places, cut_at: int | None, *, chunked: bool
) -> Iterator[Step]:
    delivery = answer.delivery
    waits = {places.offset(pause): pause.wait_ms for pause in delivery.pauses if pause.after != "request"}
    stops = {at for at in (cut_at, *waits) if at is not None}
    position = 0
    for data, piece in zip(encoded, answer.pieces, strict=True):
        start, end = position, position + len(data)
        for slice_end in _slices(start, end, delivery.chunk_bytes or WRITE_BYTES, stops):
            if position in waits:
                yield Wait(waits.pop(position))
            if position == cut_at:
                break
            if position and delivery.drip_ms:
                yield Wait(delivery.drip_ms)
            part = data[position - start : slice_end - start]
            yield Write(_chunk(part) if chunked else part, len(part), piece if slice_end == end else None)
            position = slice_end
        if position == cut_at:
            break
    yield from _ending(delivery, position, waits, cut_at, chunked=chunked)


def _ending(
    delivery: Delivery, position: int, waits: dict[int | None, int], cut_at: int | None, *, chunked: bool
) -> Iterator[Step]:
    """What comes after the last byte of the body: a last silence, the break if there is one, the closing chunk."""
    if position in waits:
        yield Wait(waits[position])
    if cut_at is not None and delivery.cut is not None and delivery.cut.how != "end":
        yield Stop(delivery.cut.how)
        return
    if chunked:
        yield Write(b"0\r\n\r\n")
    if cut_at is not None:
        yield Stop("end")


class _Places:
    """Turns points of the language into offsets into the body as sent."""

    def __init__(self, answer: Answer, sizes: list[int]) -> None:
        self._streams = answer.streams
        self._names = [piece.name for piece in answer.pieces]
        self._ends = list(accumulate(sizes))
        self.total = self._ends[-1] if self._ends else 0

    def offset(self, place: Cut | Pause | None) -> int | None:
        """The offset of a place; an event's place in an answer without events is the middle of its body."""
        if place is None:
            return None
        fixed: dict[Point, int] = {"request": 0, "headers": 0, "end": self.total}
        if place.after in fixed:
            return fixed[place.after]
        if place.after == "bytes":
            return min(self.total, place.count) if place.count >= 0 else max(0, self.total + place.count)
        if not self._streams:
            return self.total // 2
        if place.after == "events":
            return self._after_events(place.count)
        return self._after_named(place.after, place.count)

    def _after_events(self, count: int) -> int:
        kept = min(len(self._ends), count) if count >= 0 else max(0, len(self._ends) + count)
        return self._ends[kept - 1] if kept else 0

    def _after_named(self, name: str, count: int) -> int:
        found = [end for end, each in zip(self._ends, self._names, strict=True) if each == name]
        return found[min(count, len(found)) - 1] if found else self.total // 2


def _slices(start: int, end: int, step: int, stops: set[int]) -> list[int]:
    """Where the writes of one piece end."""
    inside = {at for at in stops if start < at < end}
    return sorted({*range(start + step, end, step), *inside, end})


def _chunk(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part)


def _framing(answer: Answer) -> Literal["chunked", "length", "close"]:
    if answer.delivery.framing != "auto":
        return answer.delivery.framing
    return "chunked" if answer.streams else "length"


def head(answer: Answer, framing: str, length_bytes: int) -> bytes:
    """The status line and the headers."""
    headers = list(answer.headers)
    if answer.delivery.encoding != "identity":
        headers.append(("content-encoding", answer.delivery.encoding))
    if framing == "chunked":
        headers.append(("transfer-encoding", "chunked"))
    elif framing == "length":
        headers.append(("content-length", str(length_bytes)))
    closes = framing == "close" or answer.delivery.after_answer == "close"
    headers.append(("connection", "close" if closes else "keep-alive"))
    lines = [f"HTTP/1.1 {answer.status} {REASONS.get(answer.status, 'Status')}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def encode(pieces: list[Piece], delivery: Delivery) -> list[bytes]:
    """The pieces as sent, each flushed, so that a reader can decode every event as soon as it comes."""
    if delivery.encoding == "identity":
        return [piece.data for piece in pieces]
    compress, flush, finish = compressor(delivery.encoding)
    encoded = [compress(piece.data) + flush() for piece in pieces]
    if encoded:
        encoded[-1] += finish()
    return encoded
