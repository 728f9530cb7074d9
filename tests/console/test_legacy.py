"""The original's endpoints: its shapes, behind a token where they reveal anything."""

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from service.ledger.events import CircuitReset, RouteReset
from tests.fakes import FakeProvider
from tests.support.proxies import ANTHROPIC_KEY, Serving, server_of

ADMIN = "admin-token-marked-0123456789"
BEARER = {"authorization": f"Bearer {ADMIN}"}


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serving]:
    async with server_of(tmp_path, monkeypatch) as server:
        for fake in provider():
            yield await server.start(
                anthropic=fake,
                variables={"ADMIN_TOKEN": ADMIN, "ANTHROPIC_WEEKLY_LIMIT": "1000", "CIRCUIT_BREAKER_ENABLED": "true"},
            )


def provider() -> Iterator[FakeProvider]:
    with FakeProvider("anthropic", keys={ANTHROPIC_KEY}) as fake:
        yield fake


@pytest.mark.parametrize("path", ["/providers", "/config", "/usage", "/logs", "/logs/stream"])
async def test_nobody_without_a_token(served: Serving, path: str) -> None:
    """What reveals anything asks for a token."""
    assert (await served.http.get(path)).status_code == 401


async def test_providers_and_their_reset(served: Serving) -> None:
    """State, priority, metrics and quota of each; a reset is two events for each route."""
    await served.ask()
    told = (await served.http.get("/providers", headers=BEARER)).json()
    assert (told["enabled"], told["bestProvider"]) == (True, "anthropic")
    first = told["providers"][0]
    assert (first["provider"], first["state"], first["priority"]) == ("anthropic", "healthy", 1)
    assert first["metrics"]["successfulRequests"] == 1
    assert first["quota"]["limit"] == 1000
    assert (await served.http.post("/providers/reset")).status_code == 401
    answer = await served.http.post("/providers/reset", headers=BEARER)
    assert answer.json()["providers"] == ["anthropic", "subscription", "zai"]
    assert len([event for _, event in served.events if isinstance(event, CircuitReset)]) == 3
    assert [stream for stream, event in served.events if isinstance(event, RouteReset)] == answer.json()["providers"]


async def test_the_configuration_is_masked(served: Serving) -> None:
    """The ends of a long key, and no more."""
    answer = await served.http.get("/config", headers=BEARER)
    assert answer.json()["providers"]["anthropic"]["apiKey"] == f"{ANTHROPIC_KEY[:8]}...{ANTHROPIC_KEY[-4:]}"
    assert ANTHROPIC_KEY not in answer.text
    assert ADMIN not in answer.text


async def test_the_log_is_kept_and_followed(served: Serving) -> None:
    """The newest lines, and each as it comes."""
    logging.getLogger("ccproxy").setLevel(logging.INFO)
    await served.ask()
    told = (await served.http.get("/logs?limit=5", headers=BEARER)).json()
    assert 0 < told["count"] <= 5
    assert any("Anthropic" in line["message"] for line in told["logs"])
    async with served.http.stream("GET", "/logs/stream", headers=BEARER) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                break
    page = await served.http.get("/logs/ui")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]


async def test_usage_needs_workers(served: Serving) -> None:
    """History says why it is not there; a query is no fault, unlike in the original."""
    answer = await served.http.get("/usage?days=3&limit=2", headers=BEARER)
    assert answer.status_code == 503
    assert (await served.http.get("/usage?days=0", headers=BEARER)).status_code == 400
