"""What happens in each recipe: a question, a tool, and a route that fails in between. Not here: who asks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.fakes import reply
from tests.recipes.product import Attempt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from tests.fakes import FakeProvider

RESULT = "Oslo: 7 °C and rain"
ANSWER = "It is 7 °C and raining in Oslo."


def script(first: FakeProvider, second: FakeProvider, tool: str, arguments: dict[str, Any]) -> None:
    """The first provider calls the tool, and is overloaded from when its result comes; the second one then answers."""
    called = reply.tool_use(tool, arguments, text="Let me look. ")
    first.script(reply.error(529).when(body=RESULT).forever(), called.when(body='"tools":[{'))
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
    """Each got the tool's result once, as a stream; only the second one answered it.

    `resent`: the client keeps its conversation at the provider, so that it is asked for the whole of it before the next
    route can answer.
    """
    assert second.scripted_left == 0
    of_the_first = [received for received in first.requests if RESULT.encode() in received.body]
    assert [RESULT.encode() in received.body for received in second.requests] == [True]
    assert len(of_the_first) == (2 if resent else 1)
    assert {received.json.get("stream") for received in (*of_the_first, *second.requests)} == {True}
