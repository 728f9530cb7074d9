"""The demo's clients: a few at a time, each with a key, who ask, read, and pause. What they read, they forget.

Not here: what is answered (`demo_provider`).
"""

import http.client
import json
import os
import random
import sys
import time
from threading import Lock, Thread
from urllib.parse import urlsplit

from service.telemetry.terminal import echo

MODELS = ("claude-opus-4-8", "claude-sonnet-5", "claude-sonnet-4-6", "claude-haiku-4-5")
TIMEOUT_S = 60.0
PAUSES_S = (0.2, 1.2)
WHOLE, LEAVES = 0.15, 0.04
"""Shares of requests that ask for no stream, and of clients who go before the end."""
ROUTE = "x-ccproxy-route"


class Client(Thread):
    """One who asks for ever."""

    def __init__(self, url: str, name: str, key: str, narrator: "Narrator") -> None:
        super().__init__(name=name, daemon=True)
        self._narrator = narrator
        self._address = urlsplit(url)
        self._key = key
        self._random = random.Random(name)  # noqa: S311 - made-up requests

    def run(self) -> None:
        """Ask, and pause."""
        while True:
            try:
                self._ask()
            except (OSError, http.client.HTTPException):
                time.sleep(1)  # the proxy is being started again
            time.sleep(self._random.uniform(*PAUSES_S))

    def _ask(self) -> None:
        body = {
            "model": self._random.choice(MODELS),
            "max_tokens": 1_000,
            "stream": self._random.random() > WHOLE,
            "messages": [{"role": "user", "content": "Say something."}],
        }
        headers = {"x-api-key": self._key, "content-type": "application/json", "anthropic-version": "2023-06-01"}
        connection = http.client.HTTPConnection(self._address.hostname or "", self._address.port, timeout=TIMEOUT_S)
        try:
            connection.request("POST", f"{self._address.path}/v1/messages", json.dumps(body), headers)
            answer = connection.getresponse()
            self._narrator.hear(answer.getheader(ROUTE) or f"nowhere ({answer.status})")
            answer.read(200 if self._random.random() < LEAVES else None)
        finally:
            connection.close()


class Narrator:
    """Says where answers come from, whenever two in a row come from elsewhere."""

    def __init__(self) -> None:
        self._said = self._heard = ""
        self._lock = Lock()

    def hear(self, route: str) -> None:
        """Take note of an answer."""
        with self._lock:
            if route == self._heard != self._said:
                self._said = route
                echo(f"  demo  → answers come from {route} now")
            self._heard = route


def main() -> None:
    """Ask until told to end."""
    pairs = [pair.partition(":") for pair in os.environ["PROXY_API_KEYS"].split(",")]
    narrator = Narrator()
    clients = [Client(sys.argv[1], name, key, narrator) for name, _, key in pairs]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


if __name__ == "__main__":
    main()
