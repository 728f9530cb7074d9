"""One attempt: its frozen plan, the exchange with the provider, and its frozen outcome.

    AttemptPlan  --admitted-->  UpstreamExchange  --relayed-->  FinalPart  --recorded-->  AttemptOutcome

Not here: running an attempt (`attempt_runner`), relaying its response (`responses`), what follows (`request`).
"""

import asyncio
from collections.abc import Sequence

from msgspec import Struct, field

from service.fleet.admission import Grant
from service.http1.upstream import UpstreamResponse
from service.ledger.events import Opinion, Outcome
from service.protocol.usage_reader import NO_USAGE, UsageReading
from service.providers.headers import request_id_of
from service.relay.client import ClientRequest, ResponseWriter
from service.routing.failover import Attempt
from service.routing.failure import Failure
from service.settings import Route


class AttemptPlan(Struct, frozen=True, kw_only=True):
    """An admitted attempt. `model` is the one that the provider is asked for; `grant` is held until the attempt ends;
    `probe`: it tests a half-open circuit. `dropped` are the fields of the request that the provider does not get."""

    attempt: Attempt
    route: Route
    model: str
    attempt_id: str
    started_ms: int
    grant: Grant = field(default_factory=Grant)
    probe: bool = False
    dropped: tuple[str, ...] = ()


class ResponseProgress(Struct):
    """A response's usage so far. The client may disconnect at any moment; the usage counts all the same.

    Written while the response is relayed, and only there.
    """

    usage: UsageReading = NO_USAGE
    first_part_ms: int | None = None
    first_content_ms: int | None = None
    is_event_stream: bool = False


class UpstreamExchange(Struct, frozen=True):
    """A provider's response that has begun, and where it goes. `deadline` holds until content is committed."""

    request: ClientRequest
    plan: AttemptPlan
    credential: str
    upstream: UpstreamResponse
    response: ResponseWriter
    deadline: asyncio.Timeout
    progress: ResponseProgress


class FinalPart(Struct, frozen=True):
    """The rest of a response, held back until the attempt's end is on the ledger.

    `head`: status and headers, for a response of which nothing was sent yet. `failure`: why a stream ends with an error
    event. `resource_ids`: what the response created at the provider.
    """

    data: bytes
    head: tuple[int, Sequence[tuple[bytes, bytes]]] | None = None
    failure: Failure | None = None
    resource_ids: tuple[str, ...] = ()


class AttemptOutcome(Struct, frozen=True, kw_only=True):
    """The outcome of an attempt.

    `started`: the ledger has its start; `recorded`: the ledger has its end, as number `ended_seq` of the route's
    events. `ended_ms` is when it ended, 0 for when it is recorded. `account` was asked. `opinion` is what came of
    a second opinion on its failure. `is_evidence`: the words of an error that no rule knows count, since no second
    route has confirmed that the request is at fault.
    `loses_thoughts`: the session moved, and thinking blocks were left behind. `first_part_ms` is when the first part of
    an event stream came, were it a ping. `early_head`: the client had its head before there was content. `status`,
    `headers` and `body` are the provider's response, kept in case it is the one to show to the client.
    """

    plan: AttemptPlan
    result: Outcome
    failure: Failure | None = None
    credential: str = ""
    status: int = 0
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""
    body_decoded: bool = False
    is_event_stream: bool = False
    usage: UsageReading = NO_USAGE
    first_byte_ms: int | None = None
    first_part_ms: int | None = None
    first_content_ms: int | None = None
    early_head: bool = False
    started: bool = False
    recorded: bool = False
    ended_seq: int = 0
    ended_ms: int = 0
    account: str = ""
    loses_thoughts: bool = False
    opinion: Opinion = ""
    is_evidence: bool = True

    @property
    def shown_status(self) -> int:
        """The status that the client sees: for an error inside a 200, that of the error's type."""
        return self.failure.status if self.failure and self.status == 200 else self.status

    @property
    def untold_id(self) -> str:
        """The provider's id of the request, where no header of an answer has told it to the client."""
        if self.result == "ok" and not self.early_head:
            return ""
        return request_id_of(self.headers, self.credential)


class AttemptFailed(Exception):
    """The attempt failed. `body` is the provider's error, kept in case it is the one to show to the client."""

    def __init__(self, failure: Failure, body: bytes = b"") -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.body = body
