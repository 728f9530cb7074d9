"""`ccproxy check --live`: real requests to fake providers, what is told of them, kept, and booked."""

import asyncio
import json
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from redis import Redis

from service.cli import main
from service.embedded.valkey import Valkey
from service.ledger import wire
from service.ledger.events import AttemptEnded
from service.oauth.credentials_file import OAuthTokens
from service.oauth.shared_token import SharedToken
from service.redis_client.factory import open_async
from service.settings import Secret
from tests.fakes import FakeProvider, reply
from tests.support.subscriptions import log_in

KEY, ZAI_KEY = "sk-ant-api03-hunter2-aaaaaaaaaaaaaaaa", "zai-hunter2-bbbbbbbbbbbbbbbb"


@pytest.fixture
def environ(valkey: Valkey, tmp_path: Path) -> dict[str, str]:
    """Variables without a route."""
    return {"REDIS_URL": valkey.url, "CCPROXY_HOME": str(tmp_path / "home"), "NO_COLOR": "1"}


def check(environ: dict[str, str], *options: str) -> tuple[Result, dict[str, dict[str, Any]]]:
    """The command, and its findings by name."""
    result = CliRunner().invoke(main, ("check", "--live", "--json", *options), env=environ)
    assert result.exit_code in (0, 1), result.output
    return result, {finding["what"]: finding for finding in json.loads(result.stdout)}


def booked(redis: Redis, route: str) -> list[AttemptEnded]:
    """The attempts that ended on a route's stream."""
    entries: Any = redis.xrange(wire.events_key(route))
    found = [event for _, fields in entries for event in wire.decode_entry(fields[b"e"])]
    return [event for event in found if isinstance(event, AttemptEnded)]


def test_each_route_is_asked_once(environ: dict[str, str], redis: Redis, tmp_path: Path) -> None:
    """Under this product's own name; usage, price and limits are told, booked, and kept without secrets and texts."""
    file = tmp_path / "live.json"
    with FakeProvider("anthropic", keys={KEY}) as anthropic, FakeProvider("zai", keys={ZAI_KEY}) as zai:
        anthropic.extra_headers = {"anthropic-ratelimit-tokens-remaining": "39000"}
        environ |= {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": anthropic.base_url,
                    "ZAI_API_KEY": ZAI_KEY, "ZAI_BASE_URL": zai.base_url}  # fmt: skip
        result, found = check(environ, "--record", str(file))
        [asked] = anthropic.requests_to("/v1/messages")
        assert {name.lower(): value for name, value in asked.headers}["user-agent"].startswith("ccproxy-check/")
        assert len(zai.requests_to("/v1/messages")) == 1
    assert found["live anthropic"]["ok"]
    assert found["live zai"]["ok"], found["live zai"]
    words = found["live anthropic"]["words"]
    assert "status 200" in words
    assert "booked on the ledger" in words
    assert "tokens-remaining 39000" in words
    assert "one request to each of anthropic, zai" in result.stderr
    [event] = booked(redis, "anthropic")
    assert event.tokens.output > 0
    assert event.cost_nusd
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = {each["route"]: each for each in json.loads(file.read_text())["routes"]}
    assert kept["anthropic"]["cost_nusd"] == event.cost_nusd
    assert kept["anthropic"]["limits"]["anthropic-ratelimit-tokens-remaining"] == "39000"
    assert "hunter2" not in file.read_text() + result.output


@pytest.mark.parametrize(("answer", "words"), [(reply.error(401), "credential status 401"), (reply.error(529), "529")])
def test_a_refusal_is_told(environ: dict[str, str], redis: Redis, answer: Any, words: str) -> None:
    """As what it is, with exit code 1; it is not repeated, and the other routes are asked all the same."""
    with FakeProvider("anthropic", keys={KEY}) as anthropic:
        anthropic.script(answer)
        environ |= {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": anthropic.base_url}
        result, found = check(environ)
        assert len(anthropic.requests_to("/v1/messages")) == 1
    assert result.exit_code == 1
    assert words in found["live anthropic"]["words"]
    assert [event.outcome for event in booked(redis, "anthropic")] == ["failed"]


def test_a_subscription_is_asked_too(environ: dict[str, str], tmp_path: Path) -> None:
    """With the token of its file; without Redis, it is said that nothing was booked."""
    with FakeProvider("anthropic") as anthropic:
        file = tmp_path / "credentials.json"
        log_in(file, access="sk-ant-oat01-hunter2", refresh="sk-ant-ort01-hunter2", left_ms=3_600_000)
        environ |= {"CLAUDE_SUBSCRIPTION_ENABLED": "true", "CLAUDE_CREDENTIALS_PATH": str(file),
                    "CLAUDE_SUBSCRIPTION_BASE_URL": anthropic.base_url,
                    "CLAUDE_OAUTH_REFRESH_URL": f"{anthropic.base_url}/token"}  # fmt: skip
        del environ["REDIS_URL"]
        result, found = check(environ)
        assert len(anthropic.requests_to("/v1/messages")) == 1
    assert found["live subscription"]["ok"], found
    assert "not booked" in found["live subscription"]["words"]
    assert "hunter2" not in result.output


def test_a_token_that_another_host_shares_is_used(environ: dict[str, str], redis: Redis, tmp_path: Path) -> None:
    """As the proxy would: this host has no login."""
    share_key = Secret("hunter2-0123456789-0123456789-0123456789")
    issued = OAuthTokens("sk-ant-oat01-hunter2-shared", "", int(time.time() * 1000) + 3_600_000)

    async def share() -> None:
        async with open_async(environ["REDIS_URL"]) as opened:
            await SharedToken(opened, share_key, "subscription").publish(issued, issued.expires_at_ms - 3_600_000)

    asyncio.run(share())
    with FakeProvider("anthropic") as anthropic:
        environ |= {"CLAUDE_SUBSCRIPTION_ENABLED": "true", "CLAUDE_OAUTH_SHARE_KEY": share_key.reveal(),
                    "CLAUDE_CREDENTIALS_PATH": str(tmp_path / "none.json"),
                    "CLAUDE_SUBSCRIPTION_BASE_URL": anthropic.base_url,
                    "CLAUDE_OAUTH_REFRESH_URL": f"{anthropic.base_url}/token"}  # fmt: skip
        result, found = check(environ)
        [asked] = anthropic.requests_to("/v1/messages")
    assert {name.lower(): value for name, value in asked.headers}["authorization"] == f"Bearer {issued.access_token}"
    assert found["live subscription"]["ok"], found
    assert len(booked(redis, "subscription")) == 1
    assert "hunter2" not in result.output


def test_nothing_is_sent_without_being_asked_for(environ: dict[str, str], tmp_path: Path) -> None:
    """Without --live there is no request; --record alone is a mistake."""
    with FakeProvider("anthropic", keys={KEY}) as anthropic:
        environ |= {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": anthropic.base_url}
        assert CliRunner().invoke(main, ("check",), env=environ).exit_code == 0
        assert anthropic.requests == []
    result = CliRunner().invoke(main, ("check", "--record", str(tmp_path / "f")), env=environ)
    assert result.exit_code == 2
    assert "--record needs --live" in result.output
