"""From samples to tables and a plot. Pure.

A figure is the median over rounds, with the least and the greatest of them behind it. Added times are a target's less
those of `direct` in the same round's place, median against median and p99 against p99.
"""

from collections.abc import Callable, Sequence
from html import escape
from math import log10
from statistics import median

from msgspec import Struct

from bench.load import Figures


class Sample(Struct, frozen=True, kw_only=True):
    """One load on one target. Times in milliseconds; None where nothing was measured."""

    scenario: str
    target: str
    per_second: float
    errors: int
    cpu_ms: float | None
    own_cpu_ms: float | None
    first_p50: float | None
    first_p99: float | None
    chunk_p50: float | None
    chunk_p99: float | None
    rss_mb: float
    own_rss_mb: float
    error: str = ""

    @classmethod
    def of(
        cls,
        scenario: str,
        target: str,
        figures: Figures,
        *,
        cpu_ms: float,
        own_cpu_ms: float,
        rss_mb: float,
        own_rss_mb: float,
    ) -> "Sample":
        """From raw figures."""
        return cls(
            scenario=scenario,
            target=target,
            per_second=figures.done / figures.seconds if figures.seconds else 0.0,
            errors=figures.errors,
            cpu_ms=cpu_ms if figures.done else None,
            own_cpu_ms=own_cpu_ms if figures.done else None,
            first_p50=figures.first_p50,
            first_p99=figures.first_p99,
            chunk_p50=figures.chunk_p50,
            chunk_p99=figures.chunk_p99,
            rss_mb=rss_mb,
            own_rss_mb=own_rss_mb,
            error=figures.error,
        )

    @property
    def line(self) -> str:
        """For the progress."""
        broken = f"  {self.errors} errors: {self.error[:80]}" if self.errors else ""
        first = f"{self.first_p50:.2f}" if self.first_p50 is not None else "-"
        used = f"{self.cpu_ms:.3f}" if self.cpu_ms is not None else "-"
        return f"{self.per_second:8.0f}/s  {used:>7} ms cpu  first byte {first} ms{broken}"


Pick = Callable[[Sample], float | None]


class Results:
    """The samples, by scenario and target."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples
        self.targets = list(dict.fromkeys(sample.target for sample in samples))

    def values(self, scenario: str, target: str, pick: Pick) -> list[float]:
        """One figure in each round."""
        found = (pick(each) for each in self._samples if each.scenario == scenario and each.target == target)
        return [value for value in found if value is not None]

    def added(self, scenario: str, target: str, pick: Pick) -> list[float]:
        """The same, less what `direct` has."""
        base = self.values(scenario, "direct", pick)
        return [value - median(base) for value in self.values(scenario, target, pick)] if base else []

    def errors(self, scenario: str, target: str) -> int:
        """Requests that failed, in all rounds."""
        return sum(each.errors for each in self._samples if each.scenario == scenario and each.target == target)


def tables(samples: Sequence[Sample], scenarios: Sequence[str]) -> list[str]:
    """Markdown: a table for each scenario, and memory."""
    results = Results(samples)
    lines: list[str] = []
    for scenario in scenarios:
        lines += [f"**{scenario}**", "", *scenario_table(results, scenario), ""]
    return [*lines, "**Memory (MB, resident, at the end)**", "", *memory_table(samples, results), ""]


def scenario_table(results: Results, scenario: str) -> list[str]:
    """A row for each target; the ratio is its processor time over ccproxy's."""
    paced = bool(results.values(scenario, "direct", lambda sample: sample.chunk_p50))
    chunk = " added per chunk p50 · p99 (ms) |" if paced else ""
    head = "| target | requests/s | processor ms/request | ratio | added first byte p50 (ms) | p99 (ms) |"
    lines = [f"{head}{chunk} errors |", "|---" * (8 if paced else 7) + "|"]
    ours = results.values(scenario, "ccproxy", lambda sample: sample.cpu_ms)
    for target in results.targets:
        cpu = results.values(scenario, target, lambda sample: sample.cpu_ms)
        ratio = f"{median(cpu) / median(ours):.2f}" if ours and cpu and median(ours) and target != "direct" else "-"
        cells = [
            target,
            spread(results.values(scenario, target, lambda sample: sample.per_second), 0),
            "-" if target == "direct" else spread(cpu, 3) + own(results, scenario, target),
            ratio,
            spread(results.added(scenario, target, lambda sample: sample.first_p50), 2),
            spread(results.added(scenario, target, lambda sample: sample.first_p99), 2),
        ]
        if paced:
            chunks = [results.added(scenario, target, lambda sample: sample.chunk_p50)]
            chunks.append(results.added(scenario, target, lambda sample: sample.chunk_p99))
            cells.append(" · ".join(spread(each, 2) for each in chunks))
        lines.append("| " + " | ".join([*cells, str(results.errors(scenario, target))]) + " |")
    return lines


def own(results: Results, scenario: str, target: str) -> str:
    """The relaying process alone, where that is another figure."""
    alone = results.values(scenario, target, lambda sample: sample.own_cpu_ms)
    if alone == results.values(scenario, target, lambda sample: sample.cpu_ms) or not alone:
        return ""
    return f"; the proxy's process alone {median(alone):.3f}"


def memory_table(samples: Sequence[Sample], results: Results) -> list[str]:
    """The last sample of each target."""
    last = {sample.target: sample for sample in samples}
    lines = ["| target | all processes | the relaying process |", "|---|---|---|"]
    kept = [last[target] for target in results.targets if target != "direct"]
    return lines + [f"| {sample.target} | {sample.rss_mb:.0f} | {sample.own_rss_mb:.0f} |" for sample in kept]


def spread(values: Sequence[float], digits: int) -> str:
    """The median, and the least and the greatest."""
    if not values:
        return "-"
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


# -- the plot

WIDTH, LEFT, ROW, BAR = 720, 150, 22, 14


def chart(samples: Sequence[Sample], scenarios: Sequence[str]) -> str:
    """Processor time of each target on a logarithmic scale, as SVG; whiskers are the least and the greatest."""
    results = Results(samples)
    targets = [target for target in results.targets if target != "direct"]
    lines: list[str] = []
    top = 10
    for scenario in scenarios:
        lines.append(text(10, top + 14, f"{scenario}: processor ms per request (logarithmic)", bold=True))
        top += 24
        for target in targets:
            lines += bar(target, results.values(scenario, target, lambda sample: sample.cpu_ms), top)
            top += ROW
        top += 16
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{top}" fill="white"/>', *lines, "</svg>"]) + "\n"


def bar(target: str, values: Sequence[float], top: float) -> list[str]:
    """A row: name, bar, whisker, figure."""
    lines = [text(10, top + 12, target)]
    if not values:
        return [*lines, text(LEFT, top + 12, "no figure")]
    middle, low, high = median(values), min(values), max(values)
    colour = "#b4530a" if target == "ccproxy" else "#7a869a"
    end = LEFT + place(middle)
    lines.append(f'<rect x="{LEFT}" y="{top + 1}" width="{place(middle):.1f}" height="{BAR}" fill="{colour}"/>')
    y = top + 1 + BAR / 2
    lines.append(f'<path d="M{LEFT + place(low):.1f} {y}H{LEFT + place(high):.1f}" stroke="black"/>')
    return [*lines, text(max(end, LEFT + place(high)) + 6, top + 12, f"{middle:.2f}")]


def place(value: float) -> float:
    """0.01 ms lies at the left, 100 ms at the right."""
    return max(2.0, (log10(max(value, 0.0101)) + 2) / 4 * (WIDTH - LEFT - 60))


def text(x: float, y: float, words: str, *, bold: bool = False) -> str:
    """Words."""
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12"{weight}>{escape(words)}</text>'
