"""What RQ calls by dotted path. Jobs run in the worker's own process, one after the other; the work is `fold_job`'s,
and reports are the `report_service`'s, in a thread of its own."""

from typing import Any

from workers.fold_job import FoldJob
from workers.report_service import ReportService

on_duty: list[FoldJob] = []
"""The one shift of this process: RQ hands a job nothing but JSON."""
at_the_desk: list[ReportService] = []
"""Who makes reports."""


def begin(shift: FoldJob, desk: ReportService | None = None) -> None:
    """From now on this process's jobs are done by these."""
    on_duty[:] = [shift]
    at_the_desk[:] = [desk] if desk else []


def fold(stream: str) -> None:
    """Fold what the stream has."""
    on_duty[0].fold(stream)


def report(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A report for a proxy."""
    return at_the_desk[0].answer(name, arguments)
