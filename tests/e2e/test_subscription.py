"""A subscription whose token has expired, before a fleet: one refresh, and nobody notices."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from service.ledger.wire import oauth_token_key
from tests.fakes import FakeProvider
from tests.support.installation import Installation, Proxy
from tests.support.messages import ASK, HEADERS, STREAM, client_of
from tests.support.subscriptions import OLD_ACCESS, OLD_REFRESH, log_in, refreshes, told

pytestmark = pytest.mark.e2e

SHARE_KEY = "a-share-key-of-more-than-thirty-two-characters"


@pytest.fixture
def subscription(installation: Installation) -> Iterator[FakeProvider]:
    """The provider of a subscription whose access token has expired, and of which no other test has shared one."""
    with installation.redis() as redis:
        redis.delete(oauth_token_key("subscription"))
    with FakeProvider("subscription", keys=set(), refresh_tokens={OLD_REFRESH}) as fake:
        fake.oauth.wait_ms = 700
        yield fake


def launch(installation: Installation, fake: FakeProvider, path: Path) -> Proxy:
    """A proxy with the subscription alone."""
    return installation.launch(
        {
            "ANTHROPIC_API_KEY": "",
            "ZAI_API_KEY": "",
            "CLAUDE_CREDENTIALS_PATH": str(path),
            "CLAUDE_SUBSCRIPTION_BASE_URL": fake.base_url,
            "CLAUDE_OAUTH_REFRESH_URL": fake.base_url + "/v1/oauth/token",
            "CLAUDE_OAUTH_SHARE_KEY": SHARE_KEY,
            "CLIENT_CREDENTIALS": "never",
        }
    )


def ask_all(proxies: list[Proxy], count: int) -> list[httpx.Response]:
    """So many requests at once, in turn to each proxy, streams and not."""

    def ask(number: int) -> httpx.Response:
        with client_of(proxies[number % len(proxies)].url, timeout_s=60) as client:
            return client.post("/v1/messages", json=STREAM if number % 2 else ASK, headers=HEADERS)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(ask, range(count)))


def assert_one_refresh(installation: Installation, fake: FakeProvider, path: Path, proxies: list[Proxy]) -> None:
    """The endpoint was asked once, the file holds what came, nothing else was shown, and no log or key has a token."""
    assert refreshes(fake) == 1
    [(access, refresh)] = fake.oauth.issued
    assert (told(path)["accessToken"], told(path)["refreshToken"]) == (access, refresh)
    assert {each.credential for each in fake.requests_to("/v1/messages")} == {access}
    for proxy in proxies:
        assert "sk-ant-o" not in proxy.text
    secrets = [secret.encode() for secret in (OLD_ACCESS, OLD_REFRESH, access, refresh)]
    with installation.redis() as redis:
        kept = [redis.dump(key) or b"" for key in redis.scan_iter()]
    assert not any(secret in each for each in kept for secret in secrets)


def test_fifty_requests_over_three_proxies_make_one_refresh(
    installation: Installation, subscription: FakeProvider, tmp_path: Path
) -> None:
    """With one file, whose token has expired. All are answered."""
    path = tmp_path / ".credentials.json"
    proxies = [launch(installation, subscription, path) for _ in range(3)]
    for proxy in proxies:
        proxy.ready("/health")
    log_in(path)
    for proxy in proxies:
        proxy.ready()
    answers = ask_all(proxies, 50)
    assert [answer.status_code for answer in answers] == [200] * 50, answers[0].text
    assert_one_refresh(installation, subscription, path, proxies)


def test_one_host_has_the_file(installation: Installation, subscription: FakeProvider, tmp_path: Path) -> None:
    """The others use the token that it shares, and wait for it while it is being refreshed."""
    path = log_in(tmp_path / ".credentials.json")
    proxies = [launch(installation, subscription, each) for each in (path, tmp_path / "none", tmp_path / "none")]
    for proxy in proxies:
        proxy.ready()
    answers = ask_all(proxies, 12)
    assert [answer.status_code for answer in answers] == [200] * 12, answers[0].text
    assert_one_refresh(installation, subscription, path, proxies)


def test_a_refused_token_is_replaced_unnoticed(
    installation: Installation, subscription: FakeProvider, tmp_path: Path
) -> None:
    """The provider refuses a token before its time: each request is sent once more, and the route does not rest."""
    path = log_in(tmp_path / ".credentials.json", left_ms=3_600_000)
    proxies = [launch(installation, subscription, path) for _ in range(2)]
    for proxy in proxies:
        proxy.ready()
    answers = [answer for _ in range(3) for answer in ask_all(proxies, 10)]
    assert [answer.status_code for answer in answers] == [200] * 30, answers[0].text
    assert refreshes(subscription) == 1
    assert told(path)["refreshToken"] == subscription.oauth.issued[0][1]
    assert {answer.headers["x-ccproxy-attempts"] for answer in answers} == {"1", "2"}
