"""Enforces the limits of client keys, before routing, with errors that the key's owner can understand.

Limits are those in the ledger (`ccproxy keys`); keys of the settings have none. Refusals are events, so that operators
see them, but at most one a minute per key and reason, so that requests can't grow the ledger. Not here: authentication
(`keys`), and a key's usage (`routing.keys`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

from msgspec import Struct

from service.edge.body_reader import READ_BODIES
from service.edge.model_refs import named_models
from service.errors import ClientError, KeyBusy, KeyExpired, KeyForbids, KeySpent
from service.fleet.admission import Admission, Grant
from service.fleet.clock import Clock, utc_of
from service.ledger.events import Endpoint, Event, RequestRefused
from service.ledger.model_names import NAME_CHARS, bounded_name
from service.ledger.price import PriceList
from service.ledger.state import ClientKey
from service.ledger.wire import CONTROL
from service.protocol.body_survey import LARGE_BYTES
from service.relay import ClientRequest
from service.relay.plain_words import format_time
from service.routing.failover import AdmissionDenied
from service.routing.keys import KeyReading, allows_model, read_key
from service.routing.view import View
from service.settings import QuotaPolicy

RECORD_INTERVAL_MS = 60_000
"""Minimum interval between recorded refusals of one key for one reason."""
BUSY_RETRY_S = 2
READS = frozenset(("GET", "HEAD"))
REASONS: dict[type[ClientError], str] = {
    KeyExpired: "key_expired",
    KeyForbids: "key_model",
    KeySpent: "key_spent",
    KeyBusy: "key_concurrency",
}
"""Reasons for events and metrics."""


class Ledgers(Protocol):
    """Interface of the outbox."""

    async def append(self, stream: str, event: Event) -> object:
        """Append an event."""


class RefusalLog(Struct):
    """Time of the last recorded refusal, and the number of refusals since."""

    at_ms: int = 0
    since: int = 0


class KeyGuard:
    """Enforces the limits of known keys."""

    def __init__(
        self,
        view: Callable[[], View],
        outbox: Ledgers,
        clock: Clock,
        *,
        quota: QuotaPolicy,
        prices: PriceList,
        admission: Admission,
    ) -> None:
        self.under_way: dict[str, int] = {}
        self._admission = admission
        self._view = view
        self._outbox = outbox
        self._clock = clock
        self._quota = quota
        self._prices = prices
        self._refusals: dict[tuple[str, str], RefusalLog] = {}

    async def check(self, key_id: str, key: ClientKey, request: ClientRequest) -> None:
        """Check what the head of a request shows. Raises ClientError."""
        try:
            now_ms = self._clock.now_ms()
            check_expiry(key, now_ms)
            if has_week(key) and not is_free(request.endpoint, request.method, request.path):
                check_week(key, read_key(key_id, key, self._view(), self._quota, self._prices, now_ms), now_ms)
            check_endpoint(key, request)
        except ClientError as error:
            await self._record_refusal(key_id, REASONS[type(error)], request)
            raise

    @asynccontextmanager
    async def admit(self, key_id: str, key: ClientKey, request: ClientRequest) -> AsyncIterator[None]:
        """Hold the key's slot while the request is in progress, after its body was read. Raises ClientError if it is
        not allowed."""
        try:
            await check_models(key, request)
            grant = await self._enter(key_id, key, request)
        except ClientError as error:
            await self._record_refusal(key_id, REASONS[type(error)], request)
            raise
        try:
            with self._counted(key_id):
                yield
        finally:
            if grant:
                self._admission.release(grant)

    async def _enter(self, key_id: str, key: ClientKey, request: ClientRequest) -> Grant | None:
        """Take one of the key's concurrency slots; None if it has no limit."""
        if key.concurrency is None:
            return None
        grant = await self._admission.admit_key(key_id, key.concurrency, request.request_id)
        if isinstance(grant, AdmissionDenied):
            words = f"the key {key.name!r} has reached its limit of {key.concurrency} concurrent requests"
            raise KeyBusy(words, retry_after_s=BUSY_RETRY_S)
        return grant

    @contextmanager
    def _counted(self, key_id: str) -> Iterator[None]:
        """Count the request as in progress for this key in this process."""
        self.under_way[key_id] = self.under_way.get(key_id, 0) + 1
        try:
            yield
        finally:
            self.under_way[key_id] -= 1
            if not self.under_way[key_id]:
                del self.under_way[key_id]

    async def _record_refusal(self, key_id: str, reason: str, request: ClientRequest) -> None:
        """Record a refusal, unless a similar one was recorded within the last minute."""
        now_ms = self._clock.now_ms()
        refusals = self._refusals.setdefault((key_id, reason), RefusalLog())
        refusals.since += 1
        if refusals.at_ms and now_ms - refusals.at_ms < RECORD_INTERVAL_MS:
            return
        event = RequestRefused(
            event_id=self._clock.new_id(),
            at_ms=now_ms,
            request_id=request.request_id,
            client_key=key_id,
            reason=reason,
            model_asked=bounded_name(request.model),
            count=refusals.since,
        )
        refusals.at_ms, refusals.since = now_ms, 0
        await self._outbox.append(CONTROL, event)


def check_expiry(key: ClientKey, now_ms: int) -> None:
    """Raise KeyExpired if the key has expired."""
    if key.expires_at_ms is not None and key.expires_at_ms <= now_ms:
        raise KeyExpired(f"the key {key.name!r} expired on {day_of(key.expires_at_ms)}")


def has_week(key: ClientKey) -> bool:
    """True if the key has a weekly limit."""
    return key.weekly_tokens is not None or key.weekly_cost_nusd is not None


def check_week(key: ClientKey, reading: KeyReading, now_ms: int) -> None:
    """Raise KeySpent if the key has used up its weekly limit."""
    if reading.state == "spent":
        wait_s = -(-(reading.resets_at_ms - now_ms) // 1000)
        words = (
            f"the key {key.name!r} has used what it may use this week; it may go on {format_time(reading.resets_at_ms)}"
        )
        raise KeySpent(words, retry_after_s=max(1, wait_s))


def is_free(endpoint: Endpoint, method: str, path: str) -> bool:
    """True if a request certainly uses no tokens, so that it is allowed even if the key's limit is used up.

    Methods make no difference: a batch's usage is counted when its results are read, so reading them with a used-up key
    would bypass the limit. Results stay available for longer than the week lasts. Cancelling a batch saves tokens.
    """
    if endpoint == "models":
        return method in READS
    return endpoint == "count_tokens" or (endpoint == "batches" and method == "POST" and path.endswith("/cancel"))


def check_endpoint(key: ClientKey, request: ClientRequest) -> None:
    """Raise ClientError if a key with an allow-list of models uses an endpoint that may run any model. Methods make no
    difference: of other endpoints the model is unknown, and a batch may contain any."""
    is_known = request.endpoint in READ_BODIES or request.endpoint == "files"
    if key.models and not is_known and not (request.endpoint == "models" and request.method in READS):
        raise KeyForbids(f"{may_use(key)}, and only in messages")


async def check_models(key: ClientKey, request: ClientRequest) -> None:
    """Run `check_model`; in a thread if the body is large."""
    if len(request.plain) <= LARGE_BYTES:
        check_model(key, request)
    elif key.models:
        await asyncio.to_thread(check_model, key, request)


def check_model(key: ClientKey, request: ClientRequest) -> None:
    """Raise ClientError if the body names a model that the key may not use."""
    if not key.models or request.endpoint not in READ_BODIES:
        return
    if not allows_model(key, request.model):
        raise KeyForbids(f"{may_use(key)}, not {request.model or 'a request without a model'}")
    try:
        others = list(named_models(request.plain))
    except ClientError as error:
        raise KeyForbids(f"{may_use(key)}, and {error.message}") from None
    for model in others:
        if not allows_model(key, model):
            raise KeyForbids(f"{may_use(key)}, not {model[:NAME_CHARS]} in tools or fallbacks")


def may_use(key: ClientKey) -> str:
    """Describe the models that a key may use."""
    return f"the key {key.name!r} may only use {', '.join(key.models)}"


def day_of(at_ms: int) -> str:
    """Format a day, UTC."""
    return f"{utc_of(at_ms):%Y-%m-%d}"
