"""A credential that can't serve is in the state of its route, wherever one looks, whether or not anybody asks."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from service.app import Parts
from service.ledger.events import RouteNotice
from service.oauth import credentials, token_manager
from tests.fakes import FakeProvider, reply
from tests.support.proxies import ZAI_KEY, Server, Serving
from tests.support.subscriptions import OLD_ACCESS, OLD_REFRESH, cut_off, log_in, log_out
from tests.support.waiting import stays, wait_for_answer, wait_until

TOKEN_PATH = "/v1/oauth/token"


class Broken(NamedTuple):
    """What is wrong with a subscription's login: its file, the endpoint's answer, and the words that say so."""

    left_ms: int
    refresh: str | None
    file: str
    endpoint: int
    words: str


BROKEN = {
    "no file": Broken(-1000, None, "absent", 0, "there is no login; log in with Claude Code"),
    "a file that is cut off": Broken(-1000, None, "cut off", 0, "can't be read; repair it"),
    "no refresh token": Broken(-1000, None, "", 0, "it has no refresh token; log in"),
    "the endpoint refuses": Broken(-1000, "another-refresh-token", "", 0, "its login has ended; log in"),
    "the endpoint is busy": Broken(-1000, OLD_REFRESH, "", 429, "was not refreshed: the token endpoint responded with"),
}


@pytest.fixture
async def subscription(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeProvider]:
    """The subscription's provider; nothing waits long."""
    monkeypatch.setattr(credentials, "TICK_S", 0.02)
    monkeypatch.setattr(token_manager, "SETTLE_S", 0.05)
    with FakeProvider("subscription", keys={OLD_ACCESS}, refresh_tokens={OLD_REFRESH}) as fake:
        yield fake


def variables(path: Path, fake: FakeProvider) -> Mapping[str, str]:
    """Settings of a subscription."""
    return {
        "CLAUDE_CREDENTIALS_PATH": str(path),
        "CLAUDE_SUBSCRIPTION_BASE_URL": fake.base_url,
        "CLAUDE_OAUTH_REFRESH_URL": fake.base_url + TOKEN_PATH,
        "CLIENT_CREDENTIALS": "never",
    }


def broken_login(path: Path, fake: FakeProvider, case: Broken) -> None:
    """A login that can't serve."""
    log_in(path, refresh=case.refresh, left_ms=case.left_ms)
    if case.file == "absent":
        log_out(path)
    elif case.file == "cut off":
        cut_off(path)
    if case.endpoint:
        fake.script(reply.error(case.endpoint).when(TOKEN_PATH))


async def get(served: Serving, path: str) -> Any:
    """A JSON answer, with its status."""
    answer = await served.http.get(path)
    return answer.json() | {"http": answer.status_code}


async def has_state(served: Serving, state: str) -> None:
    """Wait until the subscription has a state."""

    async def is_there() -> bool:
        return bool((await get(served, "/health"))["providers"]["subscription"]["state"] == state)

    await wait_for_answer(is_there)


def notices(served: Serving) -> list[tuple[bool, bool]]:
    """The notices on the ledger: whether something is wrong, and whether the token still serves."""
    return [(bool(event.code), event.usable) for _, event in served.events if isinstance(event, RouteNotice)]


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN)
async def test_a_subscription_that_cant_serve_says_so(
    server: Server, subscription: FakeProvider, zai: FakeProvider, tmp_path: Path, case: Broken
) -> None:
    """In health, readiness, metrics, the dashboard and the ledger, before the first request; which goes to the next
    route at once; and no longer once somebody has logged in."""
    broken_login(tmp_path / "login.json", subscription, case)
    served = await server.start(zai=zai, variables=variables(tmp_path / "login.json", subscription))
    await has_state(served, "no_credential")
    health, ready = await get(served, "/health"), await get(served, "/readyz")
    assert case.words in health["providers"]["subscription"]["reason"]
    assert (health["providers"]["best"], health["providers"]["subscription"]["available"]) == ("zai", False)
    assert (ready["http"], ready["status"], ready["providers"]["subscription"]["state"]) == (
        200, "ready", "no_credential",
    )  # fmt: skip
    metrics = (await served.http.get("/metrics")).text
    assert 'ccproxy_route_available{route="subscription"} 0.0' in metrics
    assert 'ccproxy_credential_usable{route="subscription"} 0.0' in metrics
    assert 'ccproxy_credential_usable{route="zai"} 1.0' in metrics
    overview = await served.parts.console.overview()
    [notice] = [one for one in overview.notices if one.subject == "subscription"]
    assert (overview.level, notice.code, overview.serving) == ("problem", "no_credential", "zai")
    assert case.words in notice.message
    answer = await served.ask()
    assert (answer.status_code, answer.headers["x-ccproxy-route"], answer.headers["x-ccproxy-attempts"]) == (
        200, "zai", "1",
    )  # fmt: skip
    log_in(tmp_path / "login.json", left_ms=3_600_000)
    await has_state(served, "healthy")
    assert (await served.ask()).headers["x-ccproxy-route"] == "subscription"
    # The first one may have come before anybody listened.
    await stays(lambda: notices(served) in ([(False, False)], [(True, False), (False, False)]))


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN)
async def test_a_proxy_without_any_credential_is_not_ready(
    server: Server, subscription: FakeProvider, tmp_path: Path, case: Broken
) -> None:
    """It could serve no request; the client is told why, and when somebody has logged in it is ready again."""
    broken_login(tmp_path / "login.json", subscription, case)
    served = await server.start(variables=variables(tmp_path / "login.json", subscription))
    await has_state(served, "no_credential")
    ready = await get(served, "/readyz")
    assert (ready["http"], ready["status"]) == (503, "no_credential")
    assert (await get(served, "/health"))["status"] == "degraded"
    answer = await served.ask()
    assert answer.status_code == 503
    assert "can't be used because its login has expired" in answer.text
    log_in(tmp_path / "login.json", left_ms=3_600_000)
    await has_state(served, "healthy")
    assert (await get(served, "/readyz"))["http"] == 200


async def test_a_token_that_still_serves_is_a_warning(
    server: Server, subscription: FakeProvider, tmp_path: Path
) -> None:
    """A refresh that fails ahead of expiry degrades the route, which goes on serving."""
    log_in(tmp_path / "login.json", left_ms=60_000)
    subscription.script(reply.error(503).when(TOKEN_PATH))
    served = await server.start(variables=variables(tmp_path / "login.json", subscription))
    await has_state(served, "degraded")
    assert (
        "its token expires soon, and was not refreshed"
        in (await get(served, "/health"))["providers"]["subscription"]["reason"]
    )
    assert (await get(served, "/readyz"))["http"] == 200
    assert (await served.ask()).headers["x-ccproxy-route"] == "subscription"
    metrics = (await served.http.get("/metrics")).text
    assert 'ccproxy_token_refreshes_total{outcome="failed",route="subscription"} 1.0' in metrics
    assert 'ccproxy_token_refreshes_total{outcome="refused",route="subscription"} 0.0' in metrics


@pytest.mark.parametrize("route", ["anthropic", "zai", "subscription"])
async def test_a_key_that_was_refused_is_not_healthy_until_it_is_taken(
    server: Server,
    anthropic: FakeProvider,
    zai: FakeProvider,
    subscription: FakeProvider,
    monkeypatch: pytest.MonkeyPatch,
    route: str,
) -> None:
    """Also after the wait: nobody has seen the provider take it since. Keys, and a token that is never refreshed."""
    fake = {"anthropic": anthropic, "zai": zai, "subscription": subscription}[route]
    given: dict[str, Any] = {"anthropic": anthropic} if route == "anthropic" else {}
    given |= {"zai": zai} if route == "zai" else {}
    token = {"CLAUDE_CODE_OAUTH_TOKEN": OLD_ACCESS, "CLAUDE_SUBSCRIPTION_BASE_URL": subscription.base_url}
    served = await server.start(**given, variables=token if route == "subscription" else None)
    fake.script(reply.error(401))
    assert (await served.ask()).status_code >= 500
    reading = next(one for one in served.parts.watcher.route_statuses() if one.route == route)
    assert (reading.state, reading.refused) == ("waiting", True)
    advance(served.parts, monkeypatch, 301_000)
    reading = next(one for one in served.parts.watcher.route_statuses() if one.route == route)
    assert (reading.state, reading.available) == ("degraded", True)
    assert reading.reason == "its credential was refused when it was used last: credential 401"
    assert f'ccproxy_credential_usable{{route="{route}"}} 0.0' in (await served.http.get("/metrics")).text
    assert (await served.ask()).status_code == 200
    await wait_until(lambda: not next(o for o in served.parts.watcher.route_statuses() if o.route == route).refused)
    assert ZAI_KEY not in (await served.http.get("/health")).text


def advance(parts: Parts, patch: pytest.MonkeyPatch, ms: int) -> None:
    """Set the proxy's clock forward."""
    now_ms = parts.clock.now_ms
    patch.setattr(parts.clock, "now_ms", lambda: now_ms() + ms)
