"""Keeps one subscription's access token fresh: refreshes it where the file can be written, and shares it with other
hosts.

    fresh in the file?                   use it
    else fresh at another proxy?         use its shared token
    else the file can be written:        lock, lease, read again; still stale: refresh, save, share
    else                                 request a refresh from proxies that can, and wait for what they share

Laws
- A refresh token works once. It is used under the file's lock (and the fleet's lease), after reading again, and the new
  tokens are saved before anything else happens. If saving fails they are kept, and saved as soon as possible.
- A token about to expire is refreshed while it is still valid: a request waits only for an expired one, and briefly.
  `tick` refreshes each second if necessary, also while no requests come because the quota is spent.
- The endpoint is not overloaded: its delays are kept, and a refresh token that it refused is never sent again.
- A refresh is never cancelled by a client that disconnects.

Not here: the bytes of the file (`credentials_file`), of the endpoint (`token_endpoint`), of Redis (`shared_token`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from msgspec.structs import replace

from service.ledger.events import NoticeCode
from service.oauth.credential_notice import ALL_WELL, CredentialNotice, notice_of
from service.oauth.credentials_file import CredentialsFile, FileLock, NoLogin, OAuthTokens, Unreadable, fingerprint
from service.oauth.shared_token import SharedToken
from service.oauth.token_endpoint import TIMEOUT_S, RefreshRefused, TokenEndpoint, TryLater
from service.tasks import cancel_and_wait

log = logging.getLogger("ccproxy.oauth")

WAIT_S = 20.0
"""Maximum time that a request waits for a token; then its route is skipped."""
LOCK_S = 25.0
"""Maximum time for which another process holds the lock or the lease, unless it hangs."""
REQUEST_WAIT_S = 15.0
POLL_S = 0.1
SETTLE_S = 2.0
"""A concurrent refresh that won has saved its tokens by then."""
BACKOFF_MS = 5_000
BACKOFF_CAP_MS = 300_000
RETRY_AFTER_CAP_MS = 3_600_000
FORCE_GAP_MS = 300_000
"""A token younger than this that is refused was not refused because of its age."""
SHARE_AGAIN_MS = 10_000
"""Interval at which a token is shared again, in case Redis lost it."""
REFRESH_OUTCOMES = ("ok", "failed", "refused")
T = TypeVar("T")


class UnsavedToken(NamedTuple):
    """Tokens that are not in the file yet, and those in the file that they replace."""

    spent: OAuthTokens
    issued: OAuthTokens


class TokenManager:
    """Manages the token of one route with a credentials file."""

    def __init__(
        self,
        route: str,
        file: CredentialsFile,
        endpoint: TokenEndpoint,
        shared: SharedToken | None,
        *,
        skew_ms: int,
        now_ms: Callable[[], int],
    ) -> None:
        self.trouble = ""
        self.refreshes = dict.fromkeys(REFRESH_OUTCOMES, 0)
        """How refreshes of this process have ended."""
        self._found: tuple[NoticeCode, str] = ("", "")
        """What `trouble` is about, with the detail that its notice has."""
        self._route = route
        self._file = file
        self._endpoint = endpoint
        self._shared = shared
        self._skew_ms = skew_ms
        self._now_ms = now_ms
        self._current: OAuthTokens | None = None
        self._own: OAuthTokens | None = None
        self._unsaved: UnsavedToken | None = None
        self._changed_ms = 0
        self._shared_ms = 0
        self._refused = ""
        self._ended = ""
        self._not_before_ms = 0
        self._failures = 0
        self._stopping = False
        self._looking = asyncio.Lock()
        self._renewal: asyncio.Task[None] | None = None

    # -- for requests

    @property
    def account(self) -> str:
        """The log-in whose token is at hand; "" when none is, or nobody has told."""
        return self._current.account if self._current else ""

    @property
    def notice(self) -> CredentialNotice:
        """What others should know of the credential: why it can't serve, or soon won't."""
        code, detail = self._found
        is_fresh, is_valid = self._is_fresh(self._current), self._is_valid(self._current)
        if self._unsaved and is_fresh and not self._is_renewing:
            return notice_of("not_saved", usable=True)
        if not code or (is_fresh and code != "unreadable"):
            return ALL_WELL
        return notice_of(code, detail, usable=is_valid)

    @property
    def has_token(self) -> bool:
        """True if there is a token that has not expired."""
        return self._is_valid(self._current)

    async def token(self) -> str:
        """Return the access token; "" if there is none now, with the reason and the fix in `trouble`."""
        if not self._is_valid(self._current):
            await self._read_current()
        if not self._is_valid(self._current):
            await self._wait_for_renewal()
        return self._current.access_token if self._current and self._is_valid(self._current) else ""

    async def refused(self, token: str) -> bool:
        """Return True if another token than this one, which the provider refused, is available."""
        await self._read_current()
        if self._is(token):
            if self._now_ms() < self._changed_ms + FORCE_GAP_MS:
                return False
            self._refused = token
        if self._is(token) or not self._is_valid(self._current):
            await self._wait_for_renewal()
        return self._is_valid(self._current) and not self._is(token)

    def _is(self, token: str) -> bool:
        return self._current is not None and self._current.access_token == token

    def _is_valid(self, tokens: OAuthTokens | None) -> bool:
        """True if the token has not expired."""
        return tokens is not None and (not tokens.expires_at_ms or tokens.expires_at_ms > self._now_ms())

    def _is_fresh(self, tokens: OAuthTokens | None) -> bool:
        """True if the token is not about to expire either."""
        if tokens is None or tokens.access_token == self._refused:
            return False
        return not tokens.expires_at_ms or tokens.expires_at_ms - self._skew_ms > self._now_ms()

    # -- in the background

    async def tick(self) -> None:
        """Run each second: notice new tokens, refresh ahead of expiry, serve requests of other hosts."""
        await self._read_current()
        if self._unsaved and not self._is_renewing:
            await self._save_late(self._unsaved)
        if self._shared and self._own:
            await self._serve_others(self._shared, self._own)
        if not self._is_fresh(self._current):
            self._begin()

    async def stop(self) -> None:
        """Wait for a refresh in progress: its response can't be requested twice."""
        self._stopping = True
        if self._renewal and not self._renewal.done():
            await asyncio.wait({self._renewal}, timeout=TIMEOUT_S + SETTLE_S)
            await cancel_and_wait({self._renewal})

    async def _serve_others(self, shared: SharedToken, own: OAuthTokens) -> None:
        """Share the file's token, and refresh it if another host found it useless."""
        useless = await shared.requested_refresh()
        if useless == fingerprint(own.access_token) and self._now_ms() >= self._changed_ms + FORCE_GAP_MS:
            self._refused = own.access_token
        if not self._is_fresh(own):
            return
        if useless is not None or self._now_ms() >= self._shared_ms + SHARE_AGAIN_MS:
            await self._share(shared, own)

    async def _share(self, shared: SharedToken, own: OAuthTokens) -> None:
        """Share a token unless a newer one is shared already."""
        self._shared_ms = self._now_ms()
        there = await shared.read()
        if there is None or there.access_token == self._refused or there.expires_at_ms <= own.expires_at_ms:
            await shared.publish(own, self._now_ms())
        await shared.clear_request()

    # -- reading

    async def _read_current(self) -> None:
        """Use the file's token, or a shared one if it is stale."""
        async with self._looking:
            self._own = found = await self._read()
            if self._shared and not self._is_fresh(found):
                other = await self._shared.read()
                if self._is_fresh(other) or (self._is_valid(other) and not self._is_valid(found)):
                    found = other
            self._set_current(found)

    async def _read(self) -> OAuthTokens | None:
        """Return the file's tokens, or unsaved ones."""
        try:
            tokens = await asyncio.to_thread(self._read_file)
        except NoLogin as error:
            self._unsaved = None
            self._note("absent", f"{self._file.path} {error}; log in with Claude Code, or set CLAUDE_CODE_OAUTH_TOKEN")
            return None
        except Unreadable as error:
            words = f"{self._file.path} can't be read ({error}); repair it, or log in with Claude Code again"
            self._note("unreadable", words)
            return self._own
        if self._found[0] in ("absent", "unreadable"):
            self._found = ("", "")
        if self._unsaved and self._unsaved.spent.refresh_token == tokens.refresh_token:
            return self._unsaved.issued
        self._unsaved = None
        return tokens

    def _note(self, code: NoticeCode, trouble: str, detail: str = "") -> None:
        """Keep what is wrong, for requests and for others."""
        self.trouble, self._found = trouble, (code, detail)

    def _read_file(self) -> OAuthTokens:
        """Read the file's tokens, with their account. Blocks."""
        tokens, own = self._file.read(), self._own
        if own and own.access_token == tokens.access_token and own.refresh_token == tokens.refresh_token:
            return replace(tokens, account=own.account)
        return replace(tokens, account=self._file.account_of(tokens))

    def _set_current(self, tokens: OAuthTokens | None) -> None:
        """Set the current token. A new one has no failures yet."""
        before, self._current = self._current, tokens
        if tokens is None or (before and tokens.access_token == before.access_token):
            return
        now_ms = self._now_ms()
        self._failures = self._not_before_ms = 0
        if self._found[0] != "unreadable":
            self._found = ("", "")
        if before:
            self._changed_ms = now_ms
            if self._is_valid(tokens) and not self._is_fresh(tokens):  # shorter-lived than the skew
                self._not_before_ms = now_ms + max(BACKOFF_MS, (tokens.expires_at_ms - now_ms) // 2)

    # -- refreshing

    @property
    def _is_renewing(self) -> bool:
        return self._renewal is not None and not self._renewal.done()

    async def _wait_for_renewal(self) -> None:
        """Wait briefly for the refresh in progress, unless it can't succeed."""
        self._begin()
        if self._renewal and not self._renewal.done():
            _, late = await asyncio.wait({self._renewal}, timeout=WAIT_S)
            if late:
                words = f"the token has expired, and its refresh took longer than {WAIT_S:.0f} s"
                self._note("not_refreshed", words, f"took longer than {WAIT_S:.0f} s")

    def _begin(self) -> None:
        if not self._is_renewing and not self._stopping and self._now_ms() >= self._not_before_ms:
            self._renewal = asyncio.create_task(self._renew(), name=f"oauth.{self._route}")

    async def _renew(self) -> None:
        """Obtain a fresh token, or set `trouble` to the reason."""
        try:
            if await self._can_refresh() or (self._shared and await self._request_from_others(self._shared)):
                await self._refresh_locked()
        except TryLater as error:
            self._back_off(error)
        except FileNotFoundError:
            await self._read_current()
        except OSError as error:
            self._back_off(TryLater(f"{self._file.path}: {error.strerror or type(error).__name__}"))
        except Exception as error:  # noqa: BLE001 - whatever a library raises becomes the route's state
            self._back_off(TryLater(f"unexpected {type(error).__name__}; see the log"), exc_info=True)

    async def _can_refresh(self) -> bool:
        """Return True if the file holds a usable refresh token and can be written; else sets `trouble`."""
        is_live = self._own is not None and self._own.refresh_token not in ("", self._ended)
        if is_live and await asyncio.to_thread(self._file.can_write):
            return True
        self._explain()
        return False

    def _explain(self) -> None:
        """Set `trouble` to the reason why this process can't refresh. The tick re-reads the file."""
        if self._own is None:
            return
        path = self._file.path
        if self._own.refresh_token == self._ended != "":
            self._note("ended", f"the login in {path} has ended; log in with Claude Code again (claude /login)")
        elif not self._own.refresh_token:
            words = f"the token in {path} has expired and has no refresh token; log in with Claude Code again"
            self._note("expired", words, "it has no refresh token")
        else:
            words = f"the token in {path} has expired, and the file is not writable; start Claude Code once"
            self._note("expired", words, "the credentials file is not writable")

    def _back_off(self, error: TryLater, *, exc_info: bool = False) -> None:
        """Schedule the next try, with growing delays, or as the endpoint requested."""
        backoff_ms = min(BACKOFF_CAP_MS, BACKOFF_MS << min(self._failures, 10))
        wait_ms = max(backoff_ms, min(RETRY_AFTER_CAP_MS, int(error.after_s * 1000)))
        self._failures += 1
        self._not_before_ms = self._now_ms() + wait_ms
        self.refreshes["failed"] += 1
        words = f"the token has expired and was not refreshed: {error}; next attempt in {wait_ms // 1000} s"
        self._note("not_refreshed", words, str(error).replace(self._file.path, "its credentials file"))
        extra = {"route": self._route, "why": str(error), "again_ms": wait_ms}
        log.log(logging.ERROR if exc_info else logging.DEBUG, "oauth.not_refreshed", extra=extra, exc_info=exc_info)

    async def _refresh_locked(self) -> None:
        """Refresh under the file's lock and the fleet's lease, unless another process does."""
        lock = await self._poll_until(self._try_lock, LOCK_S)
        if lock is None:
            return
        try:
            if self._shared is None:
                await self._refresh()
            elif await self._poll_until(self._shared.acquire_lease, LOCK_S):
                try:
                    await self._refresh()
                finally:
                    await self._shared.release_lease()
        finally:
            lock.release()

    async def _try_lock(self) -> FileLock | None:
        return await asyncio.to_thread(self._file.try_lock)

    async def _poll_until(self, attempt: Callable[[], Awaitable[T]], limit_s: float) -> T | None:
        """Repeat `attempt` until it returns something; None if a fresh token appeared first. Raises TryLater."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + limit_s
        while not (got := await attempt()):
            await self._read_current()
            if self._is_fresh(self._current):
                return None
            if self._stopping or loop.time() > until_s:
                raise TryLater("another process has been refreshing it for too long")
            await asyncio.sleep(POLL_S)
        return got

    async def _refresh(self) -> None:
        """Use the file's refresh token if the file's token is still stale. Called under the lock."""
        await self._read_current()
        own = self._own
        if self._is_fresh(self._current) or own is None or not own.refresh_token:
            return
        try:
            issued = await self._endpoint.refresh(own.refresh_token, self._now_ms())
        except RefreshRefused:
            await self._handle_refused(own.refresh_token)
            return
        self.refreshes["ok"] += 1
        issued = replace(issued, account=own.account)
        self._unsaved = UnsavedToken(self._unsaved.spent if self._unsaved else own, issued)
        if not await self._save(self._unsaved):
            log.debug("oauth.not_saved", extra={"route": self._route, "file": self._file.path})
        await self._read_current()
        log.info("oauth.refreshed", extra={"route": self._route, "expires_at_ms": issued.expires_at_ms})
        if self._shared and self._own:
            await self._share(self._shared, self._own)

    async def _handle_refused(self, spent: str) -> None:
        """Handle a refused refresh token: another process used it at the same moment, or the log-in has ended."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + SETTLE_S
        while self._own is not None and self._own.refresh_token == spent:
            if loop.time() > until_s:
                self._ended = spent
                self.refreshes["refused"] += 1
                self._explain()
                return
            await asyncio.sleep(POLL_S)
            await self._read_current()

    # -- saving

    async def _save(self, unsaved: UnsavedToken) -> bool:
        """Save tokens to the file. False: it failed, and they are kept for another try. The next read gets the file's
        content."""
        try:
            if not await asyncio.to_thread(self._file.save, unsaved.spent.refresh_token, unsaved.issued):
                log.warning("oauth.superseded", extra={"route": self._route, "file": self._file.path})
        except NoLogin:
            log.warning("oauth.logged_out", extra={"route": self._route, "file": self._file.path})
        except (Unreadable, OSError):
            return False
        return True

    async def _save_late(self, unsaved: UnsavedToken) -> None:
        """Retry a failed save."""
        lock = await self._try_lock()
        if lock is None:
            return
        try:
            if await self._save(unsaved):
                log.info("oauth.saved", extra={"route": self._route})
        finally:
            lock.release()

    # -- asking other hosts

    async def _request_from_others(self, shared: SharedToken) -> bool:
        """Request a refresh from proxies that can write the file. True: this one now can. False: they refreshed. Raises
        TryLater."""
        if not await shared.request_refresh(fingerprint(self._current.access_token) if self._current else ""):
            raise TryLater("this proxy can't refresh it, and can't ask another one while Redis is unavailable")
        try:
            return bool(await self._poll_until(self._can_refresh, REQUEST_WAIT_S))
        except TryLater:
            raise TryLater("no proxy can refresh it; log in with Claude Code on the host of one") from None
