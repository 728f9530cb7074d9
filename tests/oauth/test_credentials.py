"""The credential of a route: a key, a static token that is never refreshed, or one that is kept fresh."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from service.fleet.clock import Clock
from service.oauth import credentials as page
from service.oauth.credentials import Credentials, NoCredential
from service.oauth.token_manager import TokenManager
from service.settings import Route, Settings, load
from tests.fakes import FakeProvider
from tests.support.subscriptions import OLD_ACCESS, log_in, refreshes, told


def settings_of(home: Path, fake: FakeProvider, variables: Mapping[str, str]) -> Settings:
    """Settings whose token endpoint is the fake's."""
    url = fake.base_url + "/v1/oauth/token"
    return load(environ={"CCPROXY_HOME": str(home), "CLAUDE_OAUTH_REFRESH_URL": url, **variables})


@contextlib.asynccontextmanager
async def credentials_of(settings: Settings) -> AsyncIterator[tuple[Credentials, Mapping[str, Route]]]:
    """Credentials as a proxy has them, and the routes by name."""
    made = Credentials(settings, None, Clock())
    await made.start()
    try:
        yield made, {route.id: route for route in settings.routes}
    finally:
        await made.stop()


async def test_a_key_is_a_key(tmp_path: Path, fake: FakeProvider) -> None:
    """And cannot be refreshed."""
    settings = settings_of(tmp_path, fake, {"ANTHROPIC_API_KEY": "sk-ant-key"})
    async with credentials_of(settings) as (credentials, routes):
        assert await credentials.of(routes["anthropic"]) == "sk-ant-key"
        assert not await credentials.refused(routes["anthropic"], "sk-ant-key")
        with pytest.raises(NoCredential, match="opt-in"):
            await credentials.of(routes["subscription"])


async def test_a_static_token_is_never_refreshed(tmp_path: Path, fake: FakeProvider, path: Path) -> None:
    """It stands before the file, which nobody touches."""
    variables = {"CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-static", "CLAUDE_CREDENTIALS_PATH": str(path)}
    before = told(path)
    async with credentials_of(settings_of(tmp_path, fake, variables)) as (credentials, routes):
        assert await credentials.of(routes["subscription"]) == "sk-ant-oat01-static"
        assert not await credentials.refused(routes["subscription"], "sk-ant-oat01-static")
    assert refreshes(fake) == 0
    assert told(path) == before


async def test_a_file_is_kept_fresh_beside_the_requests(
    tmp_path: Path, fake: FakeProvider, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asks for anything, and the token is refreshed all the same."""
    monkeypatch.setattr(page, "TICK_S", 0.01)
    log_in(path, left_ms=60_000)
    async with credentials_of(settings_of(tmp_path, fake, {"CLAUDE_CREDENTIALS_PATH": str(path)})) as (made, routes):
        await fake.wait_until_async(lambda: len(fake.oauth.issued) == 1)
        assert await made.of(routes["subscription"]) in (OLD_ACCESS, fake.oauth.issued[0][0])
    assert told(path)["accessToken"] == fake.oauth.issued[0][0]
    assert refreshes(fake) == 1


async def test_a_refused_token_of_a_file_is_replaced(tmp_path: Path, fake: FakeProvider, path: Path) -> None:
    """The route's credential is another one then."""
    log_in(path, left_ms=3_600_000)
    async with credentials_of(settings_of(tmp_path, fake, {"CLAUDE_CREDENTIALS_PATH": str(path)})) as (made, routes):
        subscription = routes["subscription"]
        assert await made.of(subscription) == OLD_ACCESS
        assert await made.refused(subscription, OLD_ACCESS)
        assert await made.of(subscription) == fake.oauth.issued[0][0]


async def test_without_a_token_the_reason_is_told(tmp_path: Path, fake: FakeProvider) -> None:
    """With its mend."""
    variables = {"CLAUDE_CREDENTIALS_PATH": str(tmp_path / "none")}
    async with credentials_of(settings_of(tmp_path, fake, variables)) as (credentials, routes):
        with pytest.raises(NoCredential, match="does not exist; log in with Claude Code, or set"):
            await credentials.of(routes["subscription"])


async def test_a_stop_does_not_hang_on_a_swallowed_cancellation(
    tmp_path: Path, fake: FakeProvider, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Python 3.12 `wait_for`, which redis-py uses, may lose one that comes just as its work is done."""
    ticking, swallowed = asyncio.Event(), asyncio.Event()

    async def tick(_: TokenManager) -> None:
        try:
            ticking.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if swallowed.is_set():
                raise
            swallowed.set()

    monkeypatch.setattr(TokenManager, "tick", tick)
    made = Credentials(settings_of(tmp_path, fake, {"CLAUDE_CREDENTIALS_PATH": str(path)}), None, Clock())
    await made.start()
    await asyncio.wait_for(ticking.wait(), 20)
    stopping = asyncio.create_task(made.stop())
    _, late = await asyncio.wait({stopping}, timeout=20)
    assert swallowed.is_set()
    assert not late
