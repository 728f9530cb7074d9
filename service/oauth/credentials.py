"""Credentials of routes, as their provider expects them: an API key, a subscription's static token, or one refreshed in
the background.

When a credential can't serve, or soon won't, that becomes the state of its route: a `RouteNotice` on the route's
stream, and a line in the log, when it begins and when it ends.

Not here: refreshing (`token_manager`), and clients' own credentials, which are passed through.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis

from service.fleet.clock import Clock
from service.ledger.events import RouteNotice
from service.oauth.credential_notice import ALL_WELL, CredentialNotice, notice_of
from service.oauth.credentials_file import CredentialsFile
from service.oauth.shared_token import SharedToken
from service.oauth.token_endpoint import TokenEndpoint
from service.oauth.token_manager import TokenManager
from service.routing.error_words import key_accounts
from service.settings import OAuth, Route, Settings
from service.tasks import cancel_and_wait

Notify = Callable[[str, RouteNotice], Awaitable[object]]

log = logging.getLogger("ccproxy.oauth")

TICK_S = 1.0


class NoCredential(Exception):
    """The route has no usable credential now; the message says how to fix that."""


class Credentials:
    """Looks up credentials, and refreshes those that can be refreshed. `notify` appends to a route's stream."""

    def __init__(self, settings: Settings, redis: Redis | None, clock: Clock, notify: Notify | None = None) -> None:
        self._clock = clock
        self._notify = notify
        self._noticed: dict[str, CredentialNotice] = {}
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

    @property
    def refreshes(self) -> dict[tuple[str, ...], int]:
        """How refreshes of this process have ended: by route and outcome."""
        return {
            (name, outcome): count
            for name, subscription in self._subscriptions.items()
            for outcome, count in subscription.refreshes.items()
        }

    async def _tick_forever(self) -> None:
        while True:
            for name, subscription in self._subscriptions.items():
                await self._tick(name, subscription)
            await asyncio.sleep(TICK_S)

    async def _tick(self, name: str, subscription: TokenManager) -> None:
        """Keep one subscription's token fresh. Whatever goes wrong is the state of its route, and of no other."""
        unexpected: Exception | None = None
        try:
            await subscription.tick()
            self.accounts[name] = subscription.account
            notice, trouble = subscription.notice, subscription.trouble
        except Exception as error:  # noqa: BLE001 - whatever it is
            unexpected = error
            trouble = str(error) if isinstance(error, OSError) else type(error).__name__
            notice = notice_of("task", type(error).__name__, usable=subscription.has_token)
        await self._report(name, notice, trouble, unexpected)

    async def _report(self, name: str, notice: CredentialNotice, trouble: str, error: Exception | None) -> None:
        """Log a route's notice, and tell the other processes, if it differs from the last one."""
        last = self._noticed.get(name, ALL_WELL)
        if (notice.code, notice.usable) == (last.code, last.usable):
            return
        self._noticed[name] = notice
        if notice.code:
            name_of_line = "credential.at_risk" if notice.usable else "credential.unusable"
            extra = {"route": name, "why": trouble if notice.code != "not_saved" else notice.message}
            log.warning(name_of_line, extra=extra, exc_info=error)
        else:
            log.warning("credential.usable", extra={"route": name})
        if self._notify:
            event = RouteNotice(
                event_id=self._clock.new_id(),
                at_ms=self._clock.now_ms(),
                code=notice.code,
                usable=notice.usable,
                message=notice.message,
            )
            await self._notify(name, event)


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
