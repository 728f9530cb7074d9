"""What a provider quotes is not kept in log or ledger: keys, whole or cut, prompts, control characters."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.attacks.raw import MESSAGE, answer, byte_provider
from tests.fakes import FakeProvider, Reply, reply
from tests.support.proxies import ANTHROPIC_KEY, ASK, STREAM, Server

PROMPT = "my neighbour is called Ann and her password is a heron"
CUT_KEY = f"{ANTHROPIC_KEY[:11]}...{ANTHROPIC_KEY[-5:]}"
QUOTES = {
    "a key": f"invalid x-api-key: {ANTHROPIC_KEY}",
    "a cut key": f"Incorrect API key provided: {CUT_KEY}",
    "the beginning of a key": f"no such key {ANTHROPIC_KEY[:20]}",
    "a prompt": f'content: "{PROMPT}" is not a list',
    "a prompt as a validator shows it": f"Input should be a list [type=list, input_value={PROMPT!r}, input_type=str]",
    "escapes": f"\x1b]0;x\x07\u202e\x9b31m {CUT_KEY}",
    "a book": f'"{PROMPT}" ' * 10_000,
}


def whole(words: str, status: int) -> Reply:
    return reply.error(status, message=words)


def in_a_stream(words: str, status: int) -> Reply:
    kind = "authentication_error" if status == 401 else "invalid_request_error" if status == 400 else "api_error"
    return reply.stream_error("content", kind, words)


def as_text(words: str, status: int) -> Reply:
    return reply.raw(words.encode(), status=status, content_type="text/plain")


@pytest.mark.parametrize("told", [whole, in_a_stream, as_text])
async def test_what_is_quoted_is_not_kept(
    server: Server, anthropic: FakeProvider, caplog: pytest.LogCaptureFixture, told: Callable[[str, int], Reply]
) -> None:
    """Whatever its status and form; what is kept is one short line."""
    caplog.set_level("DEBUG", "ccproxy")
    served = await server.start(anthropic=anthropic)
    for what, words in QUOTES.items():
        for status in (400, 401, 500):
            served.forget()
            anthropic.script(*[told(words, status)] * 5)
            await served.ask(STREAM if told is in_a_stream else ASK)
            anthropic.reset()
            assert served.ends, what
            kept = "".join(str(event) for _, event in served.events) + caplog.text
            for secret in (
                ANTHROPIC_KEY,
                ANTHROPIC_KEY[:11],
                ANTHROPIC_KEY[-5:],
                "neighbour",
                "heron",
                "\x1b",
                "\u202e",
                "\x9b",
            ):
                assert secret not in kept, (what, status, secret)
            assert all(len(event.message) <= 300 for _, event in served.ends)


async def test_the_client_itself_is_told_all_but_our_key(server: Server, anthropic: FakeProvider) -> None:
    """Its own mistake comes back in the provider's words, its own prompt among them."""
    served = await server.start(anthropic=anthropic)
    words = f'messages.0.content: "{PROMPT}" is not a list; your key is {ANTHROPIC_KEY}'
    anthropic.script(reply.error(400, message=words))
    shown: dict[str, Any] = json.loads((await served.ask(ASK)).content)
    assert shown["error"]["message"] == words.replace(ANTHROPIC_KEY, "***")


@pytest.mark.parametrize("status", [200, 400, 401, 500])
async def test_no_header_of_an_answer_quotes_the_key(server: Server, status: int) -> None:
    """Neither of an answer nor of an error: the client's key is not the owner's."""
    echo = dict.fromkeys(("request_id", "anthropic_debug", "retry_after", "content_disposition"), f"x {ANTHROPIC_KEY}")
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
    async with byte_provider(lambda _: answer(MESSAGE if status == 200 else error, status, **echo)) as provider:
        served = await server.start(anthropic=provider.base_url)
        shown = await served.ask(ASK)
    assert ANTHROPIC_KEY not in str(shown.headers.raw)
