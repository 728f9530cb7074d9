"""What happens in each recipe: a question, a tool, and a route that fails in between. Not here: who asks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.fakes import reply
from tests.recipes.product import Attempt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from tests.fakes import FakeProvider, Received

TOOLS = '"tools":[{'
RESULT = "Oslo: 7 °C and rain"
ANSWER = "It is 7 °C and raining in Oslo."


def script(first: FakeProvider, second: FakeProvider, tool: str, arguments: dict[str, Any]) -> None:
    """The first provider calls the tool, and is overloaded from when its result comes; the second one then answers."""
    called = reply.tool_use(tool, arguments, text="Let me look. ")
    first.script(reply.error(529).when(body=RESULT).forever(), called.when(body=TOOLS))
    second.script(reply.message(ANSWER).when(body=RESULT))


def check(
    first: FakeProvider,
    second: FakeProvider,
    requests: Iterable[Sequence[Attempt]],
    *,
    routes: tuple[str, str],
    resent: bool,
) -> None:
    """The second turn went on to the next route, as the ledger says; nothing else failed."""
    check_providers(first, second, resent=resent)
    failed, ok = Attempt(routes[0], "failed", "overloaded"), Attempt(routes[0], "ok")
    told = Counter(tuple(attempts) for attempts in requests)
    assert told.pop((ok,)) >= 1
    assert told == {(failed, Attempt(routes[1], "ok")): 1} | ({(failed,): 1} if resent else {})


def check_providers(first: FakeProvider, second: FakeProvider, *, resent: bool) -> None:
    """Both turns were asked for once, as streams; the second provider has answered the second one.

    `resent`: the client keeps its conversation at the provider, so that it is asked for the whole of it before the next
    route can answer.
    """
    asked, told = turns_of(first)
    assert (len(asked), len(told)) == (1, 2 if resent else 1)
    assert [len(turn) for turn in turns_of(second)] == [0, 1]
    assert second.scripted_left == 0
    assert {received.json.get("stream") for received in (*asked, *told, *second.requests)} == {True}


def turns_of(provider: FakeProvider) -> tuple[list[Received], list[Received]]:
    """The requests with the question, and those with the tool's result; not what a client asks besides (a title)."""
    told = [received for received in provider.requests if RESULT.encode() in received.body]
    return [each for each in provider.requests if TOOLS.encode() in each.body and each not in told], told
