"""Job functions that RQ calls by their dotted path. Fold jobs run one after another in the worker's process
(`fold_job`); reports run in a thread of their own (`report_service`)."""

from typing import Any

from workers.fold_job import FoldJob
from workers.report_service import ReportService

fold_jobs: list[FoldJob] = []
"""The fold job of this process, kept here since RQ passes nothing but JSON. At most one."""
report_services: list[ReportService] = []
"""The report service of this process. At most one."""


def register(fold_job: FoldJob, report_service: ReportService | None = None) -> None:
    """Register the objects that run this process's jobs."""
    fold_jobs[:] = [fold_job]
    report_services[:] = [report_service] if report_service else []


def fold(stream: str) -> None:
    """Fold a stream's new entries."""
    fold_jobs[0].fold(stream)


def report(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Make a report for a proxy."""
    return report_services[0].answer(name, arguments)
