"""Whether two events with one id tell the same fact: what may differ, and what may not."""

import pytest
from msgspec.structs import replace

from service.ledger.events import RouteEvent, TokenCounts, is_same_fact
from tests.support.event_factories import batch_item, ended, lost, started


@pytest.mark.parametrize("event", [started(), ended(), lost(), batch_item()], ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("spooled", [False, True], ids=["sent at once", "waited on disk"])
def test_having_waited_on_disk_is_no_difference(event: RouteEvent, spooled: bool) -> None:  # noqa: FBT001 - a case
    assert is_same_fact(replace(event, spooled=spooled), event)
    assert is_same_fact(event, replace(event, spooled=spooled))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param(ended(), ended(total_ms=1), False, id="an end that tells something else"),
        pytest.param(started(), started(model_sent="x"), False, id="a start that tells something else"),
        pytest.param(lost(), lost(tokens=TokenCounts(9), replica="r2"), True, id="another worker's estimate"),
        pytest.param(lost(), lost(2), False, id="the loss of another attempt"),
        pytest.param(lost(), ended(), False, id="the loss and the end of one attempt"),
        pytest.param(ended(), lost(), False, id="the end and the loss of one attempt"),
        pytest.param(batch_item(), batch_item(client_key="bob", replica="r2"), True, id="an item read by another"),
        pytest.param(batch_item(), batch_item(batch_id="x"), False, id="an item of another batch"),
        pytest.param(batch_item(), batch_item(custom_id="x"), False, id="another item"),
        pytest.param(batch_item(), batch_item(model_sent="x"), False, id="an item of another model"),
        pytest.param(batch_item(), batch_item(tokens=TokenCounts(9)), False, id="an item that used something else"),
        pytest.param(batch_item(), ended(), False, id="an item and an attempt"),
        pytest.param(ended(), batch_item(), False, id="an attempt and an item"),
    ],
)
def test_what_may_differ_depends_on_the_event(one: RouteEvent, other: RouteEvent, same: bool) -> None:  # noqa: FBT001 - a case
    """An estimate is the first worker's to make, and a batch may be read by several clients; any other fact is one."""
    assert is_same_fact(one, other) is same
