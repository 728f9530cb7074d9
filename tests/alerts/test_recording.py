"""The notation in which recordings are kept, and what goes on after their end."""

from __future__ import annotations

import pytest

from tests.alerts.recording import decoded, encoded, prolonged

NOTATIONS: dict[str, list[float | None]] = {
    "1x3": [1, 1, 1, 1],
    "0+10x3 7": [0, 10, 20, 30, 7],
    "1 2": [1, 2],
    "_x2 5-2.5x2": [None, None, 5, 2.5, 0],
    "1 stale _x2 1x2": [1, None, None, None, 1, 1, 1],
    "1 stale 4": [1, None, 4],
}


@pytest.mark.parametrize("text", NOTATIONS)
def test_values_come_out_as_they_went_in(text: str) -> None:
    """A series that vanishes is stale at once: otherwise Prometheus would see its last value for five minutes."""
    values = [None if value is None else float(value) for value in NOTATIONS[text]]
    assert encoded(values) == text
    assert decoded(text) == values


def test_a_series_goes_on_as_it_did_last() -> None:
    """A counter rises as in its last scrapes, a gauge repeats itself, and what is away stays away."""
    assert prolonged([0, 5, 6, 8], 2, 8) == [0, 5, 6, 8, 9, 11, 12, 14]
    assert prolonged([3, 1, 0, 1], 2, 7) == [3, 1, 0, 1, 0, 1, 0]
    assert prolonged([1, None, None], 1, 5) == [1, None, None, None, None]
