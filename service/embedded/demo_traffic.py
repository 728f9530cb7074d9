"""The demo's clients: a few at a time, each with a key, who send requests, read the answers and discard them.

Not here: the answers (`demo_provider`).
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
"""Fractions of requests without a stream, and of clients that disconnect early."""
ROUTE = "x-ccproxy-route"


class Client(Thread):
    """A client that sends requests forever."""

    def __init__(self, url: str, name: str, key: str, narrator: "Narrator") -> None:
        super().__init__(name=name, daemon=True)
        self._narrator = narrator
        self._address = urlsplit(url)
        self._key = key
        self._random = random.Random(name)  # noqa: S311 - generated requests

    def run(self) -> None:
        """Send requests, with pauses."""
        while True:
            try:
                self._ask()
            except (OSError, http.client.HTTPException):
                time.sleep(1)  # the proxy is restarting
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
            self._narrator.record_route(answer.getheader(ROUTE) or f"nowhere ({answer.status})")
            answer.read(200 if self._random.random() < LEAVES else None)
        finally:
            connection.close()


class Narrator:
    """Prints which route answers, when two answers in a row come from another one than before."""

    def __init__(self) -> None:
        self._said = self._heard = ""
        self._lock = Lock()

    def record_route(self, route: str) -> None:
        """Record an answer's route."""
        with self._lock:
            if route == self._heard != self._said:
                self._said = route
                echo(f"  demo  → now served by {route}")
            self._heard = route


def main() -> None:
    """Send requests until stopped."""
    pairs = [pair.partition(":") for pair in os.environ["PROXY_API_KEYS"].split(",")]
    narrator = Narrator()
    clients = [Client(sys.argv[1], name, key, narrator) for name, _, key in pairs]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


if __name__ == "__main__":
    main()
