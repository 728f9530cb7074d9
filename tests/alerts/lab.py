"""An installation that is scraped as Prometheus does it, while clients as patient as Claude Code ask it.

Not here: what is made to go wrong (`scenarios`), and how the series are kept (`recording`).
"""

from __future__ import annotations

import asyncio
import threading
import time
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Any, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.alerts.recording import INTERVAL_S, Recording, Values, encoded
from tests.support.installation import PATIENT, Installation, Proxy
from tests.support.messages import ASK, HEADERS, NO_TLS, STREAM

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

DEFAULTS = dict.fromkeys(PATIENT, "")
"""The settings as they come: what spares other tests each other's faults is unset."""
SCRAPE_TIMEOUT_S = 10.0
ASK_TIMEOUT_S = 600.0
STOP_S = 30.0
PAUSE_S = 1.5
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.5, 32.0
GIVES_UP_AFTER = 10
AGAIN_S = 60.0
"""When a person who was shown an error asks again."""
MODEL = "claude-opus-4-8"
"""One that has a price."""
OWN = ("ccproxy_", "gen_ai_")
HOST_SPECIFIC = {"account", "version", "settings"}
NOT_KEPT = ("_sum", "_created")


class Clients:
    """Some clients that ask, and after an error wait as Claude Code does, from entering to leaving the block."""

    def __init__(
        self,
        urls: Sequence[str],
        count: int = 4,
        *,
        pause_s: float = PAUSE_S,
        model: str = MODEL,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._urls = urls
        self._count = count
        self._pause_s = pause_s
        self._model = model
        self._headers = HEADERS | dict(headers or {})
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="clients", daemon=True)
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STOP_S)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        clients = [asyncio.create_task(self._client(number)) for number in range(self._count)]
        await self._stop.wait()
        for client in clients:
            client.cancel()
        await asyncio.wait(clients)

    async def _client(self, number: int) -> None:
        url = self._urls[number % len(self._urls)]
        session = {"metadata": {"user_id": f"session-{number}"}}
        async with httpx.AsyncClient(
            base_url=url, headers=self._headers, trust_env=False, timeout=ASK_TIMEOUT_S, verify=NO_TLS
        ) as client:
            failed, turn = 0, number
            while True:
                turn += 1
                body = (ASK, STREAM)[turn % 2] | {"model": self._model} | session
                pause_s = await self._pause_after(client, body, failed)
                failed = 0 if pause_s == self._pause_s else failed + 1
                await asyncio.sleep(pause_s)

    async def _pause_after(self, client: httpx.AsyncClient, body: dict[str, Any], failed: int) -> float:
        """Ask, and say after how long this client asks again."""
        backoff_s: float = min(LAST_BACKOFF_S, FIRST_BACKOFF_S * 2**failed)
        try:
            answer = await client.post("/v1/messages", json=body)
        except httpx.TransportError:
            return backoff_s
        if answer.status_code == 200 and b"event: error" not in answer.content:
            return self._pause_s
        if failed >= GIVES_UP_AFTER or answer.headers.get("x-should-retry") == "false":
            return AGAIN_S
        wait_s: str = answer.headers.get("retry-after", "0")
        return max(backoff_s, float(wait_s))


class Lab:
    """An installation, its proxies, and all that was scraped of them."""

    def __init__(self, folder: Path) -> None:
        self.installation = Installation(folder)
        self.anthropic, self.zai = self.installation.anthropic, self.installation.zai
        self.proxies: list[Proxy] = []
        self.marks: dict[str, int] = {}
        self._samples: dict[str, Values] = {}
        self._numbered: dict[tuple[str, str], str] = {}
        self._scrapes = 0
        self._stopping = threading.Event()
        self._scraped = threading.Condition()
        self._scraper = threading.Thread(target=self._scrape_on, name="scraper", daemon=True)

    def __enter__(self) -> Self:
        self.installation.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if self._scraper.is_alive():
            self._scraper.join(STOP_S)
        self.installation.__exit__()

    def start(self, count: int = 1, *, zai: bool = False, **variables: str) -> list[str]:
        """Proxies with the default settings and Anthropic's key, on request Z.AI's, too; their addresses."""
        own = DEFAULTS | ({} if zai else {"ZAI_API_KEY": "", "ZAI_BASE_URL": ""}) | variables
        self.proxies += [self.installation.launch(own) for _ in range(count)]
        return [proxy.url for proxy in self.proxies]

    def ready(self) -> Self:
        """Itself, once all proxies serve."""
        for proxy in self.proxies:
            proxy.ready()
        return self

    def restart(self, proxy: Proxy) -> None:
        """Stop a proxy as an operator does, and start its successor in its place."""
        proxy.stop()
        successor = self.installation.launch(proxy.variables)
        successor.port, successor.url = proxy.port, proxy.url
        self.proxies[self.proxies.index(proxy)] = successor
        successor.ready()

    def kill_worker(self) -> None:
        """End the worker as a crash would."""
        assert self.installation.worker
        self.installation.worker.kill()

    def mark(self, name: str) -> None:
        """Note the moment, which is just after the last scrape: the longest time until the next one."""
        self.marks[name] = max(0, (self._scrapes - 1) * INTERVAL_S)

    def scrape(self, for_s: float) -> None:
        """Let pass so much time, in which all is scraped; the first call starts it."""
        if not self._scraper.is_alive():
            self._scraper.start()
        wanted = self._scrapes + round(for_s / INTERVAL_S)
        with self._scraped:
            assert self._scraped.wait_for(lambda: self._scrapes >= wanted, for_s + STOP_S)

    def _scrape_on(self) -> None:
        started_s = time.monotonic()
        while not self._stopping.wait(max(0.0, started_s + self._scrapes * INTERVAL_S - time.monotonic())):
            for number, proxy in enumerate(self.proxies, 1):
                self._scrape(proxy, {"instance": f"proxy-{number}"})
            with self._scraped:
                self._scrapes += 1
                self._scraped.notify_all()

    def _scrape(self, proxy: Proxy, target: dict[str, str]) -> None:
        text = metrics_of(proxy)
        self._note("up", target, 0.0 if text is None else 1.0)
        for name, labels, value in samples_of(text or ""):
            plain = {label: self._plain(label, text) for label, text in labels.items()}
            self._note(name, plain | target, value)

    def _plain(self, label: str, text: str) -> str:
        """A label's value, or a number for it where it is another one on each host."""
        if label not in HOST_SPECIFIC:
            return text
        return self._numbered.setdefault((label, text), f"{label}-{len(self._numbered) + 1}")

    def _note(self, name: str, labels: Mapping[str, str], value: float) -> None:
        shown = "".join(f',{label}="{escaped(text)}"' for label, text in sorted(labels.items()))
        values = self._samples.setdefault(f'{name}{{job="ccproxy"{shown}}}', [])
        values += [None] * (self._scrapes - len(values))
        values.append(value)

    def recording(self, about: str, metrics: Collection[str]) -> Recording:
        """What was scraped of these metrics; of all, without any."""
        self._stopping.set()
        self._scraper.join(STOP_S)
        series = {
            name: encoded([*values, *[None] * (self._scrapes - len(values))])
            for name, values in sorted(self._samples.items())
            if not metrics or name.partition("{")[0] in metrics
        }
        return Recording(about, self.marks, self._scrapes, series)


def metrics_of(proxy: Proxy) -> str | None:
    """A proxy's metrics; None if they can't be had in time."""
    connection = HTTPConnection("127.0.0.1", proxy.port, timeout=SCRAPE_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        return answer.read().decode() if answer.status == 200 else None
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def samples_of(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """The samples of the product's own metrics."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith(OWN) and not sample.name.endswith(NOT_KEPT):
                yield sample.name, sample.labels, round(sample.value, 1 if sample.name.endswith("_seconds") else 3)


def escaped(text: str) -> str:
    """A label's value as Prometheus writes it, without spaces."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace(" ", "_")
