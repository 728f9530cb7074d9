"""Job functions that RQ calls by their dotted path. Fold jobs run one after another in the worker's process
(`fold_job`); reports run in a thread of their own (`report_service`)."""

from typing import Any

from workers.fold_job import FoldJob
from workers.report_service import ReportService

on_duty: list[FoldJob] = []
"""The fold job of this process, kept here since RQ passes nothing but JSON. At most one."""
at_the_desk: list[ReportService] = []
"""The report service of this process. At most one."""


def begin(shift: FoldJob, desk: ReportService | None = None) -> None:
    """Register the objects that run this process's jobs."""
    on_duty[:] = [shift]
    at_the_desk[:] = [desk] if desk else []


def fold(stream: str) -> None:
    """Fold a stream's new entries."""
    on_duty[0].fold(stream)


def report(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Make a report for a proxy."""
    return at_the_desk[0].answer(name, arguments)
