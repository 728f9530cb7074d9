"""The token endpoint of Anthropic's OAuth: a refresh token goes in, fresh tokens come out, and the old one is dead.

Source: what public clients of it send and get, gathered from their sources; there is no official page.
Not here: whether to ask (`token_manager`), and keeping what comes (`credentials_file`).
"""

import asyncio
import re
from urllib.request import getproxies

import httpx
import msgspec
from msgspec import Struct

from service.http1.upstream import proxy_for
from service.oauth.credentials_file import OAuthTokens, is_token
from service.protocol.content_coding import BadEncoding, stages_of, through
from service.settings import OAuth

TIMEOUT_S = 15.0
"""For the whole request: whoever stops meanwhile waits for it, because its answer can't be had twice."""
CONNECT_S = 5.0
MAX_BYTES = 64 * 1024
USUAL_LIFE_S = 28_800
"""An access token lives for eight hours, should the answer not say."""
SHORTEST_LIFE_S, LONGEST_LIFE_S = 60, 366 * 86_400
"""A shorter life would have the endpoint asked each second; a longer one can't be meant."""
ERROR_CODE = re.compile(r"[a-z_]{1,40}")
"""Codes of RFC 6749; anything else that an answer says is not repeated, it may quote a token."""


class RefreshRefused(Exception):
    """`invalid_grant`: the refresh token is used up, revoked or expired. Only a new log-in helps."""


class TryLater(Exception):
    """No tokens this time. `after_s` is the wait that the endpoint asked for; the message holds no secret."""

    def __init__(self, words: str, after_s: float = 0.0) -> None:
        super().__init__(words)
        self.after_s = after_s


class Issued(Struct):
    """A good answer."""

    access_token: str
    refresh_token: str = ""
    expires_in: object = USUAL_LIFE_S


class ErrorAnswer(Struct):
    """A bad one, by RFC 6749; others have an object for `error`."""

    error: object = ""


class TokenEndpoint:
    """Asks the endpoint that the settings name."""

    def __init__(self, oauth: OAuth) -> None:
        self._oauth = oauth

    async def refresh(self, refresh_token: str, now_ms: int) -> OAuthTokens:
        """Fresh tokens for a refresh token. Raises Refused, Later."""
        ask = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": self._oauth.client_id}
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status, headers, content = await self._post(ask)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError, ValueError) as error:
            raise TryLater(f"can't be reached ({type(error).__name__})") from None
        if status != 200:
            raise failure_of(status, headers, content)
        return issued_tokens(content, refresh_token, now_ms)

    async def _post(self, ask: dict[str, str]) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and the bounded body. A client of its own: it is needed once in hours."""
        client = await asyncio.to_thread(self._client)  # reading certificates takes a while
        plain = {"accept-encoding": "identity"}
        async with client, client.stream("POST", self._oauth.refresh_url, json=ask, headers=plain) as response:
            raw = b""
            async for part in response.aiter_raw():
                raw += part
                if len(raw) > MAX_BYTES:
                    raise ValueError("no token is that long")
            return response.status_code, response.headers, decoded(raw, response.headers.get("content-encoding", ""))

    def _client(self) -> httpx.AsyncClient:
        """The environment names an HTTP proxy and certificates as for the providers; httpx reads NO_PROXY otherwise."""
        proxy = proxy_for(self._oauth.refresh_url, getproxies())
        timeout = httpx.Timeout(TIMEOUT_S, connect=CONNECT_S)
        return httpx.AsyncClient(
            timeout=timeout, proxy=proxy or None, verify=httpx.create_ssl_context(), trust_env=False
        )


def decoded(raw: bytes, encoding: str) -> bytes:
    """An answer without its content encoding, which nobody asked for. Raises ValueError, before it is too large."""
    stages = stages_of(encoding)
    if not stages:
        return raw
    content, spent = b"", 0
    for cost, piece in through(stages, raw):
        content += piece
        spent += cost
        if spent > (len(stages) + 1) * MAX_BYTES:
            raise BadEncoding("no token is that long")
    return content


def issued_tokens(content: bytes, spent: str, now_ms: int) -> OAuthTokens:
    """The tokens of a good answer; `spent` is the refresh token that they were issued for. Raises Later."""
    try:
        issued = msgspec.json.decode(content, type=Issued)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise TryLater("answered without a token") from None
    refresh_token = issued.refresh_token or spent
    if not (is_token(issued.access_token) and is_token(refresh_token)):
        raise TryLater("answered without a token")
    return OAuthTokens(issued.access_token, refresh_token, now_ms + int(life_s(issued.expires_in) * 1000))


def life_s(said: object) -> float:
    """How long an access token lives, in seconds, within what can be meant."""
    if not isinstance(said, int | float) or isinstance(said, bool):
        return USUAL_LIFE_S
    return min(LONGEST_LIFE_S, max(SHORTEST_LIFE_S, said))


def failure_of(status: int, headers: httpx.Headers, content: bytes) -> RefreshRefused | TryLater:
    """What an answer other than 200 means."""
    try:
        code = msgspec.json.decode(content, type=ErrorAnswer).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        code = ""
    if code == "invalid_grant":
        return RefreshRefused()
    named = code if isinstance(code, str) and ERROR_CODE.fullmatch(code) else ""
    return TryLater(f"answered with status {status}{f' ({named})' if named else ''}", retry_after_s(headers))


def retry_after_s(headers: httpx.Headers) -> float:
    """The wait in seconds that the answer asks for, 0 when it names none."""
    text = headers.get("retry-after", "").strip()
    return float(text) if text.isdecimal() and len(text) < 9 else 0.0
