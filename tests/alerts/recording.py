"""A recording: what Prometheus had stored of an installation, scrape by scrape, in promtool's notation of series.

Not here: how it is made (`lab`), and what is made to go wrong (`scenarios`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FOLDER = Path(__file__).parent / "recorded"
INTERVAL_S = 15
"""As in `deploy/prometheus/prometheus.yml`."""
JOB = '{job="ccproxy",'
SHORTEST_RUN = 3
RUN = re.compile(r"(?P<first>-?[\d.]+)(?:(?P<step>[+-][\d.]+))?x(?P<more>\d+)")

Values = list[float | None]
"""One value for each scrape; None where the series was not there."""


class Recording(Struct, frozen=True):
    """Series of an installation. `marks` are moments, in seconds from the first scrape."""

    about: str
    marks: dict[str, int]
    scrapes: int
    series: dict[str, str]

    @property
    def lasts_s(self) -> int:
        """The time of the last scrape."""
        return (self.scrapes - 1) * INTERVAL_S

    def values(self) -> dict[str, Values]:
        """The series, scrape by scrape."""
        return {name: decoded(text) for name, text in self.series.items()}


def load(name: str) -> Recording:
    """A recording of the folder."""
    return parse((FOLDER / f"{name}.txt").read_text(encoding="utf-8"))


def parse(text: str) -> Recording:
    """A recording, from its file: three lines of comment, then a series on each line."""
    about, marks, scrapes, *lines = text.splitlines()
    named = (mark.rsplit(" ", 1) for mark in value_of(marks).split(", ") if mark)
    series = (line.split(" ", 1) for line in lines)
    return Recording(
        about=about.removeprefix("# "),
        marks={name: int(at_s) for name, at_s in named},
        scrapes=int(value_of(scrapes)),
        series={name.replace("{", JOB, 1): values for name, values in series},
    )


def value_of(comment: str) -> str:
    """What follows the colon of a line of comment."""
    return comment.partition(":")[2].strip()


def text_of(recording: Recording) -> str:
    """The text of a recording's file. The label that all series have is left out."""
    marks = ", ".join(f"{name} {at_s}" for name, at_s in recording.marks.items())
    head = [f"# {recording.about}", f"# marks: {marks}", f"# scrapes: {recording.scrapes}"]
    return "\n".join(
        [*head, *(f"{name} {values}".replace(JOB, "{", 1) for name, values in recording.series.items()), ""]
    )


def prolonged(values: Values, last: int, scrapes: int) -> Values:
    """A series that goes on as in its last scrapes, until there are so many: counters rise as they did in these."""
    found = list(values)
    before, end = values[-1 - last], values[-1]
    rise = 0.0 if before is None or end is None else end - before
    while len(found) < scrapes:
        earlier = found[-last]
        found.append(None if earlier is None else earlier + rise)
    return found


# -- promtool's notation


def encoded(values: Sequence[float | None]) -> str:
    """A series as promtool reads it: what vanishes is stale, as a failed scrape makes it."""
    return " ".join(parts_of(values))


def parts_of(values: Sequence[float | None]) -> Iterator[str]:
    """Runs, as far as there are some."""
    at = 0
    while at < len(values):
        first = values[at]
        if first is None:
            length = run_of_nothing(values, at)
            if at:
                yield "stale"
            if length > bool(at):
                yield f"_x{length - bool(at)}"
        else:
            length, step = run_of(values, at, first)
            if length < SHORTEST_RUN:
                length = 1
                yield written(first)
            else:
                slope = f"{'+' if step > 0 else '-'}{written(abs(step))}" if step else ""
                yield f"{written(first)}{slope}x{length - 1}"
        at += length


def run_of_nothing(values: Sequence[float | None], at: int) -> int:
    """How many scrapes from here on lack the series."""
    return next((number for number, value in enumerate(values[at:]) if value is not None), len(values) - at)


def run_of(values: Sequence[float | None], at: int, first: float) -> tuple[int, float]:
    """How many values from here on rise evenly, and how much each."""
    second = values[at + 1] if at + 1 < len(values) else None
    if second is None:
        return 1, 0.0
    step = round(second - first, 3)
    length = 2
    for value in values[at + 2 :]:
        if value is None or round(value - (first + step * length), 3):
            break
        length += 1
    return length, step


def written(number: float) -> str:
    """A number, with no more digits than it needs."""
    return f"{number:.3f}".rstrip("0").rstrip(".")


def decoded(text: str) -> Values:
    """The values of a series in promtool's notation."""
    found: Values = []
    for part in text.split():
        if part == "stale":
            found.append(None)
        elif part.startswith("_x"):
            found += [None] * int(part[2:])
        elif run := RUN.fullmatch(part):
            step = float(run["step"] or 0)
            found += [float(run["first"]) + step * number for number in range(int(run["more"]) + 1)]
        else:
            found.append(float(part))
    return found
