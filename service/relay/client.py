"""The client's side of a relayed request: what it asked for, and the way back to it.

Not here: reading a request from the connection, or writing to it (`edge`).
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from msgspec import Struct

from service.ledger.events import AttemptEnded, Endpoint
from service.protocol.body_survey import BlockSurvey, MessageSurvey
from service.settings import Route

READS = frozenset(("GET", "HEAD"))
"""Methods that create nothing, and that may be asked of several routes in turn."""


class LastServed(Struct, frozen=True):
    """What gave a session its last answer: the route, with this account ("" if unknown), and the model it was sent.

    `has_moved`: other routes or accounts gave it answers before.
    """

    route: str
    account: str = ""
    model: str = ""
    has_moved: bool = False


class EndedAttempt(Struct, frozen=True):
    """An attempt that has ended, for the log. `number`: of the request's attempts, from 1."""

    number: int
    route: Route
    event: AttemptEnded
    first_content_ms: int | None


class ClientRequest(Struct, kw_only=True):
    """A client's request, as the edge read it.

    request
        `path` begins with /v1/ and keeps its escapes. `body` is as it came, `plain` the same without content encoding,
        `messages` what decides about changes to its messages (of `block_count` blocks), None if not read. `upload`
        replaces all three for a body that is passed through. `trimmed`: the provider is asked to shorten the
        conversation; `dropped_messages` were already left out of it here. `fields` are those of the body that some
        provider can't keep (`routing.request_fields`).
    client
        `credential` is the client's own, "" when it sent none but a key of this proxy; `withhold` names the headers
        that hold such a key. `only_routes` are the owner's routes that the client's key may use, `only_models`
        patterns of models, empty: all. `chain`: all routes that the client may use, in order. `base_url` is this proxy
        as the client sees it.
    thread
        `threaded`: the request begins or continues a thread. What it continues, at `previous_message_id`, is not in it.
    session
        `mid_turn`: the last message brings results of tools. `session_key` is what the session's place is known by, ""
        where that doesn't matter; `last_served` gave it its last answer, None if that is unknown.
    resources
        `resource_ids` are named by path or body, `names_in_path`: the path names one. `owner` is whose resources the
        request may use, None where nobody has to say who they are; `shared`: there are other owners, so that a resource
        without a known owner may be theirs.
    log
        `last` is the last attempt that has ended on the ledger.
    """

    request_id: str
    method: str
    path: str
    query: str = ""
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""
    plain: bytes = b""
    messages: Sequence[MessageSurvey[BlockSurvey]] | None = None
    block_count: int = 0
    upload: AsyncIterator[bytes] | None = None
    upload_taken: bool = False
    endpoint: Endpoint = "other"
    model: str = ""
    stream: bool = False
    max_tokens: int = 0
    threaded: bool = False
    continues_thread: bool = False
    previous_message_id: str = ""
    trimmed: bool = False
    dropped_messages: int = 0
    fields: tuple[str, ...] = ()
    session_id: str = ""
    mid_turn: bool = False
    session_key: str = ""
    last_served: LastServed | None = None
    resource_ids: tuple[str, ...] = ()
    names_in_path: bool = False
    credential: str = ""
    client_key: str = ""
    owner: str | None = None
    shared: bool = False
    only_routes: tuple[str, ...] = ()
    only_models: tuple[str, ...] = ()
    chain: tuple[Route, ...] = ()
    withhold: tuple[bytes, ...] = ()
    base_url: str = ""
    arrived_ms: int = 0
    deadline_ms: int = 600_000
    last: EndedAttempt | None = None

    @property
    def target(self) -> bytes:
        """Path and query as they go to a provider."""
        return f"{self.path}?{self.query}".encode("ascii") if self.query else self.path.encode("ascii")


class ResponseWriter(Protocol):
    """The response to the client, as an attempt sees it."""

    @property
    def early(self) -> bool:
        """True if status and headers have gone before any route had content."""

    @property
    def committed(self) -> bool:
        """True if a route's answer has begun, so that no other route can answer."""

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Begin an answer: send its head, unless that has gone early."""

    async def write(self, data: bytes) -> None:
        """Send a part of the body; waits while the client is slow."""

    async def end(self, data: bytes = b"") -> None:
        """Send the last part of the body, and complete the response."""


class ClientResponse(ResponseWriter, Protocol):
    """The response to the client, as a request sees it.

    `started`: status and headers have gone. `broken`: the provider's response broke off after it was committed.
    `route`, `attempts`, and the fields of the request that the route `dropped` are reported in headers.
    """

    started: bool
    early: bool
    committed: bool
    broken: bool
    route: str
    attempts: int
    dropped: tuple[str, ...]

    async def start_early(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send the head of an event stream whose route is not known yet."""


def forget_body(request: ClientRequest) -> None:
    """Free the body of a request that has failed: its client may read the response slowly."""
    request.body = request.plain = b""
    request.messages = None


async def track_upload(request: ClientRequest, upload: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The upload; the request remembers that its first byte was taken, since it can't be sent twice."""
    request.upload_taken = True
    async for part in upload:
        yield part


def content_length(body: bytes) -> tuple[bytes, bytes]:
    """The header that frames a whole body."""
    return b"content-length", b"%d" % len(body)
