"""Buffers for prometheus_client's counters and histograms: plain numbers by label, flushed before each scrape.

prometheus_client's own counting looks up series, validates and locks, in files where processes share them: ten times
the cost of adding to a number, fifteen times per request. Not here: which metrics exist, and when they are flushed
(`metrics`).
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from prometheus_client import CollectorRegistry, Counter, Histogram

Labels: TypeAlias = tuple[str, ...]


class BufferedCounter:
    """A counter with increments that are not flushed yet."""

    def __init__(self, name: str, words: str, labels: Iterable[str], registry: CollectorRegistry) -> None:
        self._counter = Counter(name, words, labels, registry=registry)
        self._pending: dict[Labels, float] = {}

    def add(self, labels: Labels, amount: float = 1) -> None:
        """Add to the counter."""
        self._pending[labels] = self._pending.get(labels, 0) + amount

    def start_at_zero(self, known: Iterable[Labels]) -> None:
        """Make series that exist before anything is counted, so that their first count is an increase."""
        for labels in known:
            self._counter.labels(*labels)

    def flush(self) -> None:
        """Flush to the counter."""
        fresh, self._pending = self._pending, {}
        for labels, amount in fresh.items():
            self._counter.labels(*labels).inc(amount)


class BufferedHistogram:
    """A histogram with values that are not flushed yet: counts per bucket, and their sum."""

    def __init__(
        self, name: str, words: str, labels: Iterable[str], bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._histogram = SummedHistogram(name, words, labels, buckets=bounds, registry=registry)
        self._bounds = bounds
        self._pending: dict[Labels, list[float]] = {}

    def add(self, labels: Labels, value: float) -> None:
        """Add a value."""
        counts = self._pending.get(labels)
        if counts is None:
            counts = self._pending[labels] = [0.0] * (len(self._bounds) + 2)
        counts[bisect_left(self._bounds, value)] += 1
        counts[-1] += value

    def flush(self) -> None:
        """Flush to the histogram."""
        fresh, self._pending = self._pending, {}
        for labels, (*counts, total) in fresh.items():
            histogram = self._histogram.labels(*labels) if labels else self._histogram
            histogram.add(counts, total)


class SummedHistogram(Histogram):
    """A histogram that accepts pre-counted values."""

    def add(self, counts: Sequence[float], total: float) -> None:
        """Add counts per bucket (the last is above all bounds) and the sum of the values."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
