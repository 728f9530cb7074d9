"""Clients that ask without a pause, in a thread of their own, and write down what they got."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Self

import httpx
from msgspec import Struct

from tests.support.messages import ASK, HEADERS, NO_TLS, STREAM, event_names
from tests.support.waiting import eventually

CLIENTS = 4
PAUSE_S = 0.01
"""Some hundred requests a second: enough to have one in flight at any moment, little enough for a shared machine."""
ANSWER_S = 30.0
STOP_S = 60.0


class Answered(Struct, frozen=True):
    """A complete answer."""

    request_id: str
    route: str
    attempts: int


class Traffic:
    """Some clients of some proxies, alternating between JSON and streams, from entering to leaving the block.

    `faults` are what a client would call an error: any other status than 200, a broken or incomplete answer.
    """

    def __init__(self, urls: Sequence[str], clients: int = CLIENTS) -> None:
        self.answered: list[Answered] = []
        self.faults: list[str] = []
        self._urls = urls
        self._clients = clients
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self.flow()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def count(self) -> int:
        """Requests that have ended in any way."""
        return len(self.answered) + len(self.faults)

    @property
    def request_ids(self) -> list[str]:
        """The ids of all complete answers."""
        return [answer.request_id for answer in self.answered]

    def flow(self, more: int = 20) -> Self:
        """Wait until so many more requests have ended: what happened before is then behind all clients."""
        wanted = self.count + more
        eventually(lambda: self.count >= wanted)
        return self

    def stop(self) -> None:
        """Let the requests in flight end, and no new ones begin."""
        self._stopping.set()
        self._thread.join(STOP_S)
        assert not self._thread.is_alive(), "a request hangs"

    async def _run(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(self._clients)))

    async def _client(self, number: int) -> None:
        url = self._urls[number % len(self._urls)]
        async with httpx.AsyncClient(
            base_url=url, headers=HEADERS, trust_env=False, timeout=ANSWER_S, verify=NO_TLS
        ) as client:
            turn = number
            while not self._stopping.is_set():
                turn += 1
                try:
                    self._note(await client.post("/v1/messages", json=(ASK, STREAM)[turn % 2]))
                except httpx.TransportError as error:
                    self.faults.append(repr(error))
                await asyncio.sleep(PAUSE_S)

    def _note(self, answer: httpx.Response) -> None:
        whole = "message_stop" in event_names(answer.content) if b"event: " in answer.content else True
        if answer.status_code != 200 or not whole:
            self.faults.append(f"{answer.status_code} {answer.text[-300:]}")
            return
        headers = answer.headers
        self.answered.append(
            Answered(headers["x-ccproxy-request-id"], headers["x-ccproxy-route"], int(headers["x-ccproxy-attempts"]))
        )
