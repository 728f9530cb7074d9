"""A thousand keys on three proxies that share a Redis, and no worker and no Postgres anywhere."""

import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from service.console.control import Operator, operator
from service.embedded.valkey import Valkey
from service.ledger.events import ClientKeyIssued, ClientKeyRevoked
from service.ledger.keys import NewKey, make_key
from tests.e2e.house import ANTHROPIC_KEY, PATIENT, Proxy
from tests.e2e.processes import eventually
from tests.fakes import FakeProvider

pytestmark = pytest.mark.e2e

KEYS = 1_000
BODY = {"model": "claude-sonnet-4-6", "max_tokens": 16, "messages": [{"role": "user", "content": "hi"}]}
LIMIT_TOKENS = 40
ACTS_WITHIN_S = 1.0


class Fleet:
    """Three proxies, a Redis, and an operator."""

    def __init__(self, proxies: list[Proxy], desk: Operator, provider: FakeProvider) -> None:
        self.proxies = proxies
        self.desk = desk
        self.provider = provider
        self.http = httpx.Client(timeout=20, trust_env=False)

    def issue(self, count: int, weekly_tokens: int | None = None) -> list[NewKey]:
        """So many keys, in entries of a hundred."""
        made = [make_key(f"user {number}", secrets.token_bytes(27)) for number in range(count)]
        events = [
            ClientKeyIssued(
                **self.desk.stamp(), key_id=key.key_id, name=key.key_id, sha256=key.sha256, weekly_tokens=weekly_tokens
            )
            for key in made
        ]
        for at in range(0, count, 100):
            self.desk.append(events[at : at + 100])
        return made

    def ask(self, proxy: Proxy, key: NewKey) -> int:
        """The status of a request."""
        headers = {"authorization": f"Bearer {key.text}"}
        return self.http.post(f"{proxy.url}/v1/messages", json=BODY, headers=headers).status_code


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("fleet")
        valkey = stack.enter_context(Valkey(folder / "valkey"))
        provider = stack.enter_context(FakeProvider("anthropic", keys={ANTHROPIC_KEY}))
        variables = PATIENT | {
            "REDIS_URL": valkey.url,
            "PROXY_API_KEYS": "ledger",
            "ANTHROPIC_API_KEY": ANTHROPIC_KEY,
            "ANTHROPIC_BASE_URL": provider.base_url,
        }
        proxies = [started(stack, folder / f"proxy-{number}", variables) for number in range(3)]
        for proxy in proxies:
            proxy.ready()
        desk = stack.enter_context(operator(valkey.url))
        made = Fleet(proxies, desk, provider)
        stack.callback(made.http.close)
        yield made


def started(stack: ExitStack, home: Path, variables: dict[str, str]) -> Proxy:
    """A proxy that ends with the stack."""
    proxy = Proxy(home=home, variables=variables)
    stack.callback(proxy.stop)
    return proxy


def test_a_thousand_keys_are_known_and_a_revoked_one_stops_everywhere(fleet: Fleet) -> None:
    """Every proxy knows all keys soon, and a revoked one no more within a second, without worker and Postgres."""
    keys = fleet.issue(KEYS)
    last = keys[-1]
    eventually(lambda: all(fleet.ask(proxy, last) == 200 for proxy in fleet.proxies))
    assert all(fleet.ask(proxy, key) == 200 for proxy in fleet.proxies for key in (keys[0], keys[500]))
    revoked_s = time.monotonic()
    fleet.desk.append([ClientKeyRevoked(**fleet.desk.stamp(), key_id=last.key_id)])
    time.sleep(max(0.0, ACTS_WITHIN_S - (time.monotonic() - revoked_s)))
    assert [fleet.ask(proxy, last) for proxy in fleet.proxies] == [401] * 3
    assert fleet.ask(fleet.proxies[0], keys[0]) == 200


def test_nothing_is_admitted_once_the_view_shows_the_key_spent(fleet: Fleet) -> None:
    """Under many requests at once a proxy goes over a limit by what it had in flight, and not at all afterwards."""
    [key] = fleet.issue(1, weekly_tokens=LIMIT_TOKENS)
    proxy = fleet.proxies[0]
    eventually(lambda: fleet.ask(proxy, key) in (200, 429))
    in_flight = 8
    with ThreadPoolExecutor(in_flight) as clients:
        statuses = list(clients.map(lambda _: fleet.ask(proxy, key), range(60)))
    assert set(statuses) <= {200, 429}
    assert fleet.ask(proxy, key) == 429, "the limit is spent"
    served = [one for one in fleet.provider.served if one.usage.input]
    spent = served[-1].usage.input + served[-1].usage.output
    needed = -(-LIMIT_TOKENS // spent)
    assert statuses.count(200) + 1 <= needed + in_flight, "over by what was in flight, at most"
    before = len(fleet.provider.requests)
    assert [fleet.ask(proxy, key) for _ in range(5)] == [429] * 5
    assert len(fleet.provider.requests) == before
