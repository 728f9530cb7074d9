"""Ten clients poll ten sessions, through three proxies of which one is killed: each session's usage is booked once."""

import os
import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import httpx
import pytest

from tests.support.installation import Installation, Proxy
from tests.support.ledger_reader import LedgerReader
from tests.support.messages import client_of
from tests.support.proxies import ANTHROPIC_KEY
from tests.support.waiting import eventually, settles_to

pytestmark = pytest.mark.e2e

ROUTE = "agents"
SESSIONS = [f"sesn_{number:08}" for number in range(10)]
CLIENTS = 10
ROUNDS = int(os.environ.get("POLL_ROUNDS", "5"))
"""How often each client polls each session."""
LIMIT_S = 240


class Poller(threading.Thread):
    """One client, which polls every session again and again, each time through one of the proxies."""

    def __init__(self, number: int, proxies: Sequence[Proxy], totals: dict[str, int], going_on: threading.Lock) -> None:
        super().__init__(daemon=True)
        self.answered = 0
        self._random = random.Random(number)  # noqa: S311 - a fixed course
        self._proxies = proxies
        self._totals = totals
        self._going_on = going_on

    def run(self) -> None:
        """Poll. What a proxy that is killed meanwhile does not answer is polled through another one."""
        clients: dict[str, httpx.Client] = {}
        until_s = time.monotonic() + LIMIT_S
        for name in SESSIONS * ROUNDS:
            while time.monotonic() < until_s:
                url = self._random.choice(self._proxies).url
                client = clients.setdefault(url, client_of(url))
                with self._going_on:
                    self._totals[name] += self._random.choice((0, 0, 0, 10))
                with suppress(httpx.HTTPError):
                    if client.get(f"/v1/sessions/{name}").status_code == 200:
                        self.answered += 1
                        break
        for client in clients.values():
            client.close()


@pytest.mark.timeout(LIMIT_S + 60)
def test_each_session_is_booked_once(installation: Installation, ledger: LedgerReader) -> None:
    """Whoever polls it, through whichever proxy, and whatever dies: as what the provider says of it at the end."""
    totals = installation.anthropic.resources.sessions
    totals.update(dict.fromkeys(SESSIONS, 1_000))
    variables = installation.own_routes((ROUTE, "anthropic", ANTHROPIC_KEY))
    proxies = [installation.start_proxy(variables) for _ in range(3)]
    going_on = threading.Lock()
    pollers = [Poller(number, proxies, totals, going_on) for number in range(CLIENTS)]
    for poller in pollers:
        poller.start()
    eventually(lambda: sum(poller.answered for poller in pollers) >= len(SESSIONS) * CLIENTS)
    proxies[0].kill()
    assert installation.worker
    installation.worker.kill()
    installation.start_worker()
    proxies[0] = installation.start_proxy(variables)
    for poller in pollers:
        poller.join(LIMIT_S)
    assert [poller.answered for poller in pollers] == [len(SESSIONS) * ROUNDS] * CLIENTS
    with client_of(proxies[2].url) as client:
        assert [client.get(f"/v1/sessions/{name}").status_code for name in SESSIONS] == [200] * len(SESSIONS)
    used = sum(totals.values())
    query = "SELECT coalesce(sum(input), 0), coalesce(sum(cache_read), 0) FROM ccproxy.usage_hourly WHERE route = %s"
    settles_to([(used, 2 * used)], lambda: ledger.rows(query, ROUTE))
    ledger.settle()
    assert ledger.rows(query, ROUTE) == [(used, 2 * used)]
    [(events,)] = ledger.rows("SELECT count(*) FROM ccproxy.events WHERE stream = %s AND type = 'resource_used'", ROUTE)
    assert len(SESSIONS) <= events < CLIENTS * len(SESSIONS) * ROUNDS
    ledger.check_sound()
