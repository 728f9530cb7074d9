"""What RQ calls by dotted path. Jobs run in the worker's own process, one after the other; the work is `shift`'s."""

from workers.shift import Shift

on_duty: list[Shift] = []
"""The one shift of this process: RQ hands a job nothing but JSON."""


def begin(shift: Shift) -> None:
    """From now on this process's jobs are done by `shift`."""
    on_duty[:] = [shift]


def fold(stream: str) -> None:
    """Fold what the stream has."""
    on_duty[0].fold(stream)
