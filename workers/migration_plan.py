"""The plan of a migration: what each missing step would do to the rows that are there, and about how long.

What a step does is declared here, in `EFFECTS`; a test compares that with the locks, reads and writes that Postgres
reports. Making a plan changes nothing and locks nothing. Not here: applying the steps (`migrate`), and printing.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal

import psycopg
from msgspec import Struct

from workers.check import migration_obstacle
from workers.migrate import Migration, applied_migrations, has_schema, pending
from workers.store import QUERIES

STEP_S: Final = 0.05
"""A step that only changes the catalogue, whatever the size of its tables."""
BYTES_PER_S: Final = 20_000_000
"""Reading and writing tables again: a third of the slowest that was measured, 57 to 125 MB a second on two cores."""
BASIS: Final = (
    f"{STEP_S * 1000:.0f} ms a step, {BYTES_PER_S / 1e6:.0f} MB a second for tables that are read or written again, "
    "a third of the slowest measured; and up to 5 s for each lock, or it gives up and changes nothing"
)

EarlierWorkers = Literal["start", "run", "fail"]
"""What workers of the version before can do over a step: start; run until they are restarted; nothing."""


class Effect(Struct, frozen=True, kw_only=True):
    """What a step does to a database. Tables that it creates are not among those that it locks."""

    does: str
    locks: tuple[str, ...] = ()
    """Existing tables that nobody else can use until the migration has ended."""
    reads: tuple[str, ...] = ()
    """Tables that it reads: the more rows, the longer it takes."""
    writes: tuple[str, ...] = ()
    """Tables whose rows it writes again, likewise."""
    removes: bool = False
    """Whether earlier versions miss something afterwards that they use."""


EFFECTS: Final[Mapping[int, Effect]] = MappingProxyType(
    {
        1: Effect(does="Creates the tables for events, checkpoints, hourly usage, health and dead letters."),
        2: Effect(does="Adds a count of batch items to hourly usage.", locks=("usage_hourly",)),
        3: Effect(
            does="Adds what `ccproxy ledger verify` and retention need, and counts dead letters for each stream.",
            locks=("checkpoints",),
            reads=("dead_letters", "quarantine"),
            writes=("checkpoints",),
        ),
        4: Effect(
            does="Replaces the table of routes' health by an empty one with another shape; the next fold fills it.",
            locks=("route_health",),
            removes=True,
        ),
        5: Effect(
            does="Adds how much of the usage is estimated to hourly usage.",
            locks=("usage_hourly", "usage_closed"),
        ),
    }
)


class PlannedStep(Struct, frozen=True):
    """A step that would be applied. `bytes` is the size of all that it reads or writes again."""

    number: int
    name: str
    does: str
    locks: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    bytes: int
    estimate_s: float
    earlier_workers: EarlierWorkers


class Plan(Struct, frozen=True):
    """What `ccproxy migrate` would do. `schema` is the database's last step now, 0 without any; `obstacle` is why it
    would fail, with the mend."""

    schema: int
    steps: tuple[PlannedStep, ...]
    estimate_s: float
    basis: str = BASIS
    obstacle: str = ""


def plan(connection: psycopg.Connection) -> Plan:
    """Plan the migration of a database, in a transaction that can't write. Raises SchemaError."""
    obstacle = migration_obstacle(connection)
    with connection.transaction():
        connection.execute(QUERIES["only_read"])
        missing = pending(connection)
        applied = applied_migrations(connection) if has_schema(connection)[1] else []
        sizes: dict[str, int] = dict(connection.execute(QUERIES["table_sizes"]).fetchall())
    schema = max((step.number for step in applied), default=0)
    steps = plan_steps(missing, schema, sizes)
    return Plan(schema, steps, round(sum(step.estimate_s for step in steps), 2), obstacle=obstacle if steps else "")


def plan_steps(missing: Sequence[Migration], schema: int, sizes: Mapping[str, int]) -> tuple[PlannedStep, ...]:
    """Plan these steps for tables of these sizes."""
    return tuple(plan_step(step, EFFECTS[step.number], schema, sizes) for step in missing)


def plan_step(step: Migration, effect: Effect, schema: int, sizes: Mapping[str, int]) -> PlannedStep:
    """Plan a step; a table that an earlier step creates has no rows."""
    size = sum(sizes.get(name, 0) for name in effect.reads + effect.writes)
    return PlannedStep(
        number=step.number,
        name=step.name,
        does=effect.does,
        locks=tuple(name for name in effect.locks if name in sizes),
        reads=tuple(name for name in effect.reads if name in sizes),
        writes=tuple(name for name in effect.writes if name in sizes),
        bytes=size,
        estimate_s=round(STEP_S + size / BYTES_PER_S, 2),
        earlier_workers=earlier_workers(step, effect, schema),
    )


def earlier_workers(step: Migration, effect: Effect, schema: int) -> EarlierWorkers:
    """Return what workers of the version before can do over a step."""
    if step.compatible_from is not None and step.compatible_from <= schema:
        return "start"
    return "fail" if effect.removes else "run"
