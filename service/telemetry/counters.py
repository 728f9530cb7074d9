"""Counting between two looks: plain numbers by label, handed over to prometheus_client's counters all at once.

Its own counting looks series up, checks and locks, in files where processes share them: ten times what adding to a
number costs, fifteen times a request. Not here: what is counted, and when it is handed over (`metrics`).
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from prometheus_client import CollectorRegistry, Counter, Histogram

Labels: TypeAlias = tuple[str, ...]


class BufferedCounter:
    """A counter, and what it does not know yet."""

    def __init__(self, name: str, words: str, labels: Iterable[str], registry: CollectorRegistry) -> None:
        self._counter = Counter(name, words, labels, registry=registry)
        self._fresh: dict[Labels, float] = {}

    def add(self, labels: Labels, amount: float = 1) -> None:
        """Count on."""
        self._fresh[labels] = self._fresh.get(labels, 0) + amount

    def hand_over(self) -> None:
        """Tell the counter."""
        fresh, self._fresh = self._fresh, {}
        for labels, amount in fresh.items():
            self._counter.labels(*labels).inc(amount)


class BufferedHistogram:
    """A histogram, and what it does not know yet: how many values fell below each bound, and their sum."""

    def __init__(
        self, name: str, words: str, labels: Iterable[str], bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._histogram = SummedHistogram(name, words, labels, buckets=bounds, registry=registry)
        self._bounds = bounds
        self._fresh: dict[Labels, list[float]] = {}

    def add(self, labels: Labels, value: float) -> None:
        """Count a value."""
        counts = self._fresh.get(labels)
        if counts is None:
            counts = self._fresh[labels] = [0.0] * (len(self._bounds) + 2)
        counts[bisect_left(self._bounds, value)] += 1
        counts[-1] += value

    def hand_over(self) -> None:
        """Tell the histogram."""
        fresh, self._fresh = self._fresh, {}
        for labels, (*counts, total) in fresh.items():
            histogram = self._histogram.labels(*labels) if labels else self._histogram
            histogram.add(counts, total)


class SummedHistogram(Histogram):
    """A histogram that takes many values at once."""

    def add(self, counts: Sequence[float], total: float) -> None:
        """Values counted by bound, the last ones above all bounds, and their sum."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
