"""The structured fuzz: what the edge decided, what was forwarded and what was counted are compared for each request.

    python -m tests.attacks.fuzz --seed 7 --requests 20000
    python -m tests.attacks.fuzz --seed 7 --only 1234

Proxy, byte-level provider and clients share one event loop. Each request is sent on a connection of its own, and a
usual one behind it, so that a request that was read in two ways shows. What is compared (`Oracle`) is read by other
readers than the proxy's: Python's JSON with first and last of equal keys, zlib, brotli and zstandard themselves.

Not here: what the requests and the provider's answers are (`fuzz_requests`, `fuzz_answers`).
"""

import argparse
import asyncio
import gc
import json
import logging
import os
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import brotli  # type: ignore[import-untyped]  # it has no types
import pytest
import zstandard
from msgspec import Struct

from service import auth_throttle as brake
from service.ledger.events import AttemptEnded, AttemptStarted, TokenCounts
from tests.attacks.fuzz_answers import echo_of, marker_of, said_by_provider, usage_for
from tests.attacks.fuzz_requests import MARKER, FuzzedRequest, fuzzed
from tests.attacks.raw import ByteProvider, RawClient, RawResponse, SeenRequest, byte_provider, request
from tests.support.client_keys import issue
from tests.support.proxies import ANTHROPIC_KEY, ASK, Server, Serving, server_of
from tests.support.waiting import wait_until

AT_ONCE = 32
PARTIAL_S = 0.3
"""An answer to a request of which something is missing comes by then, or never."""
ANSWER_S = 3.0
MOST_BLOCKED_S = 0.25
MOST_GROWTH_BYTES = 30 * 1024 * 1024
WARM = 400
"""Requests after which memory is measured first: caches are full by then."""
METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE"))
STATUSES = frozenset((204, 400, 401, 403, 404, 405, 408, 411, 413, 414, 415, 417, 429, 431, 501, 503, 505))
"""With which the proxy itself may refuse."""
VARIABLES = {"PROXY_API_KEYS": "ledger", "LOG_LEVEL": "silent"}
HOP_BY_HOP = frozenset((b"upgrade", b"te", b"proxy-authorization", b"http2-settings", b"keep-alive"))


class Problem(NamedTuple):
    """What is wrong, of what kind, and with which request."""

    kind: str
    words: str
    request: FuzzedRequest


class Verdict(Struct):
    """What a run found."""

    requests: int = 0
    forwarded: int = 0
    statuses: Counter[int] = Counter()
    problems: list[Problem] = []
    blocked_s: float = 0.0
    growth_bytes: int = 0

    @property
    def words(self) -> str:
        """All of it, for people."""
        head = (
            f"{self.requests} requests, {self.forwarded} forwarded, {dict(sorted(self.statuses.items()))}; "
            f"loop blocked {self.blocked_s * 1000:.0f} ms at most; memory grew by {self.growth_bytes / 1e6:.1f} MB"
        )
        kinds = Counter(problem.kind for problem in self.problems)
        firsts = {problem.kind: problem for problem in reversed(self.problems)}
        found = [
            f"\n{kinds[kind]} x {kind}\n  {one.request.marker}: {one.words}\n  {one.request.data[:1500]!r}"
            for kind, one in firsts.items()
        ]
        return head + "".join(found)

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and self.blocked_s <= MOST_BLOCKED_S and self.growth_bytes <= MOST_GROWTH_BYTES


# -- other readers than the proxy's


def plain_of(seen: SeenRequest) -> bytes:
    """The body without its encodings; b"" when it is not what its header says."""
    data = seen.body
    names = [name.strip().lower() for name in b",".join(seen.values(b"content-encoding")).split(b",")]
    try:
        for name in reversed([name for name in names if name not in (b"", b"identity")]):
            data = unpacked(name, data)
    except (zlib.error, brotli.error, zstandard.ZstdError, KeyError):
        return b""
    return data


def unpacked(name: bytes, data: bytes) -> bytes:
    """One encoding less. Raises KeyError for an unknown one."""
    if name in (b"gzip", b"x-gzip"):
        inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
        return inflater.decompress(data)
    if name == b"deflate":
        return zlib.decompress(data)
    if name == b"br":
        return bytes(brotli.decompress(data))
    if name == b"zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    raise KeyError(name)


def readings(plain: bytes) -> list[dict[str, Any]]:
    """A JSON object as one reads it who takes the first of equal keys, and one who takes the last; nothing for what is
    no object."""
    pairs: list[tuple[str, Any]] = []

    def keep(found: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs[:] = found
        return dict(found)

    try:
        last = json.loads(plain, object_pairs_hook=keep)
    except (ValueError, RecursionError):
        return []
    return [dict(reversed(pairs)), last] if isinstance(last, dict) else []


def endpoint_by(method: bytes, path: bytes) -> str:
    """What an exact path is."""
    exact = {b"/v1/messages": "messages", b"/v1/messages/count_tokens": "count_tokens"}
    if method == b"POST" and path in exact:
        return exact[path]
    known = {b"/v1/messages/batches": "batches", b"/v1/models": "models", b"/v1/files": "files"}
    for prefix, name in known.items():
        if path == prefix or path.startswith(prefix + b"/"):
            return name
    return "other"


# -- what is compared


class Seen(NamedTuple):
    """All that is known of one marker: what was forwarded, what was counted."""

    forwarded: list[SeenRequest]
    started: list[AttemptStarted]
    ended: list[AttemptEnded]


class Oracle:
    """Compares for one request, and those that stood behind it on its connection."""

    def __init__(self, asked: FuzzedRequest, key_id: str, own_host: bytes, *, haiku_alone: bool) -> None:
        self.problems: list[Problem] = []
        self._asked = asked
        self._key_id = key_id
        self._own_host = own_host
        self._haiku_alone = haiku_alone

    def expect(self, right: object, kind: str, words: object = "") -> None:
        """Note it when something is not right."""
        if not right:
            self.problems.append(Problem(kind, str(words)[:600], self._asked))

    def answers(self, told: Sequence[RawResponse]) -> None:
        """Each answer is a provider's, with a marker of this connection, or a refusal; no secret is in it."""
        for one in told:
            echo = echo_of(one)
            self.expect(one.status != 500, "a 500", one.body)
            self.expect(one.status != 101, "another protocol", one.headers)
            self.expect(not echo or echo.startswith(self._asked.marker), "another's answer", echo)
            self.expect(echo or one.status in STATUSES or one.status == 200, "an odd status", (one.status, one.body))
            shown = one.body + repr(one.headers).encode()
            self.expect(ANTHROPIC_KEY.encode() not in shown, "the owner's key is shown", shown)

    def counted(self, seen: Seen, told: Sequence[RawResponse], marker: str) -> None:
        """What was forwarded was counted, once, and answered."""
        numbers = len(seen.forwarded), len(seen.started), len(seen.ended)
        agree = len(set(numbers)) == 1 or (not self._asked.whole and numbers[0] < numbers[1] == numbers[2])
        self.expect(agree, "forwarded, started and ended differ", numbers)
        echoed = sum(echo_of(one) == marker for one in told)
        self.expect(echoed <= numbers[0], "answered without having been forwarded", (echoed, numbers))
        by_start = {event.event_id: event for event in seen.started}
        ends = sorted(seen.ended, key=lambda event: event.attempt_id)
        for end in ends:
            self.expect(end.attempt_id in by_start, "an end without a start", end)
            self._attempt(end)
        for one in seen.forwarded:
            self._forwarded(one)
            if seen.started:
                self._alike(one, seen.started[0])
                self._usage(one, ends, marker)

    def _attempt(self, end: AttemptEnded) -> None:
        self.expect(end.client_key == self._key_id, "counted for nobody", end)

    def _forwarded(self, one: SeenRequest) -> None:
        """A request on the wire can be read in one way alone."""
        target, path = one.target, one.target.split(b"?")[0]
        self.expect(one.method in METHODS, "an odd method went up", one.line)
        self.expect(path.startswith(b"/v1/"), "a target outside of the API", one.line)
        self.expect(not {b"", b".", b".."} & {*path.split(b"/")[1:]}, "a path that others read otherwise", one.line)
        self.expect(all(33 <= byte < 127 for byte in target), "odd bytes in the target", one.line)
        self.expect(one.line == b"%b %b HTTP/1.1" % (one.method, target), "an odd request line", one.line)
        self.expect(one.values(b"host") == [self._own_host], "another host", one.values(b"host"))
        framings = one.values(b"content-length") + one.values(b"transfer-encoding")
        self.expect(len(framings) <= 1, "two framings went up", framings)
        for name in (b"content-encoding", b"content-type", b"anthropic-version"):
            self.expect(len(one.values(name)) <= 1, "a header went up twice", one.values(name))
        self._credentials(one)

    def _credentials(self, one: SeenRequest) -> None:
        """The owner's key, or the client's own; never the proxy's."""
        raw = repr(one.headers).encode() + one.target
        self.expect(self._asked.key.encode() not in raw, "the proxy's key went up", one.headers)
        shown = one.values(b"x-api-key") + one.values(b"authorization")
        own = b"own" in b"".join(shown)
        self.expect(shown == [ANTHROPIC_KEY.encode()] or (own and len(shown) == 1), "odd credentials went up", shown)
        hop = [
            name for name, _ in one.headers if name in (b"upgrade", b"te", b"proxy-authorization", b"http2-settings")
        ]
        self.expect(not hop, "hop-by-hop headers went up", hop)

    def _alike(self, one: SeenRequest, start: AttemptStarted) -> None:
        """What was decided is what the provider reads."""
        path = one.target.split(b"?")[0]
        self.expect(start.endpoint == endpoint_by(one.method, path), "counted as another endpoint", (start, one.line))
        if start.endpoint not in ("messages", "count_tokens"):
            return
        read = readings(plain_of(one))
        self.expect(read, "a body that others can't read", one.body[:200])
        for reading in read:
            may = is_haiku(reading.get("model")) or not self._haiku_alone
            self.expect(may, "a model that the key may not use", reading.get("model"))
            self.expect(
                same_model(start.model_asked, reading.get("model")), "another model", (start, reading.get("model"))
            )
            if start.endpoint == "messages":
                self.expect(
                    start.stream is (reading.get("stream") is True), "another stream", (start, reading.get("stream"))
                )

    def _usage(self, one: SeenRequest, ends: Sequence[AttemptEnded], marker: str) -> None:
        """The tokens are those that the provider told."""
        endpoint = endpoint_by(one.method, one.target.split(b"?")[0])
        if endpoint in ("other", "batches"):  # estimated, or counted when results come
            return
        wanted = usage_for(marker) if endpoint == "messages" else TokenCounts()
        for end in ends:
            if end.outcome != "aborted":
                self.expect(end.tokens == wanted, "other tokens were counted", (end.tokens, wanted, end))


def is_haiku(model: object) -> bool:
    """Whether a key that may use Haiku alone may use it."""
    return isinstance(model, str) and "haiku" in model.lower() and "opus" not in model.lower()


def same_model(asked: str, model: object) -> bool:
    """Whether the ledger's name of a model is the one that was sent; long ones are cut, and none is none."""
    if model is None:
        return asked == ""
    return isinstance(model, str) and (asked == model or (len(asked) >= 64 and model.startswith(asked)))


# -- a run


def usual(marker: str, key: str) -> bytes:
    """A request that is served."""
    return request(ASK | {"model": "claude-haiku-4-5"}, headers={MARKER: marker, "x-api-key": key})


class Fuzz:
    """Sends requests to one proxy, and compares."""

    def __init__(self, served: Serving, provider: ByteProvider, seed: int) -> None:
        self.verdict = Verdict(statuses=Counter(), problems=[])
        self._served = served
        self._provider = provider
        self._seed = seed
        self._haiku, haiku_id = issue(served, "haiku", models=("claude-haiku-4-5",))
        self._any, any_id = issue(served, "any")
        self._ids = {self._haiku: haiku_id, self._any: any_id}
        self._first_bytes = 0

    async def run(self, numbers: Iterable[int]) -> Verdict:
        """All requests with these numbers, some at once."""
        batch: list[int] = []
        watch = asyncio.create_task(self._watch_loop())
        for number in numbers:
            batch.append(number)
            if len(batch) == AT_ONCE:
                await self._batch(batch)
                batch = []
        await self._batch(batch)
        self.verdict.growth_bytes = max(0, resident_bytes() - self._first_bytes) if self._first_bytes else 0
        watch.cancel()
        return self.verdict

    async def _batch(self, numbers: Sequence[int]) -> None:
        asked = [fuzzed(self._seed, number, [*self._ids]) for number in numbers]
        told = await asyncio.gather(*(self._ask(one) for one in asked))
        await self._settle()
        for one, answers in zip(asked, told, strict=True):
            self._compare(one, answers)
        await self._canary()
        self._forget(len(asked))

    async def _ask(self, asked: FuzzedRequest) -> list[RawResponse]:
        """What is answered to the request, and to a usual one behind it where the connection stands."""
        client = await RawClient.connect(self._served.url)
        told: list[RawResponse] = []
        try:
            await client.send(asked.data)
            told += await self._answers(client, asked, wanted=1)
            if told and asked.whole:
                await client.send(usual(asked.marker + "-c", asked.key))
                told += await self._answers(client, asked, wanted=2)
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            await client.close()
        return told

    async def _answers(self, client: RawClient, asked: FuzzedRequest, wanted: int) -> list[RawResponse]:
        """Answers until one has the marker of the usual request, or as many as wanted."""
        found: list[RawResponse] = []
        limit_s = ANSWER_S if asked.whole else PARTIAL_S
        while len(found) < wanted:
            async with asyncio.timeout(limit_s):
                one = await client.receive(asked.method if wanted == 1 else b"GET")
            if one.status == 100:
                continue
            found.append(one)
            if echo_of(one).endswith("-c"):
                break
        return found

    async def _settle(self) -> None:
        """Wait until all attempts have ended: clients left some."""
        await wait_until(lambda: not self._served.open_attempts(), ANSWER_S)

    def _compare(self, asked: FuzzedRequest, told: Sequence[RawResponse]) -> None:
        host = f"127.0.0.1:{self._provider.port}".encode()
        oracle = Oracle(asked, self._ids[asked.key], host, haiku_alone=asked.key == self._haiku)
        oracle.answers(told)
        for marker in (asked.marker, asked.marker + "-s", asked.marker + "-c"):
            oracle.counted(self._seen(marker), told, marker)
        oracle.expect(not asked.whole or told, "no answer")
        served = told and told[0].status == 200 and echo_of(told[0]) == asked.marker
        oracle.expect(served or not asked.harmless, "a harmless request is refused", told)
        self.verdict.problems += oracle.problems
        self.verdict.statuses.update(one.status for one in told[:1])

    def _seen(self, marker: str) -> Seen:
        events = [event for _, event in self._served.events]
        return Seen(
            [one for one in self._provider.seen if marker_of(one) == marker],
            [one for one in events if isinstance(one, AttemptStarted) and one.session_id == marker],
            [one for one in events if isinstance(one, AttemptEnded) and one.session_id == marker],
        )

    async def _canary(self) -> None:
        """The proxy serves, whatever came; and nothing went up that bears no request's marker."""
        client = await RawClient.connect(self._served.url)
        marker = f"fz-{self._seed}-canary"
        asked = FuzzedRequest(marker, self._haiku, b"POST", usual(marker, self._haiku), whole=True)
        told = await client.ask(asked.data)
        await client.close()
        if echo_of(told) != marker:
            self.verdict.problems.append(Problem("a usual request fails", str(told), asked))
        for one in self._provider.seen:
            if not marker_of(one).startswith(f"fz-{self._seed}-") or "|" in marker_of(one):
                self.verdict.problems.append(Problem("forwarded without a marker", str(one)[:500], asked))

    def _forget(self, requests: int) -> None:
        """Nothing is kept, so that memory can be measured."""
        self.verdict.requests += requests
        self.verdict.forwarded += len(self._provider.seen)
        self._provider.seen.clear()
        self._served.events.clear()
        if self.verdict.requests >= WARM and not self._first_bytes:
            self._first_bytes = resident_bytes()

    async def _watch_loop(self) -> None:
        """How much processor time passes at most between two turns: what else the machine does does not count."""
        while True:
            before_s = time.thread_time()
            await asyncio.sleep(0.002)
            self.verdict.blocked_s = max(self.verdict.blocked_s, time.thread_time() - before_s)


def resident_bytes() -> int:
    """Memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def fuzz(server: Server, seed: int, numbers: Iterable[int]) -> Verdict:
    """A run on a proxy of its own. Wrong keys are not slowed down: all come from one address."""
    server.patch.setattr(brake, "FREE_TRIES", sys.maxsize)
    asyncio.get_running_loop().set_debug(False)  # half of the time would be asyncio's checks
    async with byte_provider(lambda seen: said_by_provider(seen, plain_of(seen))) as provider:
        served = await server.start(anthropic=provider.base_url, variables=VARIABLES)
        return await Fuzz(served, provider, seed).run(numbers)


async def main(seed: int, numbers: Iterable[int]) -> Verdict:
    """The same as a program."""
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        async with server_of(Path(home), patch) as server:
            logging.disable(logging.CRITICAL)
            return await fuzz(server, seed, numbers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=os.getpid())
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--only", type=int, help="one request alone, by its number")
    given = parser.parse_args()
    chosen = [given.only] if given.only is not None else range(given.requests)
    verdict = asyncio.run(main(given.seed, chosen))
    sys.stdout.write(f"seed {given.seed}: {verdict.words}\n")
    sys.exit(not verdict.is_good)
