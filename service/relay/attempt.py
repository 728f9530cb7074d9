"""What one request is made of while it is relayed: the client's call, the way back, and the tries at answering it.

Not here: what is done with them (`request`, `responses`, `streams`).
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from msgspec import Struct, field

from service.fleet.admission import Grant
from service.ledger.events import Endpoint, Outcome, TokenCounts, Window
from service.protocol.body_survey import BlockSurvey
from service.routing.failover import Attempt
from service.routing.failure import Failure
from service.settings import Route


class ClientRequest(Struct, kw_only=True):
    """A client's request, as the edge read it.

    `body` is as it came, `plain` the same without content encoding, `blocks` those of its messages, None where nobody
    has read them; `upload` stands in place of all three when the body is passed through as it comes. `path` begins
    with /v1/ and keeps its escapes. `credential` is the client's own, "" when it showed none but a key of this proxy;
    `withhold` names the headers that hold such a key. `base_url` is this proxy as the client sees it. `only_routes`
    are the owner's routes that the client's key may use, empty: all. `chain`: all that the client may use, in their
    order. `trimmed`: the provider is asked to shorten the conversation; `dropped_messages` were left out of it here
    already.
    `resource_ids` are named by path or body, `names_in_path`: the path names one.
    `owner` is whose resources the call may use, None where nobody is asked who he is; `shared`: there are other owners,
    so that a resource of which nobody knows the owner may be theirs.
    """

    request_id: str
    method: str
    path: str
    query: str = ""
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""
    plain: bytes = b""
    blocks: Sequence[BlockSurvey] | None = None
    upload: AsyncIterator[bytes] | None = None
    upload_taken: bool = False
    endpoint: Endpoint = "other"
    model: str = ""
    stream: bool = False
    max_tokens: int = 0
    threaded: bool = False
    trimmed: bool = False
    dropped_messages: int = 0
    session_id: str = ""
    resource_ids: tuple[str, ...] = ()
    names_in_path: bool = False
    credential: str = ""
    client_key: str = ""
    owner: str | None = None
    shared: bool = False
    only_routes: tuple[str, ...] = ()
    chain: tuple[Route, ...] = ()
    withhold: tuple[bytes, ...] = ()
    base_url: str = ""
    arrived_ms: int = 0
    deadline_ms: int = 600_000

    @property
    def target(self) -> bytes:
        """Path and query as they go to a provider."""
        return f"{self.path}?{self.query}".encode("ascii") if self.query else self.path.encode("ascii")


class ResponseWriter(Protocol):
    """The way back to the client."""

    started: bool
    """Whether a byte has gone out: then the request is committed."""
    broken: bool
    """Whether the provider's answer broke after that."""
    route: str
    attempts: int

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send the head."""

    async def write(self, data: bytes) -> None:
        """Send a part of the body; waits while the client is slow."""

    async def end(self, data: bytes = b"") -> None:
        """Send the last part of the body, and say that it is complete."""


class AttemptFailed(Exception):
    """An attempt failed in a way that the code below it can't go on from."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class AttemptState(Struct, kw_only=True):
    """An attempt under way: what becomes its `AttemptEnded`, and its error answer for when it is the one to show."""

    attempt: Attempt
    route: Route
    attempt_id: str
    started_ms: int
    outcome: Outcome = "failed"
    failure: Failure | None = None
    status: int = 0
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""
    decoded: bool = False
    tokens: TokenCounts = TokenCounts()
    streamed: bool = False
    windows: dict[str, Window] = field(default_factory=dict)
    first_byte_ms: int | None = None
    first_content_ms: int | None = None
    started: bool = False
    accounted: bool = False
    ended_seq: int = 0
    credential: str = ""
    grant: Grant = field(default_factory=Grant)
    probe: bool = False

    @property
    def shown_status(self) -> int:
        """The status of the error answer: that of its type, should it have come inside a 200."""
        return self.failure.status if self.failure and self.status == 200 else self.status


async def track_upload(call: ClientRequest, upload: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The upload, of which it is noted when its first byte is taken."""
    call.upload_taken = True
    async for part in upload:
        yield part


def length_of(body: bytes) -> tuple[bytes, bytes]:
    """The header that frames a whole body."""
    return b"content-length", b"%d" % len(body)
