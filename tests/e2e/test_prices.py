"""A model without a price, from the limit in dollars that it uses up to the price that it gets in the end."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import Usage, reply
from tests.support.installation import Installation
from tests.support.ledger_reader import LedgerReader
from tests.support.messages import ASK, STREAM, ask, client_of
from tests.support.processes import run
from tests.support.waiting import settles_to

pytestmark = pytest.mark.e2e

MODEL = "claude-opus-9-9"
USED = Usage(input=50_000, output=10_000)
# At the dearest of its family, Fable 5.2 in fast mode: 50,000 x 16,000 + 10,000 x 80,000
BOUND_NUSD = 1_600_000_000
# At a dollar and two: 50,000 x 1,000 + 10,000 x 2,000
NUSD = 70_000_000
OWN = f'[prices."{MODEL}"]\ninput = 1\noutput = 2\ncache_read = 0\ncache_write_5m = 0\ncache_write_1h = 0\n'


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["json", "stream"])
def test_a_limit_in_dollars_ends_with_what_has_no_price(
    installation: Installation, ledger: LedgerReader, tmp_path: Path, body: dict[str, Any]
) -> None:
    """It is not free: the key stops, every screen says why, and once it is priced the key goes on."""

    def ccproxy(*arguments: str) -> Any:
        status, said = run(*arguments, "--json", home=tmp_path, variables=installation.addresses)
        assert status == 0, said
        return json.loads(said)

    proxy = installation.start_proxy({"PROXY_API_KEYS": "ledger"})
    issued = ccproxy("keys", "issue", f"ann-{tmp_path.name}"[:60], "--weekly-cost", "1")
    with client_of(proxy.url) as http:

        def answer() -> int:
            installation.anthropic.script(reply.message(usage=USED))
            return ask(http, body | {"model": MODEL}, {"x-api-key": issued["key"]}).status_code

        settles_to(200, answer)  # the key has come to the proxy; what it was refused before, nobody counts
        assert answer() == 429
        ledger.settle()
        [key] = [one for one in ccproxy("keys", "list") if one["key_id"] == issued["key_id"]]
        assert (key["state"], key["used_cost_nusd"], key["unpriced"]) == ("spent", 0, 1)
        assert key["counted_cost_nusd"] == BOUND_NUSD
        [route] = [one for one in ccproxy("status")["routes"] if one["route"] == "anthropic"]
        assert MODEL in route["unpriced_models"]

        (tmp_path / "ccproxy.toml").write_text(OWN, encoding="utf-8")
        [stream] = ccproxy("ledger", "reprice", "--since", "1d", "--stream", "anthropic")["streams"]
        assert stream["changed"] >= 1
        settles_to(200, answer)
        [key] = [one for one in ccproxy("keys", "list") if one["key_id"] == issued["key_id"]]
        assert key["used_cost_nusd"] == NUSD
        ledger.settle()
        ledger.check_sound()
