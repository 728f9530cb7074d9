"""Clients that go on asking, with the SDK and without its retries: what fails is seen.

They run on a thread of their own, because the main thread starts and ends processes.
"""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Self

import anthropic
import httpx2
from msgspec import Struct

from tests.support.messages import MODEL, NO_TLS
from tests.support.waiting import eventually

TEXT = "hi"
SLOWLY = "take your time"
"""What a fake is told by, to give its answer a piece at a time."""
END_S = 60.0


class Asked(Struct):
    """A request: who served it and what came of it. `error` is "" once its answer has come whole."""

    kind: str
    served_by: str = ""
    request_id: str = ""
    error: str = "under way"


class Load:
    """So many clients, each with one request after the other, every second one a stream."""

    def __init__(self, url: str, clients: int) -> None:
        self.asked: list[Asked] = []
        self._url = url
        self._clients = clients
        self._stopping = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="load", daemon=True)
        self._running: list[Future[None]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        self._sdk = self._run(self._open()).result(END_S)
        self._running = [self._run(self._ask_on(number)) for number in range(self._clients)]
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._run(self._sdk.close()).result(END_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(END_S)
        self._loop.close()

    def stop(self) -> None:
        """Ask no more, and wait for what is under way."""
        self._stopping = True
        for running in self._running:
            running.result(END_S)

    def begin_slow(self, number: int, model: str = MODEL) -> list[Asked]:
        """So many slow streams, once the first bytes of each have come."""
        begun = [Asked("slow") for _ in range(number)]
        self._running += [self._run(self._stream(asked, model, SLOWLY)) for asked in begun]
        eventually(lambda: all(asked.served_by or asked.error != "under way" for asked in begun))
        return begun

    @property
    def failed(self) -> list[Asked]:
        """What did not come whole."""
        return [asked for asked in self.asked if asked.error]

    def _run(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _open(self) -> anthropic.AsyncAnthropic:
        http = anthropic.DefaultAsyncHttpxClient(trust_env=False, verify=NO_TLS, timeout=END_S)
        return anthropic.AsyncAnthropic(base_url=self._url, api_key="placeholder", max_retries=0, http_client=http)

    async def _ask_on(self, number: int) -> None:
        while not self._stopping:
            number += 1
            if number % 2:
                await self._stream(Asked("stream"), MODEL, TEXT)
            else:
                await self._ask(Asked("whole"))
            await asyncio.sleep(0.05)

    async def _stream(self, asked: Asked, model: str, text: str) -> None:
        self.asked.append(asked)
        try:
            async with self._sdk.messages.stream(
                model=model, max_tokens=64, messages=[{"role": "user", "content": text}]
            ) as stream:
                async for _ in stream:
                    note(asked, stream.response.headers)
            asked.error = "" if stream.current_message_snapshot.stop_reason else "without a stop_reason"
        except (anthropic.APIError, httpx2.HTTPError) as error:
            asked.error = f"{type(error).__name__}: {error}"

    async def _ask(self, asked: Asked) -> None:
        self.asked.append(asked)
        try:
            answer = await self._sdk.messages.with_raw_response.create(
                model=MODEL, max_tokens=64, messages=[{"role": "user", "content": TEXT}]
            )
            note(asked, answer.headers)
            asked.error = "" if (await answer.parse()).stop_reason else "without a stop_reason"
        except (anthropic.APIError, httpx2.HTTPError) as error:
            asked.error = f"{type(error).__name__}: {error}"


def note(asked: Asked, headers: httpx2.Headers) -> None:
    """Who has answered."""
    asked.served_by, asked.request_id = headers["x-served-by"], headers["x-ccproxy-request-id"]
