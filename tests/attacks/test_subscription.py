"""Attacks on the subscription's log-in: by the token endpoint, by the credentials file, by who can write to Redis."""

import asyncio
import gzip
import json
import os
import resource
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from service.oauth import token_endpoint
from service.oauth.credentials_file import CredentialsFile, Unreadable
from service.oauth.token_endpoint import TokenEndpoint
from service.oauth.token_manager import TokenManager
from service.settings import OAuth
from tests.attacks.raw import SeenRequest, answer, byte_provider
from tests.support.subscriptions import HOUR_MS, OLD_REFRESH, content, log_in, now_ms, told

NEW = {"access_token": "sk-ant-oat01-new", "refresh_token": "sk-ant-ort01-new", "expires_in": 28_800}
NOT_A_TOKEN = "responded without a token"
DAY_MS = 24 * HOUR_MS


@asynccontextmanager
async def asked(path: Path, script: Callable[[SeenRequest], bytes | None]) -> AsyncIterator[tuple[TokenManager, Any]]:
    """A subscription that has asked a token endpoint, which answered by the script, and then ticked three times."""
    async with byte_provider(script) as endpoint:
        oauth = OAuth(refresh_url=endpoint.base_url + "/v1/oauth/token")
        one = TokenManager(
            "subscription",
            CredentialsFile(str(path)),
            TokenEndpoint(oauth),
            None,
            skew_ms=oauth.skew_ms,
            now_ms=now_ms,
        )
        async with asyncio.timeout(20):
            await one.token()
            for _ in range(3):
                await one.tick()
                if one._renewal:
                    await asyncio.wait({one._renewal})
        yield one, endpoint
        await one.stop()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A credentials file whose token has expired."""
    return log_in(tmp_path / ".credentials.json")


def issued(raw: str | None = None, **fields: object) -> bytes:
    """An answer with tokens; `raw` takes the place of the number of seconds."""
    text = json.dumps(NEW | fields)
    return answer(text.replace("28800", raw).encode() if raw else text.encode())


# -- the token endpoint


@pytest.mark.parametrize(
    "fields",
    [
        {"access_token": "a\r\nx-evil: 1"},
        {"access_token": "a b"},
        {"access_token": "tök\u2028en"},
        {"access_token": "a" * 20_000},
        {"access_token": ["a"]},
        {"access_token": ""},
        {"refresh_token": "a\r\nb"},
        {"refresh_token": {"a": 1}},
        {"error": "invalid_grant", "access_token": None},
    ],
    ids=["line", "blank", "letters", "long", "list", "empty", "refresh line", "refresh object", "error"],
)
async def test_what_is_no_token_is_never_kept(path: Path, fields: dict[str, Any]) -> None:
    """Nor shown to a provider; and the endpoint is not asked again at once."""
    before = content(path)
    async with asked(path, lambda _: issued(**fields)) as (one, endpoint):
        assert await one.token() == ""
        assert NOT_A_TOKEN in one.trouble
        assert len(endpoint.seen) == 1
    assert content(path) == before


@pytest.mark.parametrize("life", ["-5", "0", "0.001", '"3600"', "null", "true", "[]", "1e300", "1e306", "1" + "0" * 30])
async def test_an_absurd_life_is_none(path: Path, life: str) -> None:
    """The token is kept, its end is one that can be meant, and the endpoint is asked once, not each second."""
    async with asked(path, lambda _: issued(life)) as (one, endpoint):
        assert await one.token() == NEW["access_token"]
        assert len(endpoint.seen) == 1
    left_ms = told(path)["expiresAt"] - now_ms()
    assert 0 < left_ms <= 366 * DAY_MS


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_takes_the_refresh_token_nowhere(path: Path, status: int) -> None:
    """Neither to another host nor to another path."""
    async with (
        byte_provider() as thief,
        asked(path, lambda _: answer(b"", status, location=thief.base_url + "/take")) as (one, endpoint),
    ):
        assert await one.token() == ""
        assert [seen.target for seen in endpoint.seen] == [b"/v1/oauth/token"]
        assert thief.connections == 0


def bomb(megabytes: int) -> bytes:
    """Zeros, a thousandth of their size; never all of them in memory."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(megabytes)) + packer.flush()


@pytest.mark.parametrize(
    "said",
    [
        answer(bomb(40), content_encoding="gzip"),
        answer(gzip.compress(bomb(200)), content_encoding="gzip, gzip"),
        answer(b" " * 200_000),
        b"HTTP/1.1 200 OK\r\nx-long: " + b"a" * 300_000 + b"\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000,
        answer(b"[" * 60_000),
        answer(b"\xff\xfe{}"),
    ],
    ids=["bomb", "bomb in a bomb", "long", "head", "informational", "brackets", "no utf-8"],
)
async def test_a_hostile_answer_costs_nothing(path: Path, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory, no time beyond the limit, no token."""
    monkeypatch.setattr(token_endpoint, "TIMEOUT_S", 0.5)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with asked(path, once(said)) as (one, endpoint):
        assert await one.token() == ""
        assert "next attempt in" in one.trouble
        assert len(endpoint.seen) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 30_000
    assert told(path)["refreshToken"] == OLD_REFRESH


def once(said: bytes) -> Callable[[SeenRequest], bytes | None]:
    """Says it once, then closes the connection."""
    left = [said]
    return lambda _: left.pop() if left else None


async def test_an_answer_compressed_unasked_is_still_read(path: Path) -> None:
    """A refresh token works once: what came for it must not be lost to a gateway that compresses."""
    raw = gzip.compress(json.dumps(NEW).encode())
    async with asked(path, lambda _: answer(raw, content_encoding="gzip")) as (one, endpoint):
        assert await one.token() == NEW["access_token"]
        assert endpoint.seen[0].values(b"accept-encoding") == [b"identity"]


# -- the credentials file


def as_pipe(path: Path) -> None:
    """A named pipe that nobody writes to."""
    os.mkfifo(path)


def as_link_to_pipe(path: Path) -> None:
    """A link that leads to one."""
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def as_device(path: Path) -> None:
    """A file without end."""
    path.symlink_to("/dev/zero")


def as_folder(path: Path) -> None:
    """A folder."""
    path.mkdir()


@pytest.mark.parametrize("make", [as_pipe, as_link_to_pipe, as_device, as_folder])
async def test_what_is_no_file_holds_nobody_up(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A request is told at once that there is no token, and why."""
    path = tmp_path / "credentials.json"
    make(path)
    async with asyncio.timeout(10), asked(path, lambda _: None) as (one, endpoint):
        assert await one.token() == ""
        assert "not a regular file" in one.trouble
        assert endpoint.connections == 0


@pytest.mark.parametrize(
    "text",
    [
        '{"claudeAiOauth":{"accessToken":"a\\r\\nx-evil: 1"}}',
        '{"claudeAiOauth":{"accessToken":"\\u00e9"}}',
        '{"claudeAiOauth":{"accessToken":"a","refreshToken":"b\\u0000"}}',
        '{"claudeAiOauth":{"accessToken":5}}',
        '{"claudeAiOauth":[]}',
        "[" * 100_000,
        '{"claudeAiOauth":{"accessToken":"' + "a" * 5_000_000 + '"}}',
    ],
    ids=["line", "letter", "nul", "number", "list", "brackets", "huge"],
)
def test_a_hostile_file_gives_no_token(path: Path, text: str) -> None:
    """Its content is not repeated."""
    path.write_text(text)
    with pytest.raises(Unreadable) as raised:
        CredentialsFile(str(path)).read()
    assert len(str(raised.value)) < 100


@pytest.mark.parametrize("end", ["1e300", "1" + "0" * 40, "-1e300"])
def test_an_absurd_end_is_bounded(path: Path, end: str) -> None:
    """Redis and JSON take no larger number."""
    path.write_text('{"claudeAiOauth":{"accessToken":"a","expiresAt":' + end + "}}")
    assert CredentialsFile(str(path)).read().expires_at_ms < 1 << 53
