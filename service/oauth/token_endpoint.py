"""Client of Anthropic's OAuth token endpoint: exchanges a refresh token, which is then invalid, for new tokens.

Source: requests and responses of public clients; there is no official documentation. Not here: when to refresh
(`token_manager`) and storing the result (`credentials_file`).
"""

import asyncio
import re

import httpx
import msgspec
from msgspec import Struct

from service.egress import UnusableProxy, proxy_for, tls_context
from service.oauth.credentials_file import OAuthTokens, is_token
from service.protocol.content_coding import BadEncoding, stages_of, through
from service.settings import OAuth

TIMEOUT_S = 15.0
"""For the whole request; a stop waits for it, because the response can't be requested twice."""
CONNECT_S = 5.0
MAX_BYTES = 64 * 1024
DEFAULT_LIFETIME_S = 28_800
"""Lifetime of an access token (eight hours) if the response has none."""
MIN_LIFETIME_S, MAX_LIFETIME_S = 60, 366 * 86_400
"""Bounds of a lifetime: below, the endpoint would be called each second; above, it must be an error."""
ERROR_CODE = re.compile(r"[a-z_]{1,40}")
"""Error codes of RFC 6749; other text of a response is not repeated, since it may quote a token."""


class RefreshRefused(Exception):
    """`invalid_grant`: the refresh token was used, revoked or has expired. Only a new log-in helps."""


class TryLater(Exception):
    """No tokens this time. `after_s` is the delay that the endpoint requested; the message holds no secret."""

    def __init__(self, words: str, after_s: float = 0.0) -> None:
        super().__init__(words)
        self.after_s = after_s


class TokenResponse(Struct):
    """A successful response."""

    access_token: str
    refresh_token: str = ""
    expires_in: object = DEFAULT_LIFETIME_S


class ErrorResponse(Struct):
    """An error response of RFC 6749; others have an object for `error`."""

    error: object = ""


class TokenEndpoint:
    """Calls the endpoint named in the settings."""

    def __init__(self, oauth: OAuth) -> None:
        self._oauth = oauth

    async def refresh(self, refresh_token: str, now_ms: int) -> OAuthTokens:
        """Exchange a refresh token for new tokens. Raises RefreshRefused, TryLater."""
        ask = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": self._oauth.client_id}
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status, headers, content = await self._post(ask)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError, ValueError) as error:
            raise TryLater(f"can't be reached ({type(error).__name__})") from None
        except UnusableProxy as error:
            raise TryLater(f"can't be reached: {error}") from None
        if status != 200:
            raise failure_of(status, headers, content)
        return issued_tokens(content, refresh_token, now_ms)

    async def _post(self, payload: dict[str, str]) -> tuple[int, httpx.Headers, bytes]:
        """Return status, headers and the bounded body. Uses a new client, since it is needed once in hours."""
        client = await asyncio.to_thread(self._client)  # loading certificates takes a while
        plain = {"accept-encoding": "identity"}
        async with client, client.stream("POST", self._oauth.refresh_url, json=payload, headers=plain) as response:
            raw = b""
            async for part in response.aiter_raw():
                raw += part
                if len(raw) > MAX_BYTES:
                    raise ValueError("the token is too long")
            return response.status_code, response.headers, decoded(raw, response.headers.get("content-encoding", ""))

    def _client(self) -> httpx.AsyncClient:
        """Create a client with the same proxy and certificates as for the providers; httpx would parse NO_PROXY
        differently."""
        proxy = proxy_for(self._oauth.refresh_url)
        timeout = httpx.Timeout(TIMEOUT_S, connect=CONNECT_S)
        return httpx.AsyncClient(
            timeout=timeout, proxy=proxy.url if proxy else None, verify=tls_context(), trust_env=False
        )


def decoded(raw: bytes, encoding: str) -> bytes:
    """Decode a response's (unrequested) content encoding. Raises ValueError before it becomes too large."""
    stages = stages_of(encoding)
    if not stages:
        return raw
    content, spent = b"", 0
    for cost, piece in through(stages, raw):
        content += piece
        spent += cost
        if spent > (len(stages) + 1) * MAX_BYTES:
            raise BadEncoding("the token is too long")
    return content


def issued_tokens(content: bytes, spent: str, now_ms: int) -> OAuthTokens:
    """Return the tokens of a successful response; `spent` is the refresh token used. Raises TryLater."""
    try:
        issued = msgspec.json.decode(content, type=TokenResponse)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise TryLater("responded without a token") from None
    refresh_token = issued.refresh_token or spent
    if not (is_token(issued.access_token) and is_token(refresh_token)):
        raise TryLater("responded without a token")
    return OAuthTokens(issued.access_token, refresh_token, now_ms + int(lifetime_s(issued.expires_in) * 1000))


def lifetime_s(value: object) -> float:
    """Return an access token's lifetime in seconds, within the bounds."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return DEFAULT_LIFETIME_S
    return min(MAX_LIFETIME_S, max(MIN_LIFETIME_S, value))


def failure_of(status: int, headers: httpx.Headers, content: bytes) -> RefreshRefused | TryLater:
    """Return the failure that a response other than 200 means."""
    try:
        code = msgspec.json.decode(content, type=ErrorResponse).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        code = ""
    if code == "invalid_grant":
        return RefreshRefused()
    named = code if isinstance(code, str) and ERROR_CODE.fullmatch(code) else ""
    return TryLater(f"responded with status {status}{f' ({named})' if named else ''}", retry_after_s(headers))


def retry_after_s(headers: httpx.Headers) -> float:
    """Return the requested delay in seconds, 0 if there is none."""
    text = headers.get("retry-after", "").strip()
    return float(text) if text.isdecimal() and len(text) < 9 else 0.0
