"""Retry budget of a process: bounds retries on the same route to a small share of the requests, so that a failing
provider does not get twice the load. Pure: counts only, without a clock."""

EARNED = 0.2
"""Retries earned per request."""
MOST = 10.0
"""Maximum saved retries; also the initial value."""


class RetryBudget:
    """Counts the retries left."""

    def __init__(self) -> None:
        self.credit = MOST

    def earn(self) -> None:
        """Count a request."""
        self.credit = min(MOST, self.credit + EARNED)

    def spend(self) -> bool:
        """Use one retry; False if none is left."""
        if self.credit < 1:
            return False
        self.credit -= 1
        return True
