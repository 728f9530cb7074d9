"""What came of a second opinion stands in the event of the failure on which it was asked, and so do unknown words."""

import pytest

from service.ledger.events import Opinion
from tests.support.fake_upstream import ScriptedResponse, error, reply
from tests.support.relay_harness import ASK, RelayFactory

TWO_ACCOUNTS = (
    '[[routes]]\nid = "first"\nprovider = "anthropic"\nbase_url = "https://first.test"\napi_key = "first-key"\n'
    '[[routes]]\nid = "second"\nprovider = "anthropic"\nbase_url = "https://second.test"\napi_key = "second-key"\n'
)
UNKNOWN = error(400, "invalid_request_error", "The flux is out of phase")


@pytest.mark.parametrize(
    ("second", "opinion", "is_evidence"),
    [
        (reply(), "answered", True),
        (error(422, "invalid_request_error", "Likewise"), "confirmed", False),
        (error(500), "none", True),
    ],
    ids=["answered", "confirmed", "none"],
)
async def test_an_opinion_is_recorded_with_the_failure(
    relays: RelayFactory,
    second: ScriptedResponse,
    opinion: Opinion,
    is_evidence: bool,  # noqa: FBT001 - a case
) -> None:
    """Once; the words count unless the opinion confirmed that the request is at fault."""
    relay = relays.make({"API_MAX_RETRIES": "0"}, TWO_ACCOUNTS)
    relay.upstream.script(UNKNOWN)
    relay.upstream.script(second, base_url="https://second.test")
    await relay.ask(ASK)
    first = next(end for end in relay.ends if end.status == 400)
    assert [end.opinion for end in relay.ends if end is not first] == [""]
    assert (first.opinion, bool(first.words), first.final) == (opinion, is_evidence, False)


async def test_without_a_second_route_there_is_no_opinion(relays: RelayFactory) -> None:
    """The words count all the same."""
    relay = relays.make()
    relay.upstream.script(UNKNOWN)
    await relay.ask(ASK)
    [end] = relay.ends
    assert (end.opinion, bool(end.words)) == ("", True)
