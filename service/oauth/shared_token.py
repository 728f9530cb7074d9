"""Shares a subscription's access token between hosts through Redis, and elects the host that refreshes it.

Laws
- Only the access token is shared, until it expires, encrypted with a key from the settings. The refresh token never
  leaves the file.
- One proxy of the fleet refreshes at a time: it holds a lease.
- While Redis is unavailable nothing is shared, nothing fails, and the file lock alone decides.

Not here: encryption (`token_cipher`), files, the token endpoint, and the overall flow (`token_manager`).
"""

import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

import msgspec
from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.ledger.wire import oauth_asked_key, oauth_lease_key, oauth_token_key
from service.oauth.credentials_file import OAuthTokens
from service.settings import Secret

log = logging.getLogger("ccproxy.oauth")

REQUEST_TTL_MS = 15_000
"""Maximum time for which a refresh request stands."""
LEASE_MS = 40_000
"""Longer than the longest refresh; the lease of a dead proxy expires after it."""
AWAY_S = 5.0
"""After a failure Redis is skipped for this long, because requests wait for its reply."""
RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"
T = TypeVar("T")


class SharedPayload(Struct):
    """The encrypted payload."""

    access_token: str
    expires_at_ms: int
    account: str = ""


class SharedToken:
    """One route's shared token. While Redis is unavailable, every method behaves as if nothing were shared."""

    def __init__(self, redis: Redis, share_key: Secret, route: str) -> None:
        from service.oauth.token_cipher import TokenCipher

        self._redis, self._cipher = redis, TokenCipher(share_key)
        self._token_key, self._request_key = oauth_token_key(route), oauth_asked_key(route)
        self._lease_key, self._lease = oauth_lease_key(route), os.urandom(12).hex()
        self._away_until_s = 0.0

    async def read(self) -> OAuthTokens | None:
        """Return the shared token; None if there is none that this key decrypts."""
        sealed = await self._or_default(lambda: self._redis.get(self._token_key), None)
        if not isinstance(sealed, bytes):
            return None
        raw = self._cipher.decrypt(sealed, self._token_key)
        if raw is None:
            return None
        try:
            shared = msgspec.json.decode(raw, type=SharedPayload)
        except msgspec.DecodeError:
            return None
        return OAuthTokens(shared.access_token, "", shared.expires_at_ms, shared.account)

    async def publish(self, tokens: OAuthTokens, now_ms: int) -> None:
        """Share an access token until it expires."""
        left_ms = tokens.expires_at_ms - now_ms
        if left_ms <= 0:
            return
        raw = msgspec.json.encode(SharedPayload(tokens.access_token, tokens.expires_at_ms, tokens.account))
        sealed = self._cipher.encrypt(raw, self._token_key)
        await self._or_default(lambda: self._redis.set(self._token_key, sealed, px=left_ms), None)

    async def request_refresh(self, useless: str) -> bool:
        """Request a refresh from hosts that can; `useless` is the fingerprint of the current token. False: Redis is
        unavailable."""
        return bool(
            await self._or_default(lambda: self._redis.set(self._request_key, useless, px=REQUEST_TTL_MS), None)
        )

    async def requested_refresh(self) -> str | None:
        """Return the fingerprint of the token for which a refresh is requested."""
        found = await self._or_default(lambda: self._redis.get(self._request_key), None)
        return found.decode(errors="replace") if isinstance(found, bytes) else None

    async def clear_request(self) -> None:
        """Delete the request for a refresh."""
        await self._or_default(lambda: self._redis.delete(self._request_key), 0)

    async def acquire_lease(self) -> bool:
        """Acquire the lease to refresh; True also if Redis is unavailable."""
        got: object = await self._or_default(
            lambda: self._redis.set(self._lease_key, self._lease, px=LEASE_MS, nx=True), otherwise=True
        )
        return got is not None

    async def release_lease(self) -> None:
        """Release the lease if this process still holds it."""
        await self._or_default(lambda: self._run(RELEASE, self._lease_key, self._lease), None)

    def _run(self, script: str, key: str, argument: str) -> Awaitable[object]:
        return cast("Awaitable[object]", self._redis.eval(script, 1, key, argument))

    async def _or_default(self, command: Callable[[], Awaitable[T]], otherwise: T) -> T:
        if time.monotonic() < self._away_until_s:
            return otherwise
        try:
            return await command()
        except (RedisError, OSError, TimeoutError) as error:
            self._away_until_s = time.monotonic() + AWAY_S
            log.debug("oauth.redis_away", extra={"error": type(error).__name__})
            return otherwise
