"""Marked secrets and prompts through every way in which a request is refused here: found nowhere afterwards.

Not here: what providers quote (`test_quoted`), and requests that are served (`tests.e2e.test_privacy`).
"""

import gzip
import json
import logging
from collections.abc import Iterator

import msgspec
import pytest

from tests.attacks.raw import byte_provider, raw_client, request
from tests.support.proxies import ASK, Server, Serving

MARK = "xyzzy"
KEY = "proxy-key-marked-0123456789abcdef"
ADMIN = "admin-token-marked-0123456789"
VARIABLES = {"PROXY_API_KEYS": f"ann:{KEY}", "ADMIN_TOKEN": ADMIN, "LOG_LEVEL": "debug"}
PROMPT = [{"role": "user", "content": f"prompt-{MARK}"}]
BODY = ASK | {"messages": PROMPT}
TEXT = json.dumps(BODY).encode()
PAGES = (
    *("/metrics", "/health", "/logs", "/providers", "/config"),
    *(f"/admin/api/{page}" for page in ("overview", "routes", "attempts", "keys", "settings")),
)


def refused() -> Iterator[bytes]:
    """Requests that are turned down somewhere, each full of marks."""
    mine = {"x-api-key": KEY}
    bodies: list[bytes] = [
        TEXT[:-1], b"\xef\xbb\xbf" + TEXT, TEXT + f"{MARK}".encode(), b"[" + TEXT + b"]",
        TEXT.replace(b"prompt", b"\xff"),
        TEXT[:-1] + f',"model":"{MARK}"}}'.encode(), json.dumps(BODY | {"stream": MARK}).encode(),
        json.dumps(BODY | {"max_tokens": MARK}).encode(),
        json.dumps(BODY | {"model": [MARK]}).encode(), json.dumps(BODY | {"container": {"id": [MARK]}}).encode(),
        TEXT[:-1] + b',"deep":' + b"[" * 500 + f'"{MARK}"'.encode() + b"]" * 500 + b"}", f'"{MARK}"'.encode(),
    ]  # fmt: skip
    yield from (request(body, headers=mine) for body in bodies)
    packed = gzip.compress(TEXT)
    encodings = ["gzip, gzip", "br", "x-odd", "zstd", "gzip, gzip, gzip, gzip"]
    yield from (request(packed, headers=mine | {"content-encoding": encoding}) for encoding in encodings)
    yield request(packed + MARK.encode(), headers=mine | {"content-encoding": "gzip"})
    targets = [
        f"/v1/{MARK}//x",
        f"/v1/messages%00{MARK}",
        f"/v1/messages?{MARK}=\x7f",
        f"/{MARK}/../x",
        f"http://{MARK}/v1/messages",
    ]
    yield from (request(BODY, target, headers=mine) for target in targets)
    yield from (request(BODY, method=method, headers=mine) for method in (MARK.upper(), "TRACE", "CONNECT"))
    yield request(BODY, headers=mine | {"host": "odd.test"})
    yield request(BODY, headers=mine | {"origin": "https://odd.test"})
    yield request(BODY, headers=mine | {"x-a": f"{MARK}\x00"})
    yield request(BODY, headers=mine | {"x-a": MARK * 20_000})
    yield request(BODY, headers=mine | {"content-length": f"1{MARK}"})
    yield request(BODY, headers=mine | {"transfer-encoding": MARK})
    yield from (request(BODY, headers={"x-api-key": f"{MARK}-{number}"}) for number in range(2))
    yield request(BODY, headers={"authorization": f"Bearer sk-ant-{MARK}"})
    yield request(BODY, headers={"x-ccproxy-key": f"{MARK}", "x-api-key": KEY})


async def everything(served: Serving, caplog: pytest.LogCaptureFixture) -> str:
    """All that is kept or shown of what happened."""
    shown = []
    for page in PAGES:
        told = await served.http.get(page, headers={"authorization": f"Bearer {ADMIN}"})
        assert told.status_code == 200, (page, told.text)
        shown.append(told.text)
    events = [msgspec.json.encode(event).decode() for _, event in served.events]
    records = [record.getMessage() + repr(vars(record)) for record in caplog.records if "ccproxy" in record.name]
    return "\n".join([*shown, *events, *records])


async def test_what_is_refused_leaves_no_trace(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a prompt nor a key that was shown, however a request is refused here."""
    caplog.set_level(logging.DEBUG)
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url, variables=VARIABLES)
        logging.getLogger("ccproxy").setLevel(logging.DEBUG)
        for sent in refused():
            async with raw_client(served.url) as client:
                told = await client.ask(sent)
                assert 400 <= told.status < 500 or told.status in (501, 505), (sent[:200], told)
                assert f"prompt-{MARK}".encode() not in told.body
        kept = await everything(served, caplog)
        assert provider.seen == []
    at = kept.find(MARK)
    assert at < 0, kept[max(0, at - 300) : at + 300]
    assert KEY not in kept
