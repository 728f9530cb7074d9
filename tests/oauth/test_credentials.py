"""The credential of a route: a key, a static token that is never refreshed, or one that is kept fresh."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from service.fleet.clock import Clock
from service.ledger.events import RouteNotice
from service.oauth import credentials as page
from service.oauth import token_manager
from service.oauth.credentials import Credentials, NoCredential
from service.oauth.token_manager import TokenManager
from service.settings import Route, Settings, load
from tests.fakes import FakeProvider, reply
from tests.support.subscriptions import OLD_ACCESS, OLD_REFRESH, cut_off, log_in, log_out, refreshes, told
from tests.support.waiting import stays, wait_until


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


# -- what is wrong becomes the state of the route

Noticed = list[tuple[str, str, bool]]


@contextlib.asynccontextmanager
async def noticing(
    tmp_path: Path, fake: FakeProvider, path: Path, patch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Credentials, Noticed]]:
    """Credentials of a file, and the notices that they give of it: route, code, and whether the token still serves."""
    patch.setattr(page, "TICK_S", 0.02)
    noticed: Noticed = []

    async def notify(route: str, event: RouteNotice) -> None:
        assert str(tmp_path) not in event.message
        assert "marked" not in event.message
        noticed.append((route, event.code, event.usable))

    settings = settings_of(tmp_path, fake, {"CLAUDE_CREDENTIALS_PATH": str(path)})
    made = Credentials(settings, None, Clock(), notify)
    await made.start()
    try:
        yield made, noticed
    finally:
        await made.stop()


@pytest.mark.parametrize(
    ("left_ms", "refresh", "broken", "code"),
    [
        (-1000, None, "absent", "absent"),
        (-1000, None, "garbage", "unreadable"),
        (-1000, None, "", "expired"),
        (-1000, "unknown-refresh-token", "", "ended"),
        (-1000, OLD_REFRESH, "endpoint", "not_refreshed"),
        (60_000, None, "", "expired"),
        (60_000, OLD_REFRESH, "endpoint", "not_refreshed"),
    ],
)
async def test_what_is_wrong_with_a_login_is_noticed_once_and_so_is_its_end(
    tmp_path: Path,
    fake: FakeProvider,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    left_ms: int,
    refresh: str | None,
    broken: str,
    code: str,
) -> None:
    """One notice and one line of the log when it begins, however often it is looked at, and one each when it ends."""
    monkeypatch.setattr(token_manager, "SETTLE_S", 0.05)
    log_in(path, refresh=refresh, left_ms=left_ms)
    if broken == "absent":
        log_out(path)
    elif broken == "garbage":
        cut_off(path)
    elif broken == "endpoint":
        fake.script(reply.error(429).when("/v1/oauth/token"))
    async with noticing(tmp_path, fake, path, monkeypatch) as (_, noticed):
        await wait_until(lambda: noticed)
        await stays(lambda: len(noticed) == 1, 0.2)
        assert noticed == [("subscription", code, left_ms > 0)]
        log_in(path, access="new", refresh="new-refresh", left_ms=3_600_000)
        await wait_until(lambda: len(noticed) == 2)
    assert noticed[1] == ("subscription", "", False)
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("credential.")]
    assert lines == ["credential.at_risk" if left_ms > 0 else "credential.unusable", "credential.usable"]


async def test_an_unexpected_error_is_the_state_of_its_route_alone(
    tmp_path: Path, fake: FakeProvider, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task goes on, so that the route is back as soon as the error is over."""
    log_in(path, left_ms=3_600_000)
    tick, errors = TokenManager.tick, [KeyError("sk-ant-marked")] * 3

    async def failing(self: TokenManager) -> None:
        await tick(self)
        if errors:
            raise errors.pop()

    monkeypatch.setattr(TokenManager, "tick", failing)
    async with noticing(tmp_path, fake, path, monkeypatch) as (_, noticed):
        await wait_until(lambda: len(noticed) == 2)
    assert noticed == [("subscription", "task", True), ("subscription", "", False)]


async def test_refreshes_are_counted_by_outcome(
    tmp_path: Path, fake: FakeProvider, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From zero, so that an alert sees the first one."""
    async with noticing(tmp_path, fake, path, monkeypatch) as (credentials, noticed):
        await wait_until(lambda: credentials.refreshes["subscription", "ok"])
        assert credentials.refreshes == {
            ("subscription", "ok"): 1, ("subscription", "failed"): 0, ("subscription", "refused"): 0,
        }  # fmt: skip
    assert noticed == []
