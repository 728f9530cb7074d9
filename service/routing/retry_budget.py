"""The retry budget of a process: repeats on the same route stay a small share of the requests, so that a provider in
trouble is not asked twice as often as one in health. Pure: it counts, and knows no clock.
"""

EARNED = 0.2
"""Repeats that each request allows."""
MOST = 10.0
"""Repeats that are saved up at most; also what a new process begins with."""


class RetryBudget:
    """Counts what may still be repeated."""

    def __init__(self) -> None:
        self.credit = MOST

    def earn(self) -> None:
        """A request has come."""
        self.credit = min(MOST, self.credit + EARNED)

    def spend(self) -> bool:
        """Whether one more repeat is allowed; it counts as made."""
        if self.credit < 1:
            return False
        self.credit -= 1
        return True
