"""The table of failures behind an early head in docs/routing.md says what the code makes of them."""

import re

import msgspec
import pytest

from service.edge.responses import PASSING, error_event
from service.errors import ProviderFailed
from tests.docs.test_failure_table import rows

ROWS = rows("Late content")
TOLD = [row for row in ROWS if re.match(r"\d{3} `", row[1])]


def error_of(cell: str) -> ProviderFailed:
    """The error that a cell of the second column names."""
    status, error_type = re.fullmatch(r"(\d{3}) `(\w+)`", cell).groups()  # type: ignore[union-attr]
    error = ProviderFailed("m")
    error.status, error.type = int(status), error_type
    return error


@pytest.mark.parametrize("row", TOLD, ids=lambda row: row[1])
def test_an_error_becomes_what_the_table_says(row: list[str]) -> None:
    event = error_event(error_of(row[1]), "req_1")
    told = msgspec.json.decode(event.partition(b"data: ")[2])
    assert told["error"]["type"] == re.findall(r"`(\w+)`", row[2])[0]


def test_the_table_has_every_status_that_passes() -> None:
    """And ends with what is passed on unchanged."""
    assert {error_of(row[1]).status for row in TOLD} >= PASSING
    assert ROWS[len(TOLD) :] == [
        ["the request's own fault", "the provider's status and error", "the provider's error object, unchanged"]
    ]
