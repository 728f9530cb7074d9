"""A token endpoint, a real Valkey, and subscriptions before them, each as another process would have it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from service.app import open_redis
from service.embedded.valkey import Valkey
from service.oauth.credentials_file import CredentialsFile
from service.oauth.shared_token import SharedToken
from service.oauth.token_endpoint import TokenEndpoint
from service.oauth.token_manager import TokenManager
from service.settings import OAuth, Secret
from tests.fakes import FakeProvider
from tests.support.subscriptions import OLD_REFRESH, Time, log_in

SHARE_KEY = "a-share-key-of-more-than-thirty-two-characters"
MakeSubscription = Callable[..., TokenManager]


@pytest.fixture
def fake() -> Iterator[FakeProvider]:
    """The subscription's provider, which knows the old refresh token."""
    with FakeProvider("subscription", keys=set(), refresh_tokens={OLD_REFRESH}) as made:
        yield made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A credentials file whose token has expired."""
    return log_in(tmp_path / ".credentials.json")


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[Redis]:
    """A client as the proxy has it, on an empty server."""
    client = open_redis(valkey.url)
    yield client
    await client.aclose()
    await asyncio.sleep(0)  # a command that was cancelled closes its connection in the loop's next round


@pytest.fixture
def time() -> Time:
    """The time that the subscriptions go by."""
    return Time()


@pytest.fixture
async def subscribe(fake: FakeProvider, path: Path, time: Time) -> AsyncIterator[MakeSubscription]:
    """Makes subscriptions; all are ended."""
    made: list[TokenManager] = []

    def make(redis: Redis | None = None, *, file: Path = path, url: str = "", key: str = SHARE_KEY) -> TokenManager:
        oauth = OAuth(refresh_url=url or fake.base_url + "/v1/oauth/token")
        shared = SharedToken(redis, Secret(key), "subscription") if redis else None
        made.append(
            TokenManager(
                "subscription",
                CredentialsFile(str(file)),
                TokenEndpoint(oauth),
                shared,
                skew_ms=oauth.skew_ms,
                now_ms=time.now_ms,
            )
        )
        return made[-1]

    yield make
    for subscription in made:
        await subscription.stop()
