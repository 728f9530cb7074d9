"""One answer, read from bytes: a parser without a socket. httptools (llhttp, strict) does the reading.

Rules
- Informational answers (1xx) are passed over; 101 was never asked for.
- A body is chunked, or has a length, or lasts until the connection closes; answers to HEAD, 204 and 304 have none.
- Two framings, a folded or malformed header, a bare line feed: refused, never guessed at.
- What comes behind the end of an answer belongs to none: the connection serves no other request.
- Trailers are read and dropped.
- No more than 64 KiB come in a row that are not body: heads, trailers and chunk extensions are bounded alike.

Not here: content encodings (`protocol.content_coding`), waiting (`connection`).
"""

from collections import deque

import httptools
import httpx

OVERHEAD_BYTES = 65_536
"""Longer than any head that is meant: httpx takes 100 KB, nginx 8, and Anthropic's are about 1.5."""
MOST_HEADERS = 256
FRAMING = frozenset((b"content-length", b"transfer-encoding"))


class ResponseParser:
    """Feed it bytes; it fills `status`, `headers` (names in lower case) and `parts`, those of the body."""

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
        """What has come of the body and was not taken."""
        self.size = 0
        """How much that is at most: the bytes that it came with count as well."""
        self._is_head = is_head
        self._overhead = 0
        self._till_close = False
        # A part is taken as it is, without a function of ours in between: streams have one for each event.
        self.on_body = self.parts.append
        self._http: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Read on. Raises httpx.RemoteProtocolError; what came before the fault can still be taken."""
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
        """The connection is closed. Raises httpx.RemoteProtocolError when the answer was not at its end."""
        self.keep_alive = False
        if self.complete:
            return
        self.drop()
        if not self._till_close:
            when = "before the response ended" if self.has_head else "without a response"
            raise httpx.RemoteProtocolError(f"the provider closed the connection {when}")
        self.complete = True

    def take(self) -> bytes:
        """All of the body that has come since, in one piece."""
        parts = self.parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self.size = 0
        return data

    def take_part(self) -> bytes:
        """The next part of the body that has come: one chunk, or what came of it at once."""
        data = self.parts.popleft()
        self.size = self.size - len(data) if self.parts else 0
        return data

    def drop(self) -> None:
        """The parser and this object hold each other; nothing is left to the garbage collector."""
        self._http = None

    # -- httptools' side

    def on_message_begin(self) -> None:
        """Another answer begins; behind the end of ours that is one too many, and not read."""
        if self.complete:
            raise InvalidResponse("unexpected second response")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        if self.has_head:
            return
        if len(self.headers) >= MOST_HEADERS:
            raise InvalidResponse(f"the response has more than {MOST_HEADERS} headers")
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is there."""
        if self._http is None or self.complete:
            return
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
        """How the body ends."""
        framing = [(name, value) for name, value in self.headers if name in FRAMING]
        codings = [value.strip().lower() for name, value in framing if name == b"transfer-encoding"]
        if codings and codings != [b"chunked"]:
            raise InvalidResponse("unexpected transfer-encoding in the response")
        if self._is_head:
            self.complete = True
        elif self.status not in (204, 304):
            self._till_close = not framing

    def _refuse_body(self) -> None:
        """A body that HEAD's answer has all the same is none of ours."""
        self.parts.clear()
        self.keep_alive = False

    def on_message_complete(self) -> None:
        """An answer is at its end; ours, if it was not an informational one."""
        if self.has_head:
            self.complete = True


class InvalidResponse(Exception):
    """An answer has more, or other, than it may have; raised through httptools."""


def reason(error: Exception) -> str:
    """Why an answer was refused; the parser's words are fixed texts, without anything of the answer."""
    cause = error.__context__
    if isinstance(cause, InvalidResponse):
        return str(cause)
    return (
        f"invalid HTTP response: {error}" if isinstance(error, httptools.HttpParserError) else "unexpected status 101"
    )
