"""Credentials of routes, as their provider expects them: an API key, a subscription's static token, or one refreshed in
the background.

Not here: refreshing (`token_manager`), and clients' own credentials, which are passed through.
"""

import asyncio
import logging

from redis.asyncio import Redis

from service.fleet.clock import Clock
from service.oauth.credentials_file import CredentialsFile
from service.oauth.shared_token import SharedToken
from service.oauth.token_endpoint import TokenEndpoint
from service.oauth.token_manager import TokenManager
from service.routing.error_words import key_accounts
from service.settings import OAuth, Route, Settings
from service.tasks import cancel_and_wait

log = logging.getLogger("ccproxy.oauth")

TICK_S = 1.0


class NoCredential(Exception):
    """The route has no usable credential now; the message says how to fix that."""


class Credentials:
    """Looks up credentials, and refreshes those that can be refreshed."""

    def __init__(self, settings: Settings, redis: Redis | None, clock: Clock) -> None:
        self._subscriptions = {
            route.id: subscription_of(route, settings.oauth, redis, clock)
            for route in settings.routes
            if route.auth == "oauth" and not route.api_key and not route.off
        }
        self.accounts = key_accounts(settings.routes)
        """The account with which each route is asked now, by the route's id; kept up to date."""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start refreshing ahead of expiry."""
        if self._subscriptions:
            self._task = asyncio.create_task(self._tick_forever(), name="credentials.tick")

    async def stop(self) -> None:
        """Stop, after saving refreshes in progress."""
        if self._task:
            await cancel_and_wait({self._task})
        await asyncio.gather(*(subscription.stop() for subscription in self._subscriptions.values()))

    async def of(self, route: Route) -> str:
        """Return a route's key or token; waits briefly for a refresh in progress. Raises NoCredential."""
        if route.api_key:
            return route.api_key.reveal()
        subscription = self._subscriptions.get(route.id)
        if subscription is None:
            raise NoCredential(route.off or "no key")
        token = await subscription.token()
        self.accounts[route.id] = subscription.account
        if not token:
            raise NoCredential(subscription.trouble)
        return token

    async def refused(self, route: Route, token: str) -> bool:
        """Return True if another token than this one, which the provider answered with 401, is available.

        Forces one refresh for it, unless the file or another host has another token already. The attempt may then be
        repeated once.
        """
        subscription = self._subscriptions.get(route.id)
        if subscription is None:
            return False
        is_renewed = await subscription.refused(token)
        self.accounts[route.id] = subscription.account
        return is_renewed

    async def _tick_forever(self) -> None:
        while True:
            for name, subscription in self._subscriptions.items():
                try:
                    await subscription.tick()
                    self.accounts[name] = subscription.account
                except OSError as error:
                    log.warning("oauth.tick_failed", extra={"route": name, "why": error.strerror})
            await asyncio.sleep(TICK_S)


def subscription_of(route: Route, oauth: OAuth, redis: Redis | None, clock: Clock) -> TokenManager:
    """Create the token manager of a route's subscription."""
    return TokenManager(
        route.id,
        CredentialsFile(route.credentials_path),
        TokenEndpoint(oauth),
        SharedToken(redis, oauth.share_key, route.id) if redis and oauth.share_key else None,
        skew_ms=oauth.skew_ms,
        now_ms=clock.now_ms,
    )
