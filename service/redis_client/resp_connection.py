"""Sends pipelined commands and counts their replies over a connection that redis-py opened.

For fixed commands whose replies only need to be counted: there, redis-py's layers (pool, locks, retries, readers) cost
several times as much as the command itself. Not here: the commands (`fleet.stream_writer`).
"""

import asyncio

from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as Silent

LINES = b"+-:,_#("
"""RESP types that are one line."""
TEXTS = b"$=!"
"""RESP types with a length in bytes."""
LISTS = {ord("*"): 1, ord("~"): 1, ord(">"): 1, ord("%"): 2, ord("|"): 2}
"""RESP types with a count of values, or of pairs of values."""
ERRORS = b"-!"
LONGEST_VALUE_BYTES = 1 << 16
"""Replies are numbers and ids, and out-of-band values are short too."""
OUT_OF_BAND = b">|"
"""Out-of-band RESP types (push, attribute), which reply to no command."""


class RespConnection(asyncio.Protocol):
    """Sends commands and waits for their replies, one batch at a time."""

    def __init__(self, transport: asyncio.WriteTransport, limit_s: float) -> None:
        self._transport = transport
        self._previous_protocol = transport.get_protocol()
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._answered: asyncio.Future[None] | None = None
        self._outstanding = 0
        self._sent_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._data = b""
        self.is_lost = False
        transport.set_protocol(self)

    def send(self, commands: bytes, number: int) -> asyncio.Future[None]:
        """Send `number` commands; the future resolves once all are answered. It fails with RedisError at the first
        error reply, when the connection breaks, and when the replies take longer than the limit."""
        self._answered = answered = self._loop.create_future()
        self._outstanding = number
        self._sent_s = self._loop.time()
        if self._transport.is_closing():
            self._fail(Unreachable("Redis closed the connection"))
            return answered
        self._transport.write(commands)
        if self._timer is None:
            self._timer = self._loop.call_later(self._limit_s, self._check_timeout)
        return answered

    def abort(self) -> None:
        """Close the connection at once."""
        self.is_lost = True
        self._answered = None
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Count replies."""
        try:
            self._data = self._consume(self._data + data)
        except (ValueError, KeyError, RecursionError):
            self._fail(Unreachable("Redis protocol error"))
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the pending batch, and notify redis-py, which may be waiting too."""
        self.is_lost = True
        if self._timer is not None:
            self._timer.cancel()
        self._fail(Unreachable(f"Redis closed the connection{f' ({exc})' if exc else ''}"))
        self._previous_protocol.connection_lost(exc)

    def _consume(self, data: bytes) -> bytes:
        """Count all complete values and return the rest."""
        begin = 0
        while end := end_of(data, begin):
            self._consume_one(data[begin:end])
            begin = end
        if len(data) - begin > LONGEST_VALUE_BYTES:
            raise ValueError("unterminated value")
        return data[begin:]

    def _consume_one(self, value: bytes) -> None:
        if value[0] in OUT_OF_BAND:
            return
        if value[0] in ERRORS:
            self._fail(ResponseError(value[1:].decode(errors="replace").strip()))
        self._outstanding -= 1
        if self._outstanding < 0:
            raise ValueError("unexpected response")
        if self._outstanding == 0 and self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    def _check_timeout(self) -> None:
        """Fail a batch that takes too long; one timer serves all batches."""
        self._timer = None
        if self._answered is None or self._answered.done():
            return
        left_s = self._sent_s + self._limit_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._check_timeout)
        else:
            self._fail(Silent("Redis did not respond in time"))

    def _fail(self, error: Exception) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)


def encode_command(*arguments: bytes) -> bytes:
    """Encode a command."""
    return b"*%d\r\n" % len(arguments) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in arguments])


def end_of(data: bytes, begin: int) -> int:
    """Return the end of the value that starts at `begin`, 0 if it is incomplete. Raises ValueError or KeyError if it is
    not RESP 2 or 3 (https://redis.io/docs/latest/develop/reference/protocol-spec/)."""
    line_end = data.find(b"\r\n", begin)
    if line_end < 0:
        return 0
    kind, end = data[begin], line_end + 2
    if kind in LINES:
        return end
    count = int(data[begin + 1 : line_end])
    if kind in TEXTS:
        end += count + 2 if count >= 0 else 0
        return end if end <= len(data) else 0
    for _ in range(count * LISTS[kind]):
        end = end_of(data, end)
        if not end:
            return 0
    return end
