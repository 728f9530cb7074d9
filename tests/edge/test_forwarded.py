"""Through a load balancer: what it says of the client counts, and what anybody else says does not."""

from ipaddress import ip_network
from typing import Any

import pytest

from service.edge.forwarded import apply_forwarded_headers
from service.settings import Network
from tests.fakes import FakeProvider
from tests.support.proxies import ASK, Server

TRUSTED: tuple[Network, ...] = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def told(neighbour: str | None, **headers: str) -> tuple[str, str, str]:
    """Client, scheme and host of a request after what a neighbour said of it."""
    lines = [(b"host", b"inside:4181")]
    lines += [
        (f"x-forwarded-{name}".encode(), line.encode()) for name, text in headers.items() for line in text.split("|")
    ]
    scope: dict[str, Any] = {"client": (neighbour, 5) if neighbour else None, "scheme": "http", "headers": lines}
    apply_forwarded_headers(scope, TRUSTED)
    hosts = [value.decode() for name, value in scope["headers"] if name == b"host"]
    assert len(hosts) == 1
    return (scope["client"] or ("",))[0], scope["scheme"], hosts[0]


def test_a_stranger_is_not_believed() -> None:
    """Its own address stands, whatever it says."""
    said = {"for": "1.2.3.4", "proto": "https", "host": "evil.example"}
    assert told("192.0.2.1", **said) == ("192.0.2.1", "http", "inside:4181")
    assert told(None, **said) == ("", "http", "inside:4181")


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, 10.1.1.1", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9, 10.1.1.1", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9|10.1.1.1", "203.0.113.9"),
        ("203.0.113.9:5123", "203.0.113.9"),
        ("[2001:db8::7]:5123", "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("10.2.2.2, 10.1.1.1", "10.2.2.2"),
        ("6.6.6.6, unknown, 10.1.1.1", "10.1.1.1"),
        ("", "10.0.0.1"),
    ],
)
def test_the_client_is_the_last_that_no_trusted_proxy_is(chain: str, client: str) -> None:
    """Read from the end: what lies before an untrusted address may be invented."""
    assert told("10.0.0.1", **{"for": chain})[0] == client


@pytest.mark.parametrize("neighbour", ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1"])
def test_scheme_and_host_are_the_neighbours_word(neighbour: str) -> None:
    """The last of several; one that can't be is left out."""
    assert told(neighbour, proto="https", host="proxy.example:8443")[1:] == ("https", "proxy.example:8443")
    assert told(neighbour, proto="http, https", host="evil.example, proxy.example")[1:] == ("https", "proxy.example")
    assert told(neighbour, proto="gopher", host="a b/c?d")[1:] == ("http", "inside:4181")


async def test_the_address_of_batch_results_is_the_one_outside(server: Server, anthropic: FakeProvider) -> None:
    """Behind a balancer with TLS, `results_url` is https and names its host; from elsewhere nothing of it is taken."""
    said = {"x-forwarded-proto": "https", "x-forwarded-host": "proxy.example"}
    ask = {"requests": [{"custom_id": "one", "params": ASK}]}
    for trusted, expected in (("127.0.0.0/8", "https://proxy.example/v1/"), ("192.0.2.0/24", "http://127.0.0.1:")):
        served = await server.start(
            anthropic=anthropic, variables={"TRUSTED_PROXIES": trusted, "ALLOWED_HOSTS": "proxy.example"}
        )
        batch = (await served.http.post("/v1/messages/batches", json=ask)).json()["id"]
        seen = (await served.http.get(f"/v1/messages/batches/{batch}", headers=said)).json()
        assert str(seen["results_url"]).startswith(expected)
