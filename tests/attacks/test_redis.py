"""A Redis that is none, or that somebody else writes to: requests are served, nothing dies, no secret is shown."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.app import open_redis
from service.embedded.valkey import Valkey
from service.fleet.stream_writer import PipelinedStreamPort
from service.ledger import wire
from service.ledger.events import RouteDisabled
from service.oauth.credentials_file import OAuthTokens
from service.oauth.shared_token import SharedToken
from service.settings import Secret
from tests.attacks.raw import byte_provider, leave
from tests.support.outbox_factories import clock
from tests.support.proxies import ASK, Server
from tests.support.served import served
from tests.support.waiting import wait_until

PASSWORD = "redis-password-marked-aaaaaaaa"
ADMIN = "admin-token-marked-0123456789"
VARIABLES = {"ADMIN_TOKEN": ADMIN, "ANTHROPIC_WEEKLY_LIMIT": "1000", "ANTHROPIC_CONCURRENCY": "5"}
SHARE_KEY = Secret("a-share-key-of-more-than-thirty-two-characters")
SPEECHES = {
    "always ok": b"+OK\r\n",
    "always five": b":5\r\n",
    "always nothing": b"*-1\r\n",
    "no number": b":abc\r\n",
    "no length": b"$abc\r\n",
    "no double": b",xx\r\n",
    "no boolean": b"#x\r\n",
    "a list as a key": b"%1\r\n*0\r\n:1\r\n",
    "another map": b"%1\r\n+a\r\n:1\r\n",
    "lists in lists": b"*1\r\n" * 20_000,
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "moved": b"-MOVED 1 10.0.0.1:6379\r\n",
    "escapes": b"-\xff\xfe \x1b[31m\r\n",
}


class NoRedis:
    """Answers every command with the same bytes, and notes the commands."""

    def __init__(self, said: bytes) -> None:
        self.said = said
        self.commands: list[list[bytes]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while line := await reader.readline():
                words = [await self._word(reader) for _ in range(int(line[1:]))]
                self.commands.append(words)
                writer.write(self.said)
                await writer.drain()
        except (ConnectionError, ValueError, asyncio.IncompleteReadError):
            pass
        finally:
            await leave(writer)

    async def _word(self, reader: asyncio.StreamReader) -> bytes:
        size = int((await reader.readline())[1:])
        return (await reader.readexactly(size + 2))[:-2]


@asynccontextmanager
async def no_redis(said: bytes) -> AsyncIterator[tuple[str, NoRedis]]:
    """The URL of a server that always says the same."""
    made = NoRedis(said)
    async with served(made.serve) as port:
        yield f"redis://:{PASSWORD}@127.0.0.1:{port}/0", made


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[Redis]:
    """A client, on an empty server."""
    client = open_redis(valkey.url)
    yield client
    await client.aclose()


# -- a server that speaks something else


@pytest.mark.parametrize("said", SPEECHES.values(), ids=SPEECHES.keys())
async def test_what_is_no_redis_fails_as_redis_does(said: bytes) -> None:
    """With RedisError or OSError (or not at all), which everybody catches who goes on without Redis."""
    async with no_redis(said) as (url, _):
        redis = open_redis(url)
        pipe = redis.pipeline(transaction=False)
        pipe.get("a")
        pipe.info("server")
        port = PipelinedStreamPort(redis, 0.2)
        for ask in (lambda: redis.info("server"), pipe.execute, lambda: port.append([("anthropic", b"[]")])):
            async with asyncio.timeout(10):
                assert PASSWORD not in repr(await said_by(ask))
        await redis.aclose()


async def said_by(ask: Callable[[], Awaitable[object]]) -> object:
    """What comes of it: an answer, or the failure that may come."""
    try:
        return await ask()
    except (RedisError, OSError) as error:
        return error


@pytest.mark.parametrize("name", ["always ok", "no number", "another map", "lists in lists"])
async def test_requests_are_served_whatever_stands_at_redis_address(
    server: Server, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As with Redis away; what runs beside the requests goes on, and the password is shown to nobody."""
    caplog.set_level(logging.DEBUG)
    async with byte_provider() as provider, no_redis(SPEECHES[name]) as (url, _):
        served = await server.start(anthropic=provider.base_url, variables=VARIABLES, redis_url=url)
        for _ in range(3):
            assert (await served.ask(ASK)).status_code == 200
        asked = [await served.http.get(path, headers=bearer()) for path in ("/metrics", "/health", "/admin/api/fleet")]
        assert [answer.status_code for answer in asked] == [200] * 3
        await wait_until(lambda: not served.parts.watcher.redis_up)
        assert not any(task.done() for task in served.parts.watcher._tasks)
        shown = caplog.text + "".join(answer.text for answer in asked)
    assert PASSWORD not in shown


def bearer() -> dict[str, str]:
    """An admin."""
    return {"authorization": f"Bearer {ADMIN}"}


# -- a Redis that somebody else writes to


async def spoil(redis: Redis) -> None:
    """Values of another type under every key that a proxy reads."""
    for stream in ("anthropic", "zai", "subscription"):
        await redis.lpush(wire.snapshot_key(stream), "x")
        await redis.set(wire.route_key(stream), "x")
        for key in (
            wire.slots_key,
            wire.reserved_key,
            wire.probe_key,
            wire.answered_key,
            wire.oauth_token_key,
            wire.oauth_asked_key,
        ):
            await redis.lpush(key(stream), "x")
    await redis.lpush(wire.snapshot_key(wire.CONTROL), "x")
    await redis.lpush(wire.resource_key("msgbatch_01spoiled"), "x")


async def test_values_of_another_type_stop_nothing(server: Server, valkey: Valkey, redis: Redis) -> None:
    """Requests are served, and an operator's command still acts."""
    await spoil(redis)
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url, variables=VARIABLES, redis_url=valkey.url)
        assert (await served.ask(ASK)).status_code == 200
        assert (await served.http.get("/v1/messages/batches/msgbatch_01spoiled")).status_code < 600
        event = RouteDisabled(event_id=clock.new_id(), at_ms=clock.now_ms(), replica="op", seq=1, route="anthropic")
        await redis.xadd(wire.events_key(wire.CONTROL), {wire.ENTRY_FIELD: wire.encode_entry([event])})
        await wait_until(lambda: "anthropic" in served.parts.watcher.view.control.disabled)
        assert not any(task.done() for task in served.parts.watcher._tasks)
        assert (await served.http.get("/metrics")).status_code == 200


NEWS = [b"", b"{", b"null", b"[" * 50_000, b"\xff\xfe", b'{"stream":5}', b'{"stream":"\\u0000","epoch":1e99}',
        b'{"stream":"' + b"a" * 500_000 + b'","epoch":1,"position":1}']  # fmt: skip


async def test_strange_news_end_nothing(server: Server, valkey: Valkey, redis: Redis) -> None:
    """Whatever is told on the channel, the next snapshot is taken."""
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url, variables=VARIABLES, redis_url=valkey.url)
        for news in NEWS:
            await redis.publish(wire.CHANGES_CHANNEL, news)
        await publish(redis, {"hours": {"1": {"attempts": 7}}})
        await wait_until(lambda: served.parts.watcher.view.ledger("anthropic").hours != {})
        assert not any(task.done() for task in served.parts.watcher._tasks)


async def publish(redis: Redis, ledger: dict[str, Any], **fields: Any) -> None:
    """A snapshot of somebody who may write to Redis."""
    snapshot = {"version": 1, "stream": "anthropic", "epoch": 1, "position": 1, "stream_id": "0-0", "as_of_ms": 0}
    raw = msgspec.json.encode(snapshot | {"ledger": ledger} | fields)
    await redis.set(wire.snapshot_key("anthropic"), raw)
    await redis.publish(wire.CHANGES_CHANNEL, wire.encode_change(wire.Change("anthropic", 1, 1)))


HUGE = (1 << 63) - 1
HOUR = clock.now_ms() // 3_600_000
LEDGERS: dict[str, dict[str, Any]] = {
    "usage": {
        "hours": {str(HUGE): {"input": HUGE}, "-5": {"input": -HUGE}, str(HOUR): {"input": HUGE}},
        "usage": {str(HUGE): {"m": {"k": {"input": HUGE, "cost_nusd": HUGE}}}},
    },
    "waits": {"waits": {"throttle": {"at_ms": HUGE, "until_ms": HUGE, "kind": "throttle"}}},
    "circuit": {"health": {"r": {"failures_in_row": HUGE, "worst_row": HUGE, "failed_probes": HUGE, "opened_ms": HUGE,
                                 "last_failure_ms": HUGE, "buckets": {str(HUGE): {"failed": HUGE}}}}},
    "windows": {"windows": {"5h": {"name": "5h", "used": 1e308, "resets_ms": HUGE, "at_ms": HUGE}}},
    "times": {"newest_ms": HUGE, "open": {"a": {"request_id": "x", "at_ms": -HUGE, "replica": "\u001b[31m"}}},
    "heard": {"heard": {"\u0000": {"high": HUGE, "gaps": [[0, HUGE]]}}},
}  # fmt: skip
PAGES = ("overview", "routes", "attempts", "fleet", "keys", "events")


@pytest.mark.parametrize("name", LEDGERS)
async def test_absurd_numbers_are_no_failure(server: Server, valkey: Valkey, redis: Redis, name: str) -> None:
    """A request is served or refused in Anthropic's words; the console and the metrics answer."""
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url, variables=VARIABLES, redis_url=valkey.url)
        await publish(redis, LEDGERS[name])
        await wait_until(lambda: "anthropic" in served.parts.watcher.snapshots)
        answer = await served.ask(ASK)
        assert answer.status_code in (200, 402, 403, 429, 503, 529), answer.text
        for page in ("/metrics", "/health", *(f"/admin/api/{page}" for page in PAGES)):
            shown = await served.http.get(page, headers=bearer())
            assert shown.status_code == 200, (page, shown.text)


# -- the sealed token


def flipped(sealed: bytes) -> bytes:
    """One bit of it is another."""
    return sealed[:-1] + bytes([sealed[-1] ^ 1])


SPOILINGS: dict[str, Callable[[bytes], bytes]] = {
    "a bit": flipped,
    "cut": lambda sealed: sealed[:20],
    "shorter than a nonce": lambda sealed: sealed[:5],
    "empty": lambda _: b"",
    "another nonce": lambda sealed: bytes(12) + sealed[12:],
    "open": lambda _: b'{"access_token":"evil","expires_at_ms":9999999999999}',
    "huge": lambda sealed: sealed * 10_000,
}


@pytest.mark.parametrize("spoil_it", SPOILINGS.values(), ids=SPOILINGS.keys())
async def test_a_sealed_token_that_was_touched_is_none(redis: Redis, spoil_it: Callable[[bytes], bytes]) -> None:
    shared = SharedToken(redis, SHARE_KEY, "subscription")
    await shared.publish(OAuthTokens("good", "", clock.now_ms() + 60_000), clock.now_ms())
    sealed = await redis.get(wire.oauth_token_key("subscription"))
    assert isinstance(sealed, bytes)
    await redis.set(wire.oauth_token_key("subscription"), spoil_it(sealed))
    assert await shared.read() is None


async def test_a_sealed_token_is_good_for_its_route_and_key_alone(redis: Redis) -> None:
    """Put under another route's key, or sealed with another key, it is none."""
    shared = SharedToken(redis, SHARE_KEY, "subscription")
    await shared.publish(OAuthTokens("good", "", clock.now_ms() + 60_000), clock.now_ms())
    sealed = await redis.get(wire.oauth_token_key("subscription"))
    assert isinstance(sealed, bytes)
    await redis.set(wire.oauth_token_key("second"), sealed)
    assert await SharedToken(redis, SHARE_KEY, "second").read() is None
    other = Secret("another-share-key-of-more-than-thirty-two-characters")
    assert await SharedToken(redis, other, "subscription").read() is None
    assert (await shared.read()) == OAuthTokens("good", "", (await shared.read() or OAuthTokens("")).expires_at_ms)
