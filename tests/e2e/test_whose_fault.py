"""An account that is closed in words that nobody knows, before three proxies: the ledger counts, so that all agree."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.ledger.wire import FINGERPRINT_KEY, events_key, route_key, snapshot_key
from tests.fakes import FakeProvider, reply
from tests.support.installation import ANTHROPIC_KEY, ZAI_KEY, Installation, Proxy
from tests.support.messages import ASK, HEADERS, client_of
from tests.support.processes import LOGS
from tests.support.subscriptions import HOUR_MS, OLD_ACCESS, log_in
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

KEYS = {"alice": "alice-0123456789abcdef", "bob": "bob-0123456789abcdef"}
OTHER_KEY = "sk-ant-api03-successor-cccccccccccc"
KNOWN = {"PROXY_API_KEYS": ",".join(f"{name}:{key}" for name, key in KEYS.items()), "LOG_LEVEL": "warn"}


def ask(proxy: Proxy, client: str, words: str) -> httpx.Response:
    """A message of a client."""
    body: dict[str, Any] = ASK | {"messages": [{"role": "user", "content": words}]}
    with client_of(proxy.url) as http:
        return http.post("/v1/messages", json=body, headers=HEADERS | {"x-api-key": KEYS[client]})


def route_of(proxy: Proxy, client: str, words: str) -> tuple[int, str | None]:
    """The status of a client's answer, and its route."""
    answer = ask(proxy, client, words)
    return answer.status_code, answer.headers.get("x-ccproxy-route")


def all_on(proxies: Sequence[Proxy], route: str) -> bool:
    """Whether this route answers at all proxies; asked with a body that was asked before."""
    return all(route_of(proxy, "bob", "third") == (200, route) for proxy in proxies)


def test_an_account_closed_in_words_that_nobody_knows_is_left_by_all(installation: Installation) -> None:
    """Three bodies of two clients at three proxies are enough; a new key, or one good answer, brings it back."""
    other = ("other", "zai", ZAI_KEY)
    routes = installation.own_routes(("closing", "anthropic", ANTHROPIC_KEY), other)
    launched = [installation.launch(KNOWN | routes) for _ in range(3)]
    proxies = [proxy.ready() for proxy in launched]
    closed = reply.error(400, "invalid_request_error", "Farewell.")
    installation.anthropic.script(closed.when(credential=ANTHROPIC_KEY).forever())

    bodies = [("alice", "first"), ("alice", "second"), ("bob", "third")]
    for proxy, (client, words) in zip(proxies, bodies, strict=True):
        assert route_of(proxy, client, words) == (400, "closing")
    eventually(lambda: all_on(proxies, "other"))
    asked = len(installation.anthropic.requests)
    assert {route_of(proxy, client, "fourth") for proxy in proxies for client in KEYS} == {(200, "other")}
    assert len(installation.anthropic.requests) == asked

    installation.anthropic.keys = {ANTHROPIC_KEY, OTHER_KEY}
    mended = installation.own_routes(("closing", "anthropic", OTHER_KEY), other)
    assert route_of(installation.start_proxy(KNOWN | mended), "alice", "first") == (200, "closing")
    assert all_on(proxies, "other")

    installation.anthropic.reset()
    installation.anthropic.keys = {ANTHROPIC_KEY}
    alone = installation.start_proxy(KNOWN | installation.own_routes(("closing", "anthropic", ANTHROPIC_KEY)))
    assert route_of(alone, "alice", "first") == (200, "closing")
    eventually(lambda: all_on(proxies, "closing"))


@pytest.fixture
def subscription() -> Iterator[FakeProvider]:
    """The provider of a subscription that is closed in words that nobody knows."""
    with FakeProvider("subscription", keys={OLD_ACCESS}) as fake:
        fake.script(reply.error(400, "invalid_request_error", "Farewell.").forever())
        yield fake


def launch_with_subscription(installation: Installation, fake: FakeProvider, path: Path) -> Proxy:
    """A proxy with the subscription alone, and no secret in its settings."""
    return installation.launch(
        KNOWN
        | {
            "ANTHROPIC_API_KEY": "",
            "ZAI_API_KEY": "",
            "CLAUDE_SUBSCRIPTION_ENABLED": "true",
            "CLAUDE_CREDENTIALS_PATH": str(log_in(path, left_ms=HOUR_MS)),
            "CLAUDE_SUBSCRIPTION_BASE_URL": fake.base_url,
            "CLAUDE_OAUTH_REFRESH_URL": fake.base_url + "/v1/oauth/token",
            "CLIENT_CREDENTIALS": "never",
            "LOG_LEVEL": "debug",
        }
    )


def waits_of(installation: Installation, route: str) -> list[str]:
    """The scopes of a route's cool-downs, as operators read them."""
    with installation.redis() as redis:
        found = redis.hget(route_key(route), "waits")
    return [wait["scope"] for wait in json.loads(found or "[]")]


def test_words_are_the_same_for_proxies_without_a_secret(
    installation: Installation, subscription: FakeProvider, tmp_path: Path
) -> None:
    """Three proxies, one of them started anew, meet one error with three bodies: they agree that it is the route's.

    The key on which they have agreed stands in one place.
    """
    start = [launch_with_subscription(installation, subscription, tmp_path / "login.json") for _ in range(3)]
    first, second, third = (proxy.ready() for proxy in start)
    assert route_of(first, "alice", "first") == route_of(second, "alice", "second") == (400, "subscription")
    assert waits_of(installation, "subscription") == []
    third.stop()
    successor = launch_with_subscription(installation, subscription, tmp_path / "login.json").ready()
    assert route_of(successor, "bob", "third") == (400, "subscription")
    eventually(lambda: waits_of(installation, "subscription") == ["refused"])

    with installation.redis() as redis, client_of(first.url) as http:
        key = redis.get(FINGERPRINT_KEY)
        stored = [redis.get(snapshot_key("subscription")), redis.hgetall(route_key("subscription"))]
        stored += redis.xrange(events_key("subscription"))
        metrics = http.get("/metrics").text
    assert isinstance(key, bytes)
    assert stored[0]
    assert "ccproxy_unknown_errors_total" in metrics
    texts = [str(stored), metrics, *(path.read_text("utf-8", "replace") for path in LOGS)]
    assert [form for text in texts for form in (key.hex(), str(key), str(key)[2:-1]) if form in text] == []
