"""What has no price is marked wherever a cost is shown: in `status`, `keys list`, the admin API and the overview."""

import pytest
from msgspec.structs import replace

from service.commands.keys import cost_in_words
from service.commands.terminal_views import notes
from service.console.event_text import view_of as view_of_event
from service.console.overview import keys_of, overview_of
from service.console.requests import request_of
from service.ledger import ids
from service.ledger.events import PriceChange, UsageRepriced
from service.ledger.state import ClientKey, ControlLedger, RouteLedger, Usage
from service.routing.keys import read_key
from service.routing.route_status import fields_of, read_route_status, reading_of
from service.routing.view import View
from service.settings import Settings, from_variables
from tests.support.event_factories import ended
from tests.support.routing_factories import HOUR_MS, MONDAY_MS, NOW_MS, view_of

HOUR = NOW_MS // HOUR_MS
LIMITED = ClientKey(name="ann", sha256="", weekly_cost_nusd=10**10)
KNOWN = Usage(attempts=1, output=1_000, cost_nusd=5_000_000)
UNKNOWN = Usage(attempts=3, output=10_000, unpriced=3)
# 10,000 tokens of output at Z.AI's dearest, $8.9 (GLM-4.5-X), beside what is known.
COUNTED_NUSD = 5_000_000 + 10_000 * 8_900


@pytest.fixture
def settings() -> Settings:
    return from_variables({"CCPROXY_HOME": "/nowhere", "ZAI_API_KEY": "k"})


@pytest.fixture
def view() -> View:
    """A key has used Z.AI: a model that has a price, and two that have none; last week a third."""
    cells = {"glm-5.2": {"ann": KNOWN}, "house-b": {"ann": UNKNOWN}, "house-a": {"bob": Usage(attempts=1, unpriced=1)}}
    hours = {HOUR: Usage(attempts=5, cost_nusd=5_000_000, unpriced=4), MONDAY_MS // HOUR_MS - 1: Usage(unpriced=1)}
    usage = {HOUR: cells, MONDAY_MS // HOUR_MS - 1: {"house-old": {"ann": Usage(unpriced=1)}}}
    control = ControlLedger(keys={"ann": LIMITED})
    return view_of(control, zai=RouteLedger(hours=hours, usage=usage))


def test_status_names_the_models(settings: Settings, view: View) -> None:
    """Of this week; the hash in Redis has them, too."""
    [zai] = [route for route in settings.routes if route.id == "zai"]
    reading = read_route_status(zai, view, settings.policy, NOW_MS)
    assert (reading.cost_nusd, reading.unpriced, reading.unpriced_models) == (5_000_000, 4, ("house-a", "house-b"))
    assert "used 4 times this week what has no price: house-a, house-b; see `ccproxy prices`" in notes(reading, NOW_MS)
    assert reading_of({name: str(value) for name, value in fields_of(reading).items()}) == reading


def test_the_overview_warns(settings: Settings, view: View) -> None:
    """On the route, until it is priced."""
    shown = overview_of(settings, view, None, [], now_ms=NOW_MS, version="1")
    [notice] = [one for one in shown.notices if one.code == "unpriced"]
    assert (notice.level, notice.subject) == ("warning", "zai")
    assert notice.message == "Z.AI used 4 times this week what has no price: house-a, house-b"
    [zai] = [route for route in shown.routes if route.route == "zai"]
    assert (zai.unpriced, zai.unpriced_models) == (4, ["house-a", "house-b"])
    calm = overview_of(settings, view_of(), None, [], now_ms=NOW_MS, version="1")
    assert [one for one in calm.notices if one.code == "unpriced"] == []


def test_a_keys_cost_is_marked_and_what_counts_is_shown(settings: Settings, view: View) -> None:
    """Neither a limit nor its owner takes the known part for all."""
    reading = read_key("ann", LIMITED, view, settings.policy.quota, settings.prices, NOW_MS)
    assert reading.counted_nusd == COUNTED_NUSD
    assert cost_in_words(reading) == "$0.01 + 3 without a price (counted as $0.09 in all)"
    [key] = [one for one in keys_of(settings, view, {}, NOW_MS) if one.key_id == "ann"]
    assert (key.used_cost_nusd, key.unpriced, key.counted_cost_nusd) == (5_000_000, 3, COUNTED_NUSD)
    carl = read_key("carl", LIMITED, view, settings.policy.quota, settings.prices, NOW_MS)
    assert cost_in_words(carl) == "$0.00"


def test_a_request_costs_what_its_newest_price_says() -> None:
    """Of several prices the one that no other follows, however they are read; an end's is not its estimate's."""
    end = ended(1, cost_nusd=None)
    first = UsageRepriced(
        event_id=ids.repriced_id(end.event_id), at_ms=end.at_ms, of=end.event_id, attempt_id=end.attempt_id,
        request_id=end.request_id, changes=(PriceChange("m", None, 7),), price_version="2",
    )  # fmt: skip
    second = replace(first, event_id=ids.repriced_id(first.event_id), changes=(PriceChange("m", 7, 10**9),))
    estimate = replace(
        first, event_id=ids.derived_id(end.event_id, "x"), of_lost=True, changes=(PriceChange("m", 0, 5),)
    )
    views = [view_of_event("anthropic", event) for event in (second, end, estimate, first)]
    shown = request_of(end.request_id, [view for view in views if view])
    assert [attempt.cost_nusd for attempt in shown.attempts] == [10**9]
    assert [view.words for view in views if view and view.type == "usage_repriced"] == [
        "priced again by 2: $1.0000, before $0.0000",
        "priced again by 2: $0.0000, before $0.0000",
        "priced again by 2: $0.0000, before $0.0000, 1 without a price",
    ]
    unknown = replace(first, changes=(PriceChange("m", 7, None),))
    shown = request_of(
        end.request_id, [view for event in (end, unknown) if (view := view_of_event("anthropic", event))]
    )
    assert [attempt.cost_nusd for attempt in shown.attempts] == [None]
