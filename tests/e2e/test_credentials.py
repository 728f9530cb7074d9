"""Whose credential goes where: the client's own to Anthropic alone, a proxy's key nowhere, the owner's to its route."""

from collections.abc import Iterator

import anthropic
import httpx
import pytest

from tests.fakes import FakeProvider, reply
from tests.support.installation import ANTHROPIC_KEY, ZAI_KEY, Installation, Proxy
from tests.support.ledger_reader import LedgerReader
from tests.support.messages import ASK, HI, MODEL, STREAM, ask, client_of, error_of, stranger_to, way

pytestmark = pytest.mark.e2e

CLIENTS_KEY = "sk-ant-api03-the-clients-marked-own"
PROXY_KEY = "proxy-key-marked-0123456789"
VERSION = {"anthropic-version": "2023-06-01"}


@pytest.fixture(scope="module")
def open_proxy(shared_installation: Installation) -> Iterator[Proxy]:
    """A proxy without any provider key."""
    made = shared_installation.start_proxy({"ANTHROPIC_API_KEY": "", "ZAI_API_KEY": ""})
    yield made
    made.stop()


@pytest.fixture
def open_client(installation: Installation, open_proxy: Proxy) -> Iterator[httpx.Client]:
    """A client of it, whose own credential Anthropic knows."""
    installation.anthropic.keys = {CLIENTS_KEY}
    with client_of(open_proxy.url) as client:
        yield client


@pytest.fixture(scope="module")
def zai_proxy(shared_installation: Installation) -> Iterator[Proxy]:
    """A proxy that has Z.AI's key alone."""
    made = shared_installation.start_proxy({"ANTHROPIC_API_KEY": ""})
    yield made
    made.stop()


@pytest.fixture(scope="module")
def keyed_proxy(shared_installation: Installation) -> Iterator[Proxy]:
    """A proxy that asks for a key."""
    made = shared_installation.start_proxy({"PROXY_API_KEYS": f"team:{PROXY_KEY}"})
    yield made
    made.stop()


@pytest.mark.parametrize(
    ("shown", "kind"),
    [({"x-api-key": CLIENTS_KEY}, "x-api-key"), ({"authorization": f"Bearer {CLIENTS_KEY}"}, "bearer")],
    ids=["x-api-key", "bearer"],
)
@pytest.mark.parametrize("body", [ASK, STREAM], ids=["json", "stream"])
def test_without_a_provider_key_the_clients_goes_up(
    open_client: httpx.Client,
    installation: Installation,
    ledger: LedgerReader,
    shown: dict[str, str],
    kind: str,
    body: dict[str, object],
) -> None:
    """The client's own credential passes to Anthropic as it came, counted on a stream of its own."""
    answer = open_client.post("/v1/messages", json=body, headers=VERSION | shown)
    assert way(answer) == (200, "anthropic:client", "1")
    [request] = installation.anthropic.requests
    assert (request.credential_kind, request.credential) == (kind, CLIENTS_KEY)
    [end] = ledger.wait_for_ends(answer.headers["x-ccproxy-request-id"])
    assert (end["route"], end["tokens"]["input"]) == ("anthropic:client", installation.anthropic.served[0].usage.input)


def test_the_sdk_with_its_own_key(open_client: httpx.Client, open_proxy: Proxy, installation: Installation) -> None:
    """The SDK works through a proxy that has no key, with the key that it has itself."""
    assert open_client is not None
    with anthropic.Anthropic(base_url=open_proxy.url, api_key=CLIENTS_KEY, max_retries=0) as client:
        assert client.messages.create(model=MODEL, max_tokens=64, messages=HI).content
        assert client.messages.count_tokens(model=MODEL, messages=HI).input_tokens
    assert {request.credential for request in installation.anthropic.requests} == {CLIENTS_KEY}


@pytest.mark.parametrize("status", [401, 403, 429])
def test_what_the_clients_credential_earns_is_the_clients(
    open_client: httpx.Client, installation: Installation, status: int
) -> None:
    """401, 403 and 429 of its own credential are relayed as they are, and change nothing for the next request."""
    told = b'{"type":"error", "error":{"type":"some_error","message":"the provider\'s words"}}'
    installation.anthropic.script(
        reply.raw(told, status=status, content_type="application/json").with_headers({"retry-after": "77"})
    )
    answer = ask(open_client, ASK, {"x-api-key": CLIENTS_KEY})
    assert way(answer) == (status, "anthropic:client", "1")
    assert (answer.content, answer.headers["retry-after"]) == (told, "77")
    assert way(ask(open_client, ASK, {"x-api-key": CLIENTS_KEY})) == (200, "anthropic:client", "1")
    assert installation.zai.requests == []


def test_no_key_anywhere_is_told(open_client: httpx.Client, installation: Installation) -> None:
    """Without any credential the client learns what is missing, and need not try again."""
    answer = open_client.post("/v1/messages", json=ASK, headers=VERSION)
    assert (answer.status_code, answer.headers["x-should-retry"]) == (401, "false")
    assert "ANTHROPIC_API_KEY" in error_of(answer)["message"]
    assert installation.anthropic.requests == []


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["json", "stream"])
def test_the_clients_credential_never_reaches_another_vendor(
    installation: Installation, zai_proxy: Proxy, body: dict[str, object]
) -> None:
    """On the loopback a client with its own key falls over to the owner's Z.AI, which sees the owner's key alone."""
    installation.anthropic.keys = {CLIENTS_KEY}
    installation.anthropic.script(reply.error(529))
    with client_of(zai_proxy.url) as client:
        answer = ask(client, body, {"x-api-key": CLIENTS_KEY, "authorization": f"Bearer {CLIENTS_KEY}"})
        assert way(answer) == (200, "zai", "2")
        assert way(ask(client, body, {"x-api-key": CLIENTS_KEY})) == (200, "anthropic:client", "1")
    [request] = installation.zai.requests
    assert request.credential == ZAI_KEY
    assert CLIENTS_KEY not in str(request.headers) + request.body.decode() + request.query


def test_a_placeholder_is_no_credential(installation: Installation, zai_proxy: Proxy) -> None:
    """What does not look like Anthropic's key is not sent there while the owner has a route."""
    with client_of(zai_proxy.url) as client:
        assert way(ask(client, ASK, {"x-api-key": "dummy"})) == (200, "zai", "1")
    assert installation.anthropic.requests == []


@pytest.mark.parametrize(
    "shown",
    [{"x-api-key": PROXY_KEY}, {"authorization": f"Bearer {PROXY_KEY}"}, {"x-ccproxy-key": PROXY_KEY}],
    ids=["x-api-key", "bearer", "x-ccproxy-key"],
)
def test_a_proxy_key_opens_the_owners_routes(
    installation: Installation, keyed_proxy: Proxy, ledger: LedgerReader, shown: dict[str, str]
) -> None:
    """A proxy key in any of the three headers is good, names the client in the ledger, and never leaves."""
    installation.anthropic.script(reply.error(529))
    with client_of(keyed_proxy.url) as client:
        answer = client.post("/v1/messages", json=ASK, headers=VERSION | shown)
        assert way(answer) == (200, "zai", "2")
        assert client.get("/v1/models", headers=VERSION | shown).status_code == 200
    sent = [*installation.anthropic.requests, *installation.zai.requests]
    assert {request.credential for request in sent} == {ANTHROPIC_KEY, ZAI_KEY}
    assert not any(PROXY_KEY in str(request.headers) + request.body.decode() for request in sent)
    ends = ledger.wait_for_ends(answer.headers["x-ccproxy-request-id"], 2)
    assert [end["client_key"] for end in ends] == ["team", "team"]


@pytest.mark.parametrize(
    "shown",
    [{}, {"x-api-key": "wrong-key-0123456789"}, {"authorization": "Bearer wrong"}, {"x-ccproxy-key": "wrong"}],
    ids=["none", "x-api-key", "bearer", "x-ccproxy-key"],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/files"])
def test_a_wrong_proxy_key_is_final(
    installation: Installation, keyed_proxy: Proxy, shown: dict[str, str], path: str
) -> None:
    """No key or a wrong one is 401 with x-should-retry false, on every path, and nobody upstream is asked."""
    with stranger_to(keyed_proxy.url) as client:
        answer = client.post(path, json=ASK, headers=VERSION | shown)
    assert (answer.status_code, answer.headers["x-should-retry"]) == (401, "false")
    assert error_of(answer)["type"] == "authentication_error"
    assert [*installation.anthropic.requests, *installation.zai.requests] == []


def test_a_stranger_with_a_real_key_gets_no_more_than_that(installation: Installation, keyed_proxy: Proxy) -> None:
    """Without a proxy key, a client's own credential never opens the owner's routes."""
    with stranger_to(keyed_proxy.url) as client:
        answer = ask(client, ASK, {"x-api-key": CLIENTS_KEY})
    assert (answer.status_code, answer.headers["x-should-retry"]) == (401, "false")
    assert [*installation.anthropic.requests, *installation.zai.requests] == []


def test_count_tokens_keeps_the_credential_in_the_family(installation: Installation, zai_proxy: Proxy) -> None:
    """Counting with the client's own key asks Anthropic with that key, and Z.AI never."""
    installation.anthropic.keys = {CLIENTS_KEY}
    with client_of(zai_proxy.url) as client:
        answer = ask(client, ASK, {"x-api-key": CLIENTS_KEY}, path="/v1/messages/count_tokens")
        assert (answer.status_code, answer.json()["input_tokens"] > 0) == (200, True)
        refused = ask(client, ASK, {"x-api-key": "dummy"}, path="/v1/messages/count_tokens")
    assert refused.status_code >= 400
    assert installation.zai.requests == []


def test_each_fake_saw_its_own_key_alone(anthropic_fake: FakeProvider, proxy: Proxy) -> None:
    """With the owner's keys set, a client's real key does not go up."""
    with client_of(proxy.url) as client:
        assert way(ask(client, ASK, {"x-api-key": CLIENTS_KEY})) == (200, "anthropic", "1")
    assert {request.credential for request in anthropic_fake.requests} == {ANTHROPIC_KEY}
