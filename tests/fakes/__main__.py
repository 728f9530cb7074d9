"""`python -m tests.fakes --kind anthropic`: a fake provider as a process; prints its addresses as one line of JSON."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading

import msgspec

from tests.fakes.process import Address
from tests.fakes.provider import FakeProvider
from tests.fakes.vendors import VENDORS


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fakes")
    parser.add_argument("--kind", choices=[*VENDORS], default="anthropic")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--control-port", type=int, default=0, help="0: a free one")
    parser.add_argument("--key", action="append", help="a valid credential; without any, every one is valid")
    parser.add_argument("--refresh-token", action="append", default=[], help="a valid refresh token")
    parser.add_argument("--any-model", action="store_true", help="serve models of every name")
    parser.add_argument("--no-record", action="store_true", help="keep no requests and answers (long benches)")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the process that holds stdin")
    return parser.parse_args()


def main() -> None:
    asked = options()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    fake = FakeProvider(
        asked.kind,
        keys=asked.key,
        refresh_tokens=asked.refresh_token,
        model_prefixes=() if asked.any_model else None,
        port=asked.port,
        records=not asked.no_record,
    )
    with fake:
        address = Address(
            kind=asked.kind,
            pid=os.getpid(),
            root_url=fake.root_url,
            base_url=fake.base_url,
            control_url=fake.open_control(asked.control_port),
        )
        sys.stdout.write(msgspec.json.encode(address).decode() + "\n")
        sys.stdout.flush()
        if asked.until_stdin_closes:
            threading.Thread(target=_watch_stdin, args=(ended,), daemon=True).start()
        ended.wait()


def _watch_stdin(ended: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1024):  # not through sys.stdin, whose lock would be held at exit
        pass
    ended.set()


if __name__ == "__main__":
    main()
