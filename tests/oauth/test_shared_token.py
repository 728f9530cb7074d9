"""One subscription over several hosts: the access token alone is shared, sealed, and one host at a time refreshes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from service.app import open_redis
from service.ledger.wire import oauth_asked_key, oauth_lease_key, oauth_token_key
from service.oauth import shared_token
from service.oauth import token_manager as page
from service.oauth.credentials_file import OAuthTokens
from service.oauth.shared_token import SharedToken
from service.settings import Secret
from tests.fakes import FakeProvider
from tests.oauth.conftest import SHARE_KEY, MakeSubscription
from tests.support.subscriptions import HOUR_MS, OLD_ACCESS, OLD_REFRESH, Time, log_in, now_ms, refreshes, told
from tests.support.waiting import wait_for_answer

NOWHERE = "redis://127.0.0.1:1/0"


@asynccontextmanager
async def ticking(*subscriptions: page.TokenManager) -> AsyncIterator[None]:
    """What runs beside the requests, at a test's pace."""
    over = False

    async def tick() -> bool:
        for one in subscriptions:
            await one.tick()
        return over

    beside = asyncio.create_task(wait_for_answer(tick))
    try:
        yield
    finally:
        over = True
        await beside


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """A credentials file that this host has not."""
    return tmp_path / "none" / ".credentials.json"


async def test_what_is_shared_is_sealed(redis: Redis) -> None:
    """It opens with the key, for the route; and goes with the token."""
    shared = SharedToken(redis, Secret(SHARE_KEY), "subscription")
    tokens = OAuthTokens("sk-ant-oat01-secret", "sk-ant-ort01-secret", now_ms() + 60_000)
    await shared.publish(tokens, now_ms())
    key = oauth_token_key("subscription")
    sealed = await redis.get(key)
    assert isinstance(sealed, bytes)
    assert b"sk-ant" not in sealed
    assert 0 < await redis.pttl(key) <= 60_000
    assert await shared.read() == OAuthTokens("sk-ant-oat01-secret", "", tokens.expires_at_ms)
    assert await SharedToken(redis, Secret(SHARE_KEY + "!"), "subscription").read() is None
    await redis.set(oauth_token_key("other"), sealed)
    assert await SharedToken(redis, Secret(SHARE_KEY), "other").read() is None
    for broken in (b"", b"short", sealed[:-1], sealed + b"x"):
        await redis.set(key, broken)
        assert await shared.read() is None


async def test_an_expired_token_is_not_shared(redis: Redis) -> None:
    """There is nothing to share."""
    shared = SharedToken(redis, Secret(SHARE_KEY), "subscription")
    await shared.publish(OAuthTokens("a", "", now_ms() - 1), now_ms())
    assert await redis.keys() == []


async def test_one_has_the_lease(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it gives its own back, or has died."""
    one, other = (SharedToken(redis, Secret(SHARE_KEY), "subscription") for _ in range(2))
    assert await one.acquire_lease()
    assert not await other.acquire_lease()
    await other.release_lease()
    assert not await other.acquire_lease()
    await one.release_lease()
    monkeypatch.setattr(shared_token, "LEASE_MS", 1)
    assert await other.acquire_lease()
    await wait_for_answer(one.acquire_lease)


async def test_a_host_without_the_file_uses_the_token_of_one_that_has_it(
    subscribe: MakeSubscription, redis: Redis, path: Path, nowhere: Path, fake: FakeProvider
) -> None:
    """Nothing is refreshed for it."""
    log_in(path, left_ms=HOUR_MS)
    owner, other = subscribe(redis), subscribe(redis, file=nowhere)
    await owner.tick()
    assert await other.token() == OLD_ACCESS
    assert refreshes(fake) == 0


async def test_a_host_without_the_file_asks_for_a_refresh(
    subscribe: MakeSubscription, redis: Redis, nowhere: Path, fake: FakeProvider, path: Path
) -> None:
    """One of those that can does it, once; the refresh token never leaves the file."""
    fake.oauth.wait_ms = 100
    owners, others = [subscribe(redis) for _ in range(2)], [subscribe(redis, file=nowhere) for _ in range(2)]
    async with ticking(*owners):
        tokens = await asyncio.gather(*(one.token() for one in others for _ in range(5)))
    [(access, refresh)] = fake.oauth.issued
    assert set(tokens) == {access}
    assert told(path)["refreshToken"] == refresh
    assert refreshes(fake) == 1


@pytest.mark.parametrize("where", ["none", "read only"])
async def test_a_refused_token_is_replaced_by_a_host_that_can(
    subscribe: MakeSubscription,
    redis: Redis,
    nowhere: Path,
    fake: FakeProvider,
    path: Path,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one that met the refusal asks, naming the token by its fingerprint."""
    log_in(path, left_ms=HOUR_MS)
    owner, other = subscribe(redis), subscribe(redis, file=path if where == "read only" else nowhere)
    monkeypatch.setattr(other._file, "can_write", lambda: False)
    await owner.tick()
    assert await other.token() == OLD_ACCESS
    async with ticking(owner):
        assert await other.refused(OLD_ACCESS)
    assert await other.token() == fake.oauth.issued[0][0]
    assert refreshes(fake) == 1


async def test_two_hosts_with_copies_of_one_file_refresh_once(
    subscribe: MakeSubscription, redis: Redis, path: Path, tmp_path: Path, fake: FakeProvider
) -> None:
    """The lease lets one do it; the other takes what it shares, and leaves its copy alone."""
    copy = log_in(tmp_path / "copy.json")
    fake.oauth.wait_ms = 200
    tokens = await asyncio.gather(subscribe(redis).token(), subscribe(redis, file=copy).token())
    assert set(tokens) == {fake.oauth.issued[0][0]}
    assert refreshes(fake) == 1
    assert sorted((told(path)["refreshToken"], told(copy)["refreshToken"])) == sorted(
        (fake.oauth.issued[0][1], OLD_REFRESH)
    )
    assert await redis.exists(oauth_lease_key("subscription")) == 0


async def test_an_older_token_is_not_shared_over_a_newer_one(
    subscribe: MakeSubscription, redis: Redis, path: Path, tmp_path: Path, time: Time
) -> None:
    """A host with an old copy of the file spoils nothing."""
    log_in(path, access="newer", left_ms=2 * HOUR_MS)
    one, old = subscribe(redis), subscribe(redis, file=log_in(tmp_path / "copy.json", left_ms=HOUR_MS))
    await one.tick()
    await old.tick()
    time.ahead_ms += page.SHARE_AGAIN_MS
    await old.tick()
    shared = await SharedToken(redis, Secret(SHARE_KEY), "subscription").read()
    assert shared is not None
    assert shared.access_token == "newer"


async def test_what_redis_lost_is_shared_again(
    subscribe: MakeSubscription, redis: Redis, path: Path, nowhere: Path, time: Time
) -> None:
    """After a while by itself, at once when it is asked for."""
    log_in(path, left_ms=HOUR_MS)
    owner, other = subscribe(redis), subscribe(redis, file=nowhere)
    await owner.tick()
    await redis.flushall()
    await owner.tick()
    assert await redis.exists(oauth_token_key("subscription")) == 0
    await redis.set(oauth_asked_key("subscription"), b"")
    await owner.tick()
    assert await other.token() == OLD_ACCESS
    assert await redis.exists(oauth_asked_key("subscription")) == 0
    await redis.flushall()
    time.ahead_ms += page.SHARE_AGAIN_MS
    await owner.tick()
    assert await redis.exists(oauth_token_key("subscription")) == 1


async def test_when_nobody_can_the_asking_ends(
    subscribe: MakeSubscription, redis: Redis, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next request does not wait for it again at once."""
    monkeypatch.setattr(page, "REQUEST_WAIT_S", 0.2)
    other = subscribe(redis, file=nowhere)
    assert await other.token() == ""
    assert "no proxy can refresh it" in other.trouble
    monkeypatch.setattr(page, "REQUEST_WAIT_S", 60)
    assert await other.token() == ""


async def test_a_redis_that_does_not_answer_is_not_asked_by_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they would wait for it one after the other; a moment later it is asked again."""
    asked = 0

    async def hang(_key: str) -> bytes:
        nonlocal asked
        asked += 1
        raise TimeoutError

    away = open_redis(NOWHERE)
    monkeypatch.setattr(away, "get", hang)
    shared = SharedToken(away, Secret(SHARE_KEY), "subscription")
    assert [await shared.read() for _ in range(5)] == [None] * 5
    assert asked == 1
    monkeypatch.setattr(shared, "_away_until_s", 0.0)
    assert await shared.requested_refresh() is None
    assert asked == 2
    await away.aclose()


async def test_with_redis_away_the_lock_of_the_file_decides(
    subscribe: MakeSubscription, fake: FakeProvider, path: Path, nowhere: Path
) -> None:
    """Whoever has the file goes on; whoever has none says why."""
    away = open_redis(NOWHERE)
    owners = [subscribe(away), subscribe(away)]
    tokens = await asyncio.gather(*(one.token() for one in owners))
    assert set(tokens) == {fake.oauth.issued[0][0]} == {told(path)["accessToken"]}
    for one in owners:
        await one.tick()
    assert refreshes(fake) == 1
    other = subscribe(away, file=nowhere)
    assert await other.token() == ""
    assert "can't ask another one while Redis is unavailable" in other.trouble
    await away.aclose()
