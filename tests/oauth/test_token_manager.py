"""A subscription's token on one host: refreshed in time, once, saved before it counts, and nobody is hammered."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.oauth import token_manager as page
from service.oauth.credentials_file import LOCK_SUFFIX, CredentialsFile
from tests.fakes import FakeProvider, reply
from tests.fakes.language import Reply
from tests.oauth.conftest import MakeSubscription
from tests.support.subscriptions import (
    HOUR_MS,
    OLD_ACCESS,
    OLD_REFRESH,
    Time,
    content,
    cut_off,
    log_in,
    log_out,
    refreshes,
    told,
)
from tests.support.waiting import wait_until

TOKEN_PATH = "/v1/oauth/token"


async def flown(subscription: page.TokenManager) -> None:
    """Wait until what the subscription has begun is over."""
    if subscription._renewal:
        await asyncio.wait({subscription._renewal}, timeout=30)


# -- in time


async def test_a_fresh_token_is_used_as_it_is(subscribe: MakeSubscription, fake: FakeProvider, path: Path) -> None:
    """Nobody is asked."""
    log_in(path, left_ms=HOUR_MS)
    one = subscribe()
    await one.tick()
    assert await one.token() == OLD_ACCESS
    await flown(one)
    assert refreshes(fake) == 0


async def test_an_expired_token_is_refreshed_once_for_all_that_wait(
    subscribe: MakeSubscription, fake: FakeProvider, path: Path
) -> None:
    """Within one process and between them; the file holds what came, and so do all."""
    all_of_them = [subscribe() for _ in range(3)]
    tokens = await asyncio.gather(*(one.token() for one in all_of_them for _ in range(10)))
    [(access, refresh)] = fake.oauth.issued
    assert set(tokens) == {access}
    assert (told(path)["accessToken"], told(path)["refreshToken"]) == (access, refresh)
    assert refreshes(fake) == 1


async def test_the_request_is_what_the_endpoint_wants(subscribe: MakeSubscription, fake: FakeProvider) -> None:
    """JSON with the grant, the token and the client; nothing else."""
    assert await subscribe().token()
    [asked] = fake.requests_to(TOKEN_PATH)
    assert asked.json == {
        "grant_type": "refresh_token",
        "refresh_token": OLD_REFRESH,
        "client_id": "9d1c250a-e61b-44d9-88ed-5944d1962f5e",
    }
    assert asked.header("content-type") == "application/json"


async def test_no_request_waits_while_the_old_token_lives(
    subscribe: MakeSubscription, fake: FakeProvider, path: Path
) -> None:
    """It is refreshed beside the requests, though none comes at all."""
    log_in(path, left_ms=60_000)
    fake.oauth.wait_ms = 300
    one = subscribe()
    await one.tick()
    assert await one.token() == OLD_ACCESS
    await flown(one)
    assert await one.token() == fake.oauth.issued[0][0]
    assert refreshes(fake) == 1


async def test_a_token_that_lives_for_less_than_the_skew_is_not_refreshed_each_second(
    subscribe: MakeSubscription, fake: FakeProvider, time: Time
) -> None:
    """After half of its life it is."""
    fake.oauth.expires_in_s = 100
    one = subscribe()
    assert await one.token()
    for _ in range(3):
        await one.tick()
        await flown(one)
    assert refreshes(fake) == 1
    time.ahead_ms += 51_000
    await one.tick()
    await flown(one)
    assert refreshes(fake) == 2


async def test_what_claude_code_refreshed_is_taken(subscribe: MakeSubscription, fake: FakeProvider, path: Path) -> None:
    """The file is looked at each second, and before anything is asked."""
    log_in(path, left_ms=HOUR_MS)
    one = subscribe()
    assert await one.token() == OLD_ACCESS
    log_in(path, access="theirs", refresh="their-refresh", left_ms=HOUR_MS)
    await one.tick()
    assert await one.token() == "theirs"
    assert refreshes(fake) == 0


async def test_without_a_refresh_token_it_ends(subscribe: MakeSubscription, fake: FakeProvider, path: Path) -> None:
    """And says so."""
    log_in(path, refresh=None)
    one = subscribe()
    assert await one.token() == ""
    assert "has no refresh token; log in" in one.trouble
    assert refreshes(fake) == 0


async def test_a_waiting_client_that_goes_does_not_end_the_refresh(
    subscribe: MakeSubscription, fake: FakeProvider, path: Path
) -> None:
    """What was spent is saved."""
    fake.oauth.wait_ms = 300
    one = subscribe()
    client = asyncio.create_task(one.token())
    await fake.wait_until_async(lambda: refreshes(fake) == 1)
    client.cancel()
    await one.stop()
    assert told(path)["refreshToken"] == fake.oauth.issued[0][1]


# -- refused by the provider


async def test_a_refused_token_is_replaced(subscribe: MakeSubscription, fake: FakeProvider, path: Path) -> None:
    """By one refresh, however many requests it was refused for."""
    log_in(path, left_ms=HOUR_MS)
    one, other = subscribe(), subscribe()
    assert await one.token() == await other.token() == OLD_ACCESS
    assert set(await asyncio.gather(*(each.refused(OLD_ACCESS) for each in (one, other) for _ in range(10)))) == {True}
    assert await one.token() == await other.token() == told(path)["accessToken"] == fake.oauth.issued[0][0]
    assert await one.refused(OLD_ACCESS), "a straggler's attempt is worth repeating, with the token that is there"
    assert refreshes(fake) == 1


async def test_a_refused_token_is_not_refreshed_when_the_file_has_another(
    subscribe: MakeSubscription, fake: FakeProvider, path: Path
) -> None:
    """That one is at hand."""
    log_in(path, left_ms=HOUR_MS)
    one = subscribe()
    await one.token()
    log_in(path, access="theirs", refresh="their-refresh", left_ms=HOUR_MS)
    assert await one.refused(OLD_ACCESS)
    assert await one.token() == "theirs"
    assert refreshes(fake) == 0


async def test_a_fresh_token_that_is_refused_is_not_refreshed_again(
    subscribe: MakeSubscription, fake: FakeProvider, path: Path, time: Time
) -> None:
    """Its age is not the reason; later it may be."""
    log_in(path, left_ms=HOUR_MS)
    one = subscribe()
    await one.token()
    assert await one.refused(OLD_ACCESS)
    young = await one.token()
    assert not await one.refused(young)
    log_in(path, access="theirs", refresh=fake.oauth.issued[0][1], left_ms=HOUR_MS)
    assert await one.refused(young), "the file has another one"
    assert refreshes(fake) == 1
    time.ahead_ms += page.FORCE_GAP_MS
    assert await one.refused(await one.token())
    assert refreshes(fake) == 2


# -- the endpoint in trouble


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_the_endpoints_waits_are_kept(
    subscribe: MakeSubscription, fake: FakeProvider, path: Path, time: Time, status: int
) -> None:
    """The old token serves on; once it has expired no request waits in vain; afterwards it is tried again."""
    log_in(path, left_ms=60_000)
    fake.script(reply.error(status, retry_after_s=120).when(TOKEN_PATH))
    one = subscribe()
    await one.tick()
    await flown(one)
    for _ in range(5):
        await one.tick()
        assert await one.token() == OLD_ACCESS
    assert refreshes(fake) == 1
    time.ahead_ms += 61_000
    assert await one.token() == ""
    assert f"responded with status {status}; next attempt in 120 s" in one.trouble
    time.ahead_ms += 60_000
    assert await one.token() == fake.oauth.issued[0][0]
    assert refreshes(fake) == 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (reply.reset("request"), "can't be reached"),
        (reply.json({"error": "invalid_client", "error_description": OLD_REFRESH}, status=401), "401 (invalid_client)"),
        (reply.json({"error": {"type": "x", "message": OLD_REFRESH}}, status=400), "status 400"),
        (reply.json({"error": OLD_REFRESH}, status=400), "status 400"),
        (reply.html(502), "status 502"),
        (reply.raw(b"{"), "responded without a token"),
        (reply.json({"access_token": ""}), "responded without a token"),
        (reply.raw(b" " * 70_000), "can't be reached"),
    ],
    ids=["reset", "client", "object", "quoting", "html", "garbage", "empty", "large"],
)
async def test_a_bad_answer_is_tried_again_at_growing_distances(
    subscribe: MakeSubscription,
    fake: FakeProvider,
    time: Time,
    caplog: pytest.LogCaptureFixture,
    answer: Reply,
    words: str,
) -> None:
    """It is named, and no token with it."""
    fake.script(answer.when(TOKEN_PATH).repeated(2))
    one = subscribe()
    assert await one.token() == ""
    assert words in one.trouble
    assert "in 5 s" in one.trouble
    time.ahead_ms += 5_001
    assert await one.token() == ""
    assert "in 10 s" in one.trouble
    time.ahead_ms += 10_001
    assert await one.token()
    assert "sk-ant" not in one.trouble + caplog.text


async def test_an_ended_log_in_is_told_and_never_tried_again(
    subscribe: MakeSubscription, fake: FakeProvider, path: Path, monkeypatch: pytest.MonkeyPatch, time: Time
) -> None:
    """Until there is another one; then all is well by itself."""
    monkeypatch.setattr(page, "SETTLE_S", 0.05)
    fake.oauth.refresh_tokens.clear()
    one = subscribe()
    assert await one.token() == ""
    assert "the login in" in one.trouble
    assert "has ended; log in with Claude Code again" in one.trouble
    for _ in range(3):
        time.ahead_ms += HOUR_MS
        await one.tick()
        assert await one.token() == ""
    assert refreshes(fake) == 1
    log_in(path, access="new", refresh="new-refresh", left_ms=time.ahead_ms + HOUR_MS)
    await one.tick()
    assert await one.token() == "new"


# -- others at the same file


async def test_claude_code_refreshes_at_the_same_moment(
    subscribe: MakeSubscription, fake: FakeProvider, path: Path
) -> None:
    """It won, and saves a moment after the endpoint has refused us: then its tokens are taken."""
    fake.oauth.refresh_tokens.clear()
    one = subscribe()
    waiting = asyncio.create_task(one.token())
    await fake.wait_until_async(lambda: refreshes(fake) == 1)
    log_in(path, access="theirs", refresh="their-refresh", left_ms=HOUR_MS)
    assert await waiting == "theirs"
    assert told(path)["refreshToken"] == "their-refresh"


async def test_a_log_in_during_the_refresh_stands(subscribe: MakeSubscription, fake: FakeProvider, path: Path) -> None:
    """What came for the old refresh token is not written over it."""
    fake.oauth.wait_ms = 300
    one = subscribe()
    waiting = asyncio.create_task(one.token())
    await fake.wait_until_async(lambda: refreshes(fake) == 1)
    log_in(path, access="theirs", refresh="their-refresh", left_ms=HOUR_MS)
    assert await waiting == "theirs"
    assert told(path)["refreshToken"] == "their-refresh"


async def test_a_log_out_during_the_refresh_stands(subscribe: MakeSubscription, fake: FakeProvider, path: Path) -> None:
    """The file is not made again."""
    fake.oauth.wait_ms = 300
    one = subscribe()
    waiting = asyncio.create_task(one.token())
    await fake.wait_until_async(lambda: refreshes(fake) == 1)
    log_out(path)
    assert await waiting == ""
    assert "does not exist; log in with Claude Code" in one.trouble
    assert content(path) is None


async def test_a_file_that_vanishes_ends_its_use(subscribe: MakeSubscription, path: Path) -> None:
    """And one that comes back begins it again."""
    log_in(path, left_ms=HOUR_MS)
    one = subscribe()
    assert await one.token() == OLD_ACCESS
    log_out(path)
    await one.tick()
    assert await one.token() == ""
    log_in(path, left_ms=HOUR_MS)
    assert await one.token() == OLD_ACCESS


async def test_a_file_that_cannot_be_read_for_a_moment_changes_nothing(subscribe: MakeSubscription, path: Path) -> None:
    """What it said last holds; the event loop goes on meanwhile."""
    log_in(path, left_ms=HOUR_MS)
    one = subscribe()
    assert await one.token() == OLD_ACCESS
    cut_off(path)
    ticking, turns = asyncio.create_task(one.tick()), 0

    def is_done() -> bool:
        nonlocal turns
        turns += 1
        return ticking.done()

    await wait_until(is_done)
    assert turns > 3
    assert await one.token() == OLD_ACCESS
    assert "can't be read" in one.trouble


async def test_while_another_process_refreshes_this_one_waits(
    subscribe: MakeSubscription, fake: FakeProvider, path: Path
) -> None:
    """It takes what the other saves, though that one still has the lock."""
    lock = CredentialsFile(str(path)).try_lock()
    assert lock is not None
    waiting = asyncio.create_task(subscribe().token())
    done, _ = await asyncio.wait({waiting}, timeout=0.3)
    assert not done
    log_in(path, access="theirs", refresh="their-refresh", left_ms=HOUR_MS)
    assert await waiting == "theirs"
    lock.release()
    assert refreshes(fake) == 0


async def test_a_lock_that_stays_is_waited_for_no_longer_than_the_limit(
    subscribe: MakeSubscription, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the route is passed over."""
    monkeypatch.setattr(page, "LOCK_S", 0.2)
    lock = CredentialsFile(str(path)).try_lock()
    assert lock is not None
    one = subscribe()
    assert await one.token() == ""
    assert "another process has been refreshing it" in one.trouble
    lock.release()


async def test_a_file_that_cannot_be_written_is_read_alone(
    subscribe: MakeSubscription, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its refresh token is never spent: what comes for it could not be kept."""
    monkeypatch.setattr(CredentialsFile, "can_write", lambda _: False)
    one = subscribe()
    assert await one.token() == ""
    assert "is not writable; start Claude Code once" in one.trouble
    assert refreshes(fake) == 0


# -- crashes and full disks


async def test_what_cannot_be_saved_is_kept_and_saved_later(
    subscribe: MakeSubscription, fake: FakeProvider, path: Path, monkeypatch: pytest.MonkeyPatch, time: Time
) -> None:
    """A full disk costs no log-in while the proxy runs, not even one that is full for longer than a token lives."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    one = subscribe()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert await one.token() == fake.oauth.issued[0][0]
        await one.tick()
        assert await one.token() == fake.oauth.issued[0][0]
        time.ahead_ms += 9 * HOUR_MS
        access = await one.token()
        assert access == fake.oauth.issued[1][0]
        assert told(path)["refreshToken"] == OLD_REFRESH
    await one.tick()
    assert told(path)["refreshToken"] == fake.oauth.issued[1][1]
    await one.tick()
    assert await one.token() == access
    assert refreshes(fake) == 2


PROCESS = """\
import asyncio, sys
from service.oauth.credentials_file import LOCK_SUFFIX, CredentialsFile
from service.oauth.token_manager import TokenManager
from service.oauth.token_endpoint import TokenEndpoint
from service.settings import OAuth
import time
from tests.support.waiting import wait_until

async def main():
    one = TokenManager("subscription", CredentialsFile(sys.argv[1]), TokenEndpoint(OAuth(refresh_url=sys.argv[2])),
        None, skew_ms=300_000, now_ms=lambda: int(time.time() * 1000))
    await one.token()

asyncio.run(main())
"""


def refreshing(path: Path, fake: FakeProvider) -> subprocess.Popen[bytes]:
    """Another process that wants a token of this file."""
    return subprocess.Popen([sys.executable, "-c", PROCESS, str(path), fake.base_url + TOKEN_PATH])


async def test_a_kill_before_the_endpoint_has_answered_leaves_the_file_as_it_was(
    subscribe: MakeSubscription, fake: FakeProvider, path: Path
) -> None:
    """The lock is free at once, and as the refresh token was not spent, the next process refreshes."""
    fake.script(reply.hang("request").when(TOKEN_PATH))
    before = content(path)
    with refreshing(path, fake) as process:
        await fake.wait_until_async(lambda: refreshes(fake) == 1, 30)
        assert CredentialsFile(str(path)).try_lock() is None
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait, 20)
    assert content(path) == before
    assert await subscribe().token() == fake.oauth.issued[0][0]


async def test_a_kill_behind_the_answer_costs_the_log_in_and_says_so(
    subscribe: MakeSubscription, fake: FakeProvider, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one case that nothing can mend but a new log-in; the file is whole."""
    monkeypatch.setattr(page, "SETTLE_S", 0.05)
    fake.oauth.wait_ms = 60_000
    before = content(path)
    with refreshing(path, fake) as process:
        await fake.wait_until_async(lambda: len(fake.oauth.issued) == 1, 30)
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait, 20)
    assert content(path) == before
    one = subscribe()
    assert await one.token() == ""
    assert "has ended; log in with Claude Code again" in one.trouble


# -- which log-in it is


async def test_a_refresh_keeps_the_account(subscribe: MakeSubscription, fake: FakeProvider, path: Path) -> None:
    """For whoever refreshed, for others of the host, and after a restart: what is known of the account stays."""
    log_in(path, left_ms=HOUR_MS)
    before = subscribe()
    await before.token()
    account = before.account
    other = subscribe()
    await other.token()
    assert await before.refused(OLD_ACCESS)
    await other.tick()
    restarted = subscribe()
    await restarted.token()
    assert refreshes(fake) == 1
    assert [one.account for one in (before, other, restarted)] == [account] * 3 != [""] * 3


async def test_a_new_log_in_is_another_account(subscribe: MakeSubscription, path: Path) -> None:
    """What held the old one no longer holds."""
    log_in(path, left_ms=HOUR_MS)
    one = subscribe()
    await one.token()
    before = one.account
    assert await one.refused(OLD_ACCESS)
    log_in(path, left_ms=HOUR_MS, access="sk-ant-oat01-new-login", refresh="sk-ant-ort01-new-login")
    await one.tick()
    assert one.account not in ("", before)


@pytest.mark.parametrize("record", [b"", b"[]", b"{", b'{"account": 1}', b"\xff"])
async def test_a_broken_record_of_refreshes_is_none(
    subscribe: MakeSubscription, path: Path, fake: FakeProvider, record: bytes
) -> None:
    """The log-in is taken for a new one."""
    log_in(path, left_ms=HOUR_MS)
    one = subscribe()
    await one.token()
    note_refresh(path, record)
    again = subscribe()
    await again.token()
    assert again.account == one.account
    assert refreshes(fake) == 0


def note_refresh(path: Path, record: bytes) -> None:
    """Write what is noted beside the file of a refresh."""
    Path(f"{path}{LOCK_SUFFIX}").write_bytes(record)
