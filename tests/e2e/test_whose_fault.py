"""An account that is closed in words that nobody knows, before three proxies: the ledger counts, so that all agree."""

from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from tests.fakes import reply
from tests.support.installation import ANTHROPIC_KEY, ZAI_KEY, Installation, Proxy
from tests.support.messages import ASK, HEADERS, client_of
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
