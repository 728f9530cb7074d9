"""Parses one response from bytes, without I/O, using httptools (llhttp, strict).

Rules
- Informational responses (1xx) are skipped; 101 is an error, since no upgrade was requested.
- A body is chunked, or has a length, or ends with the connection; responses to HEAD, 204 and 304 have none.
- Conflicting framing, folded or malformed headers, bare line feeds: rejected, never guessed at.
- Bytes after the end of a response make the connection unusable.
- Trailers are read and dropped.
- At most 64 KiB in a row may be something else than body: heads, trailers and chunk extensions are all bounded.

Not here: content encodings (`protocol.content_coding`), waiting (`connection`).
"""

from collections import deque

import httptools
import httpx

OVERHEAD_BYTES = 65_536
"""Far above any real head: httpx accepts 100 KB, nginx 8, and Anthropic's are about 1.5."""
MOST_HEADERS = 256
FRAMING = frozenset((b"content-length", b"transfer-encoding"))


class ResponseParser:
    """Feed it bytes; it sets `status`, `headers` (names in lower case) and `parts`, those of the body."""

    __slots__ = (
        "_http", "_is_head", "_overhead", "_till_close", "complete", "has_head", "headers", "keep_alive", "on_body",
        "parts", "size", "status",
    )  # fmt: skip

    def __init__(self, *, is_head: bool = False) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.has_head = False
        self.complete = False
        self.keep_alive = False
        self.parts: deque[bytes] = deque()
        """Parts of the body that were received and not taken."""
        self.size = 0
        """Upper bound of their size: the bytes received, framing included."""
        self._is_head = is_head
        self._overhead = 0
        self._till_close = False
        # httptools appends parts directly, without a Python function in between: streams have a part for each event.
        self.on_body = self.parts.append
        self._http: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Parse bytes. Raises httpx.RemoteProtocolError; parts before the error can still be taken."""
        before = len(self.parts)
        if self._http is None:
            self.keep_alive = False
            return
        try:
            self._http.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.keep_alive = False
            if not self.complete:
                self.drop()
                raise httpx.RemoteProtocolError(reason(error)) from None
        if len(self.parts) == before:
            self._overhead += len(data)
        elif self._is_head:
            self._refuse_body()
        else:
            self._overhead = 0
            self.size += len(data)
        if self.complete:
            self.drop()
        elif self._overhead > OVERHEAD_BYTES:
            self.drop()
            raise httpx.RemoteProtocolError(f"the response has more than {OVERHEAD_BYTES} bytes of headers")

    def feed_eof(self) -> None:
        """Handle a closed connection. Raises httpx.RemoteProtocolError if the response was incomplete."""
        self.keep_alive = False
        if self.complete:
            return
        self.drop()
        if not self._till_close:
            when = "before the response ended" if self.has_head else "without a response"
            raise httpx.RemoteProtocolError(f"the provider closed the connection {when}")
        self.complete = True

    def take(self) -> bytes:
        """Return all received parts of the body, joined."""
        parts = self.parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self.size = 0
        return data

    def take_part(self) -> bytes:
        """Return the next part of the body: a chunk, or what was received of it."""
        data = self.parts.popleft()
        self.size = self.size - len(data) if self.parts else 0
        return data

    def drop(self) -> None:
        """Break the reference cycle with httptools' parser, so that the garbage collector has nothing to do."""
        self._http = None

    # -- httptools callbacks

    def on_message_begin(self) -> None:
        """Reject a second response."""
        if self.complete:
            raise InvalidResponse("unexpected second response")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header; ignore a trailer."""
        if not self.has_head:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is complete."""
        if self._http is None or self.complete:
            return
        if len(self.headers) > MOST_HEADERS:
            raise InvalidResponse(f"the response has more than {MOST_HEADERS} headers")
        status = self._http.get_status_code()
        if status < 200:
            self.headers.clear()
            return
        if status > 599:
            raise InvalidResponse("invalid response status")
        self.status = status
        self.keep_alive = self._http.should_keep_alive()
        self._frame()
        self.has_head = True

    def _frame(self) -> None:
        """Determine the end of the body."""
        named = dict(self.headers)
        if b"transfer-encoding" in named:
            self._check_codings()
        if self._is_head:
            self.complete = True
        elif self.status not in (204, 304):
            self._till_close = FRAMING.isdisjoint(named)

    def _check_codings(self) -> None:
        """Reject a body that is not framed by plain chunks."""
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings != [b"chunked"]:
            raise InvalidResponse("unexpected transfer-encoding in the response")

    def _refuse_body(self) -> None:
        """Reject a body after a response to HEAD."""
        self.parts.clear()
        self.keep_alive = False

    def on_message_complete(self) -> None:
        """A response is complete: the final one, unless it was informational."""
        if self.has_head:
            self.complete = True


class InvalidResponse(Exception):
    """The response violates the rules above; raised through httptools."""


def reason(error: Exception) -> str:
    """Return why a response was rejected; the parser's messages are constants that quote nothing of the response."""
    cause = error.__context__
    if isinstance(cause, InvalidResponse):
        return str(cause)
    return (
        f"invalid HTTP response: {error}" if isinstance(error, httptools.HttpParserError) else "unexpected status 101"
    )
