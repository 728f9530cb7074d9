"""What `ccproxy migrate` prints: a plan, or what was applied. Not here: the plan, and applying it."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from service.telemetry.terminal import echo
from workers.migrate import AppliedNow
from workers.migration_plan import EFFECTS, EarlierWorkers, Plan, PlannedStep

WORKERS_MAY: Final[dict[EarlierWorkers, str]] = {
    "start": "workers of the version before go on, and may be restarted",
    "run": "workers of the version before that are running go on; restarted, they wait for the new version",
    "fail": "workers of the version before can't go on; events wait in Redis until a new worker runs",
}
SHOWN_BYTES: Final = 1_000_000


def show_plan(plan: Plan) -> None:
    """Print what would be done, in words."""
    if not plan.steps:
        echo(f"Nothing to do: the schema is current ({plan.schema:04}).")
        return
    count = len(plan.steps)
    echo(f"{count} {'migration' if count == 1 else 'migrations'} would be applied, in one transaction:")
    for step in plan.steps:
        echo(f"{step.number:04} {step.name}: {step.does}")
        echo(f"     {'; '.join(cost_of(step))}")
        if plan.schema:
            echo(f"     {WORKERS_MAY[step.earlier_workers]}")
    echo(f"Estimated time: {time_words(plan.estimate_s)}. Basis: {plan.basis}.")
    if plan.schema:
        echo(
            "Proxies go on: they don't use Postgres. The only way back is a backup made before: `ccproxy backup FILE`."
        )
    echo(f"It would fail: {plan.obstacle}." if plan.obstacle else "Nothing was changed.")


def cost_of(step: PlannedStep) -> Iterator[str]:
    """Yield what a step locks, reads and writes, and how long that takes."""
    yield f"locks {', '.join(step.locks)} until the end" if step.locks else "locks no table"
    if step.reads:
        yield f"reads {', '.join(step.reads)}"
    yield f"writes {', '.join(step.writes)} again" if step.writes else "writes no table again"
    size = f" for {step.bytes / 1e6:,.0f} MB" if step.bytes >= SHOWN_BYTES else ""
    yield f"about {time_words(step.estimate_s)}{size}"


def time_words(seconds: float) -> str:
    """Return an estimate in a unit that suits it."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def show_missing(plan: Plan) -> None:
    """Print a line for each pending migration."""
    for step in plan.steps:
        echo(f"migration.missing number={step.number:04} name={step.name}")
    if not plan.steps:
        echo("schema.current")


def show_applied(applied: Sequence[AppliedNow], took_s: float) -> None:
    """Print a line for each migration that was applied, and how long all of them took."""
    for step, step_took_s in applied:
        fields = f"number={step.number:04} name={step.name} took_ms={step_took_s * 1000:.0f}"
        echo(f'migration.applied {fields} does="{EFFECTS[step.number].does}"')
    if applied:
        echo(f"schema.migrated number={applied[-1].step.number:04} took_ms={took_s * 1000:.0f}")
    else:
        echo("schema.current")


def applied_json(applied: Sequence[AppliedNow], took_s: float) -> dict[str, Any]:
    """Return the same for scripts."""
    steps = [
        {"number": step.number, "name": step.name, "does": EFFECTS[step.number].does, "took_s": round(took, 3)}
        for step, took in applied
    ]
    return {"steps": steps, "took_s": round(took_s, 3)}
