"""A thousand keys with limits on three proxies under load, with a worker that folds; and without it and Postgres."""

import secrets
import time
from collections.abc import Iterator
from functools import partial
from threading import Event, Thread
from typing import NamedTuple, Self

import httpx
import pytest

from service.fleet.control_stream import Operator, operator
from service.ledger.events import ClientKeyIssued, ClientKeyRevoked
from service.ledger.keys import GeneratedKey, make_key
from tests.support.installation import Installation, Proxy
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

KEYS = 1_000
TERMS = {"PROXY_API_KEYS": "ledger", "TRUSTED_PROXIES": "127.0.0.1", "LOG_LEVEL": "info"}
BODY = {"model": "claude-sonnet-4-6", "max_tokens": 16, "messages": [{"role": "user", "content": "hi"}]}
PLENTY_TOKENS = 10**9
ACTS_WITHIN_S = 1.0
CLIENTS = 6
SERVED = 10
"""Requests that are answered on each proxy before anything happens to the key."""


class Fleet:
    """Three proxies, all that is behind them, and an operator."""

    def __init__(self, installation: Installation, proxies: list[Proxy], desk: Operator) -> None:
        self.installation = installation
        self.proxies = proxies
        self.desk = desk

    def issue(self, count: int, weekly_tokens: int) -> list[GeneratedKey]:
        """So many keys, in entries of a hundred."""
        made = [make_key(f"user {number}", secrets.token_bytes(27)) for number in range(count)]
        events = [
            ClientKeyIssued(
                **self.desk.common_fields(),
                key_id=key.key_id,
                name=key.key_id,
                sha256=key.sha256,
                weekly_tokens=weekly_tokens,
            )
            for key in made
        ]
        for at in range(0, count, 100):
            self.desk.append(events[at : at + 100])
        return made


class Asked(NamedTuple):
    """A request as its client saw it."""

    proxy: int
    sent_s: float
    answered_s: float
    status: int


class Load:
    """Clients that ask all proxies with one key, without a pause, until the end."""

    def __init__(self, fleet: Fleet, key: GeneratedKey) -> None:
        self.asked: list[Asked] = []
        self._fleet = fleet
        address = f"10.0.0.{secrets.randbelow(256)}"  # whose wrong keys slow no other load down
        self._headers = {"authorization": f"Bearer {key.text}", "x-forwarded-for": address}
        self._stopping = Event()
        self._clients = [Thread(target=self._ask_on, args=(number % 3,)) for number in range(CLIENTS)]

    def __enter__(self) -> Self:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for client in self._clients:
            client.join()

    def of(self, proxy: int, status: int) -> list[Asked]:
        """What one proxy has so answered."""
        return [one for one in self.asked.copy() if (one.proxy, one.status) == (proxy, status)]

    def _ask_on(self, proxy: int) -> None:
        url = f"{self._fleet.proxies[proxy].url}/v1/messages"
        with httpx.Client(timeout=20, trust_env=False, headers=self._headers) as http:
            while not self._stopping.is_set():
                sent_s = time.monotonic()
                status = http.post(url, json=BODY).status_code
                self.asked.append(Asked(proxy, sent_s, time.monotonic(), status))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Installation(tmp_path_factory.mktemp("keys")) as installation, operator(installation.valkey.url) as desk:
        proxies = [installation.launch(TERMS) for _ in range(3)]
        for proxy in proxies:
            proxy.ready()
        yield Fleet(installation, proxies, desk)


@pytest.fixture(scope="module")
def keys(fleet: Fleet) -> list[GeneratedKey]:
    """A thousand, known to every proxy."""
    made = fleet.issue(KEYS, PLENTY_TOKENS)
    for proxy in fleet.proxies:
        eventually(partial(serves, proxy, made[-1]))
    return made


def ask(proxy: Proxy, key: GeneratedKey) -> int:
    """The status of a request."""
    headers = {"authorization": f"Bearer {key.text}"}
    return httpx.post(f"{proxy.url}/v1/messages", json=BODY, headers=headers, timeout=20, trust_env=False).status_code


def serves(proxy: Proxy, key: GeneratedKey) -> bool:
    """Whether a proxy knows a key."""
    return ask(proxy, key) == 200


def test_nothing_is_admitted_once_the_view_shows_the_key_spent(fleet: Fleet, keys: list[GeneratedKey]) -> None:
    """From the first refusal on a proxy answers no later request of the key; what it still answers was in flight."""
    provider = fleet.installation.anthropic
    used = provider.served[-1].usage
    [key] = fleet.issue(1, 30 * (used.input + used.output))
    for proxy in fleet.proxies:
        eventually(partial(serves, proxy, key))
    with Load(fleet, key) as load:
        eventually(lambda: all(len(load.of(proxy, 429)) > SERVED for proxy in range(3)))
    assert {one.status for one in load.asked} == {200, 429}
    for number in range(3):
        refused_s = min(one.answered_s for one in load.of(number, 429))
        late = [one for one in load.of(number, 200) if one.answered_s > refused_s]
        assert all(one.sent_s < refused_s for one in late), "nothing is admitted any more"
        assert len(late) <= CLIENTS // 3, "what was in flight"
    assert ask(fleet.proxies[0], keys[0]) == 200, "the others go on"


@pytest.mark.parametrize("ledger", ["up", "down"])
def test_a_revoked_key_stops_everywhere(fleet: Fleet, keys: list[GeneratedKey], ledger: str) -> None:
    """A second later no request with it goes up any more, from no proxy; the answers may be held back."""
    if ledger == "down":
        assert fleet.installation.worker is not None
        fleet.installation.worker.kill()
        fleet.installation.postgres.kill()
    key, provider = keys.pop(), fleet.installation.anthropic
    with Load(fleet, key) as load:
        eventually(lambda: all(len(load.of(proxy, 200)) > SERVED for proxy in range(3)))
        fleet.desk.append([ClientKeyRevoked(**fleet.desk.common_fields(), key_id=key.key_id)])
        revoked_s = time.monotonic()
        eventually(lambda: all(load.of(proxy, 401) for proxy in range(3)))
        eventually(lambda: time.monotonic() >= revoked_s + ACTS_WITHIN_S)
        before = [refusals(proxy) for proxy in fleet.proxies]
        eventually(lambda: all(refusals(*one) for one in zip(fleet.proxies, before, strict=True)))
    assert max(one.received_s for one in provider.requests) < revoked_s + ACTS_WITHIN_S
    assert {one.status for one in load.asked} == {200, 401}
    assert ask(fleet.proxies[0], keys[0]) == 200, "the others go on"


def refusals(proxy: Proxy, before: int = 0) -> int:
    """Requests that a proxy has turned down, since there were so many: its log tells before the answer goes."""
    return proxy.text.count(" 401 unknown client key") - before
