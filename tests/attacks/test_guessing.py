"""Guessing of keys and tokens, and relaying with a credential of one's own: by one address, in every way at once."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from service import auth_throttle as brake
from service.auth_throttle import FREE_TRIES
from tests.attacks.raw import ByteProvider, byte_provider
from tests.support.client_keys import issue, shown
from tests.support.proxies import ASK, Server, Serving
from tests.support.waiting import wait_until

ADMIN, METRICS, ANN = "admin-token-0123456789", "metrics-token-0123456789", "key-of-ann-0123456789"
OWN = "sk-ant-api03-own-credential"
HELD_S = 1.0
GUESSES = 100
"""Many more than are free, and than were held back before others were answered at once."""
VARIABLES = {"ADMIN_TOKEN": ADMIN, "METRICS_TOKEN": METRICS, "PROXY_API_KEYS": f"ledger,ann:{ANN}"}
FORGED_ID = "ccp_nobody-000000_" + "0" * 48
COOKIE = {"cookie": "ccproxy_session=admin.9999999999.x.y"}


@pytest.fixture(autouse=True)
def long_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every answer that is held back waits for so long that no busy machine takes as long for the others."""
    monkeypatch.setattr(brake, "FIRST_WAIT_S", HELD_S)
    monkeypatch.setattr(brake, "LONGEST_WAIT_S", HELD_S)
    return iter(())


@pytest.fixture
async def provider() -> AsyncIterator[ByteProvider]:
    async with byte_provider() as made:
        yield made


def client_at(served: Serving, address: str = "127.0.0.1") -> httpx.AsyncClient:
    """A client at an address, with a connection for each request."""
    transport = httpx.AsyncHTTPTransport(local_address=address, limits=httpx.Limits(max_keepalive_connections=0))
    return httpx.AsyncClient(base_url=served.url, transport=transport, timeout=20)


async def timed(client: httpx.AsyncClient, method: str, path: str, **more: Any) -> tuple[int, float]:
    """Status of an answer, and the seconds until it came."""
    began_s = time.monotonic()
    answer = await client.request(method, path, **more)
    return answer.status_code, time.monotonic() - began_s


def wrong_requests(issued: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Failed proofs of every kind; `issued` is a key with its secret changed."""
    v1 = [
        {}, {"x-api-key": "wrong"}, {"authorization": "Bearer wrong"}, {"x-ccproxy-key": "wrong"}, shown(FORGED_ID),
        shown(issued), {"x-api-key": OWN}, {"x-ccproxy-key": "wrong", "x-api-key": OWN},
        {"x-ccproxy-key": "wrong", "x-api-key": ANN},
    ]  # fmt: skip
    found: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/messages", {"headers": headers, "json": ASK}) for headers in v1
    ]
    return [
        *found,
        ("GET", "/v1/models", {"headers": shown("wrong")}),
        ("POST", "/admin/api/session", {"json": {"token": "wrong"}}),
        ("GET", "/admin/api/routes", {"headers": shown("wrong")}),
        ("GET", "/admin/api/routes", {"headers": COOKIE}),
        ("GET", "/metrics", {"headers": shown("wrong")}),
        ("GET", "/usage", {"headers": shown("wrong")}),
    ]


async def test_guesses_of_every_kind_are_slowed_together(server: Server, provider: ByteProvider) -> None:
    """Many at once from one address, mixed: a handful is answered; right keys, here and elsewhere, do not wait."""
    served = await server.start(anthropic=provider.base_url, variables=VARIABLES)
    key, _ = issue(served)
    kinds = wrong_requests(key[:-1] + ("0" if key[-1] != "0" else "1"))
    right: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/messages", {"headers": {"x-api-key": ANN}, "json": ASK}),
        ("POST", "/v1/messages", {"headers": shown(key), "json": ASK}),
        ("GET", "/metrics", {"headers": shown(METRICS)}),
        ("GET", "/admin/api/routes", {"headers": shown(ADMIN)}),
    ]
    async with client_at(served) as client:
        wrong = [kinds[number % len(kinds)] for number in range(GUESSES)]
        guesses = [asyncio.ensure_future(timed(client, method, path, **more)) for method, path, more in wrong]
        await wait_until(lambda: served.parts.brake.tries >= len(guesses) // 2)
        for method, path, more in right:
            status, took_s = await timed(client, method, path, **more)
            assert status in (200, 201), path
            assert took_s < HELD_S
        answered = await asyncio.gather(*guesses)
    assert {status for status, _ in answered} == {401}
    assert sum(took_s < HELD_S for _, took_s in answered) <= FREE_TRIES
    assert provider.seen[0].values(b"x-api-key") != [OWN.encode()]
    assert len(provider.seen) == 2


async def test_each_kind_of_failure_counts(server: Server) -> None:
    served = await server.start(variables=VARIABLES)
    key, _ = issue(served)
    for method, path, more in wrong_requests(key[:-2] + "zz"):
        served.parts.brake._failures.clear()
        before = served.parts.brake.tries
        answer = await served.http.request(method, path, **more)
        assert (answer.status_code, served.parts.brake.tries - before) == (401, 1), (path, more)


async def test_an_expired_key_counts_and_a_missing_cookie_does_not(server: Server) -> None:
    served = await server.start(variables=VARIABLES)
    key, _ = issue(served, expires_at_ms=1)
    assert (await served.ask(headers=shown(key))).status_code == 401
    assert served.parts.brake.tries == 1
    assert (await served.http.get("/admin/api/session")).status_code == 401
    assert served.parts.brake.tries == 1


@pytest.mark.parametrize(("trusted", "slowed"), [("192.0.2.1", True), ("127.0.0.1", False)])
async def test_an_address_is_believed_from_trusted_proxies_alone(
    server: Server,
    trusted: str,
    slowed: bool,  # noqa: FBT001
) -> None:
    """Who invents a new address for each guess is slowed by its own; behind a trusted proxy each client is by its."""
    served = await server.start(variables=VARIABLES | {"TRUSTED_PROXIES": trusted})
    async with client_at(served) as client:
        for number in range(FREE_TRIES):
            await timed(client, "GET", "/v1/models", headers={"x-forwarded-for": f"203.0.113.{number}"})
        status, took_s = await timed(client, "GET", "/v1/models", headers={"x-forwarded-for": "203.0.113.99"})
        assert status == 401
        assert (took_s >= HELD_S) is slowed


async def test_a_clients_credential_goes_up_only_beside_a_key(server: Server, provider: ByteProvider) -> None:
    """In every place where either may stand."""
    variables = {"PROXY_API_KEYS": f"ann:{ANN}", "ANTHROPIC_BASE_URL": provider.base_url}
    served = await server.start(variables=variables)
    for both in (
        {"x-ccproxy-key": ANN, "x-api-key": OWN},
        {"x-ccproxy-key": ANN, "authorization": f"Bearer {OWN}"},
        {"authorization": f"Bearer {ANN}", "x-api-key": OWN},
        {"x-api-key": ANN, "authorization": f"Bearer {OWN}"},
    ):
        answer = await served.ask(ASK, headers=both)
        assert (answer.status_code, answer.headers["x-ccproxy-route"]) == (200, "anthropic:client")
        sent = str(provider.seen[-1].headers)
        assert OWN in sent
        assert ANN not in sent
    assert (await served.ask(ASK, headers={"x-api-key": OWN})).status_code == 401
    assert len(provider.seen) == 4
