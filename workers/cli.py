"""The commands about the ledger. They join `ccproxy` as entry points, so that the proxy does not import them.

Not here: `ccproxy worker` (`worker_command`), which needs none of this.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Event

import click
import psycopg
from redis import Redis, RedisError

from service.ledger import wire
from service.ledger.events import UsageRepriced
from service.redis_client.probe import failure_words
from service.settings import (
    InvoiceSettings,
    Settings,
    SettingsError,
    load_for_invoice,
    load_for_workers,
)
from service.settings.quantities import TIME_FORMS, past_time
from service.settings.redis_url import place_of
from service.telemetry.options import NumberOption
from service.telemetry.safe_console import SafeConsole
from service.telemetry.terminal import echo, echo_json, echo_own
from workers.append import append_events
from workers.archive import Archive, Unowned, open_archive
from workers.backup import BackupError, Manifest, back_up, expected_rows
from workers.check import trouble_words
from workers.consume import Streams, open_redis
from workers.invoice import CREATE_KEY, AdminApi, InvoiceError, with_progress
from workers.migrate import SchemaError
from workers.migrate import migrate as apply_migrations
from workers.migration_plan import Plan, plan
from workers.migration_view import applied_json, show_applied, show_missing, show_plan
from workers.postgres_address import direct_postgres_of, redis_url_of, required
from workers.project import Projected, Projector
from workers.publish import Publisher
from workers.rebuild import rebuild
from workers.reconcile import Invoice, Scope, compare, days_of, invoice_of
from workers.reconcile_view import comparison_json, show_comparison
from workers.reprice import Repricing, reprice
from workers.restore import Backup, Gap, NotEmpty, gaps_of, restore
from workers.store import Store, connect
from workers.terminal_views import (
    progress_of,
    show_backup,
    show_gaps,
    show_put_aside,
    show_repriced,
    show_usage,
    show_verified,
    usage_csv,
    usage_json,
    words_of_unfolded,
)
from workers.turn import StreamBusy
from workers.turn import run_step as turns
from workers.usage import Period, Unfolded, dimensions_of, period_of, report, unfolded, usage_by_route
from workers.verify import verify
from workers.worker_process import check_schema

MAX_TRIES = 300
"""Attempts of a command to lock a stream that workers hold."""
REPRICED_AT_ONCE = 10_000
"""Events that may wait in Redis before they are folded."""
FOLDED_WITHIN_S = 3.0
"""A single proxy's events are folded once a second, so that a report which is asked for at once would lack the last."""
FOLD_LOOK_S = 0.2
NOT_PUBLISHED = "; Redis can't be used (`ccproxy check`): proxies get it when a worker starts, or with the next event"


stream_option = click.option("--stream", metavar="S", help="Only this stream: a route's id, or `control`.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@click.option("--check", is_flag=True, help="Only list pending migrations; exit code 1 if there are any.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only show what it would do, what that locks, and about how long it takes; exit code 1 if it would fail.",
)
@json_option
def migrate(*, check: bool, dry_run: bool, as_json: bool) -> None:
    """Migrate the database schema to this version.

    All pending migrations are one transaction: they are applied, or nothing is changed.
    """
    settings = load_for_workers()
    with errors_as_messages(settings), connect(direct_postgres_of(settings)) as connection:
        if check or dry_run:
            show_planned(plan(connection), check=check, dry_run=dry_run, as_json=as_json)
            return
        began_s = time.monotonic()
        applied = apply_migrations(connection)
        took_s = time.monotonic() - began_s
    if as_json:
        echo_json(applied_json(applied, took_s))
    else:
        show_applied(applied, took_s)


def show_planned(planned: Plan, *, check: bool, dry_run: bool, as_json: bool) -> None:
    """Print a plan, and exit as its reader asked for."""
    if as_json:
        echo_json(planned)
    elif dry_run:
        show_plan(planned)
    else:
        show_missing(planned)
    if planned.steps if check else planned.obstacle:
        raise click.exceptions.Exit(1)


@click.group()
def ledger() -> None:
    """Verify the ledger, rebuild its projections, show dead letters."""


@ledger.command("verify")
@stream_option
@json_option
def verify_ledger(stream: str | None, *, as_json: bool) -> None:
    """Recount every projection from the events and compare; exit code 1 if anything differs.

    Also checks that positions have no gaps, and the hash chain. Changes nothing, and may run under traffic.
    """
    screen = SafeConsole(stderr=True)
    with archive_of(load_for_workers()) as archive:
        reports = []
        for name in selected_streams(archive, stream):
            checkpoint, balance = archive.checkpoint(name), archive.balance(name)
            end = checkpoint.position if checkpoint else balance.position
            with progress_of(screen, f"verify {name}", balance.position, end) as progress:
                reports.append(verify(archive, name, progress))
    ok = all(report.ok for report in reports)
    if as_json:
        echo_json({"ok": ok, "streams": reports})
    else:
        show_verified(reports, SafeConsole(soft_wrap=False))
    if not ok:
        raise click.exceptions.Exit(1)


@ledger.command("rebuild")
@stream_option
@click.option("--force", is_flag=True, help="Rebuild from the existing rows, even if some are missing or changed.")
def rebuild_ledger(stream: str | None, *, force: bool) -> None:
    """Rebuild the projections from the events, beside the live ones, and swap them in while traffic goes on."""
    screen, settings = SafeConsole(stderr=True), load_for_workers()
    with archive_of(settings) as archive:
        for name in selected_streams(archive, stream):
            begin, end = archive.balance(name).position, archive.last_position(name)
            with progress_of(screen, f"rebuild {name}", begin, end, lines=True) as progress:
                rebuilt = rebuild(archive, name, progress, force=force)
            if rebuilt.faults:
                place, stands, _ = rebuilt.faults[0]
                raise click.ClickException(
                    f"{name}: the events differ from what was folded ({place}: {stands}); nothing was changed. See "
                    "`ccproxy ledger verify`; `--force` rebuilds from the existing rows"
                )
            told_proxies = publish_current(settings, name)
            echo(f"{name}: {rebuilt.events:,} events, epoch {rebuilt.epoch}{'' if told_proxies else NOT_PUBLISHED}")


@ledger.command("reprice")
@click.option("--since", required=True, metavar="TIME", help=f"Start: {TIME_FORMS}.")
@click.option("--until", metavar="TIME", help="End, exclusive; same forms; default: now.")
@stream_option
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@json_option
def reprice_ledger(since: str, until: str | None, stream: str | None, *, dry_run: bool, as_json: bool) -> None:
    """Price usage again with the price list in force, as new events; what is recorded stays as it is.

    For what had no price when it was used, or the wrong one. Repeated with the same list, it changes nothing.
    """
    settings, now = load_for_workers(), datetime.now(UTC)
    try:
        begin, end = past_time(since, now), past_time(until, now) if until else now
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    span = int(begin.timestamp() * 1000), int(end.timestamp() * 1000)
    with archive_of(settings) as archive:
        routes = [name for name in selected_streams(archive, stream) if name != wire.CONTROL]
        found = [reprice_stream(settings, archive, name, span, dry_run=dry_run) for name in routes]
    if as_json:
        rows = [one._asdict() for one in found]
        echo_json({"price_version": settings.prices.version, "dry_run": dry_run, "streams": rows})
    else:
        show_repriced(found, settings.prices.version, SafeConsole(), dry_run=dry_run)


def reprice_stream(
    settings: Settings, archive: Archive, stream: str, span: tuple[int, int], *, dry_run: bool
) -> Repricing:
    """Price a stream's usage again, and fold the events, some at a time."""
    found, pending = Repricing(stream), 0
    for sums, events in reprice(archive, stream, settings.prices, *span):
        found = sums
        if events and not dry_run:
            append_prices(settings, stream, events)
            pending += len(events)
        if pending >= REPRICED_AT_ONCE:
            run_until_done(settings, stream, partial(project_next, stream=stream))
            pending = 0
    if pending:
        run_until_done(settings, stream, partial(project_next, stream=stream))
    return found


def append_prices(settings: Settings, stream: str, events: Sequence[UsageRepriced]) -> None:
    """Append new prices to their stream in Redis."""
    url = required(redis_url_of(settings), "REDIS_URL")
    try:
        with open_redis(url) as redis:
            append_events(redis, stream, events)
    except RedisError as error:
        raise redis_error(error, url, "; then run it again: nothing counts twice") from None


@ledger.command("owners")
def add_owners() -> None:
    """Assign owners to files and batches created by versions that recorded none; needed once, after an upgrade.

    Until then, nobody can use them where client keys have several names. The ledger knows who created them.
    """
    settings = load_for_workers()
    url = required(redis_url_of(settings), "REDIS_URL")
    redis = open_redis(url)
    try:
        with archive_of(settings) as archive:
            count = sum(add_owner(redis, one) for one in archive.unowned())
    except RedisError as error:
        raise redis_error(error, url) from None
    finally:
        redis.close()
    echo(f"{count:,} files, batches and other resources were assigned to their owners.")


@ledger.group("dead", invoke_without_command=True)
@stream_option
@json_option
@click.option("--limit", type=NumberOption(1, 10_000), default=100, show_default=True, help="Maximum number of rows.")
@click.pass_context
def dead(context: click.Context, stream: str | None, limit: int, *, as_json: bool) -> None:
    """Show events that can't be decoded (dead letters) or contradict the ledger (quarantine)."""
    if context.invoked_subcommand:
        return
    with archive_of(load_for_workers()) as archive:
        rows = archive.set_aside_rows(stream, limit)
    if as_json:
        echo_json(rows)
    else:
        show_put_aside(rows, SafeConsole())


@dead.command("replay")
@stream_option
def replay(stream: str | None) -> None:
    """Fold the dead letters that this version can decode. Workers do this by themselves when they start."""
    settings = load_for_workers()
    with archive_of(settings) as archive:
        dead_before = {
            name: before.dead for name in selected_streams(archive, stream) if (before := archive.checkpoint(name))
        }
    for name, dead in dead_before.items():
        if dead:
            left = fold_dead_letters(settings, name).dead
            echo(f"{name}: {dead - left:,} folded, {left:,} left")
    if not any(dead_before.values()):
        echo("There are no dead letters.")


@click.command()
@click.option("--since", metavar="TIME", help=f"Start: {TIME_FORMS}; default: seven days ago.")
@click.option("--until", metavar="TIME", help="End, exclusive; same forms; default: now.")
@click.option(
    "--by",
    multiple=True,
    metavar="WHAT",
    help="Group by day, week, route, model or key; comma-separated or repeated. Default: day.",
)
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, for spreadsheets; costs in nano-dollars and dollars.")
def usage(since: str | None, until: str | None, by: tuple[str, ...], *, as_json: bool, as_csv: bool) -> None:
    """Report tokens, costs and attempts by day, week, route, model or client key. All times are UTC."""
    try:
        period, dimensions = period_of(since, until, datetime.now(UTC)), dimensions_of(by)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    settings = load_for_workers()
    with archive_of(settings) as archive:
        wait_for_a_fold(settings, archive)
        found = report(archive, period, dimensions)
        late = unfolded_events(settings, archive)
    if as_json:
        echo_json(usage_json(found) | {"unfolded_events": late and late.events})
    elif as_csv:
        echo_own(usage_csv(found), end="")
    else:
        show_usage(found, SafeConsole())
    if note := words_of_unfolded(late):
        echo(note, err=True)


def wait_for_a_fold(settings: Settings, archive: Archive) -> None:
    """Give workers time to fold what has just happened; under traffic there is always something that waits."""
    give_up_at_s = time.monotonic() + FOLDED_WITHIN_S
    first = late = unfolded_events(settings, archive)
    while first and late and 0 < late.events >= first.events and time.monotonic() < give_up_at_s:
        time.sleep(FOLD_LOOK_S)
        late = unfolded_events(settings, archive)


def unfolded_events(settings: Settings, archive: Archive) -> Unfolded | None:
    """Count what is in Redis and not in the ledger yet; None if Redis can't be asked."""
    url = redis_url_of(settings)
    if not url:
        return None
    try:
        with open_redis(url) as redis:
            names = {name.decode() for name in redis.smembers(wire.STREAMS_KEY)} - {wire.CONTROL}
            return unfolded(archive, Streams(redis), sorted(names))
    except RedisError:
        return None


@click.command()
@click.option("--since", metavar="TIME", help=f"First day: {TIME_FORMS}; default: seven days ago.")
@click.option("--until", metavar="TIME", help="End, exclusive; same forms; default: the last midnight.")
@click.option(
    "--tolerance",
    metavar="PERCENT",
    type=NumberOption(0, 100, whole=False),
    default=1.0,
    show_default=True,
    help="How much tokens of a kind, or dollars, of a day and a model may differ.",
)
@click.option(
    "--route", "routes", multiple=True, metavar="ID", help="Compare these routes; default: Anthropic API keys."
)
@click.option("--api-key", "keys", multiple=True, metavar="ID", help="The proxy's API keys (apikey_...); default: all.")
@click.option(
    "--workspace", "workspaces", multiple=True, metavar="ID", help="Their workspaces, or `default`; default: all."
)
@json_option
def reconcile(
    since: str | None,
    until: str | None,
    tolerance: float,
    routes: tuple[str, ...],
    keys: tuple[str, ...],
    workspaces: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Compare the ledger with Anthropic's usage and cost reports, by day and model; exit code 1 above the tolerance.

    Needs ANTHROPIC_ADMIN_KEY, an admin key of the organization, which is used for nothing else. Subscriptions, other
    providers and clients' own keys are not on that invoice. Days are UTC; exit code 2 means that nothing was compared.
    """
    try:
        period = days_of(since, until, datetime.now(UTC))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with errors_as_not_compared():
        access = load_for_invoice()
        if not access.admin_key:
            raise click.ClickException(f"ANTHROPIC_ADMIN_KEY is not set; {CREATE_KEY}")
        scope = Scope(routes or access.routes, keys, workspaces)
        with archive_of(load_for_workers()) as archive:
            usage = usage_by_route(archive, period)
        found = compare(read_invoice(access, period), usage, period, scope, tolerance)
    if as_json:
        echo_json(comparison_json(found))
    else:
        show_comparison(found, SafeConsole())
    if not found.ok:
        raise click.exceptions.Exit(1)


def read_invoice(access: InvoiceSettings, period: Period) -> Invoice:
    """Read both reports. Raises InvoiceError."""
    screen = SafeConsole(stderr=True)
    days = (period.until - period.since).days
    api = AdminApi(access, partial(screen.print, soft_wrap=True))
    try:
        with progress_of(screen, "usage and cost reports", 0, 2 * days) as progress:
            usage = list(with_progress(api.usage(period), 0, progress))
            return invoice_of(usage, with_progress(api.costs(period), days, progress))
    finally:
        api.close()


class NotCompared(click.ClickException):
    """Nothing was compared; another exit code than that of a difference."""

    exit_code = 2


@contextmanager
def errors_as_not_compared() -> Iterator[None]:
    """Turn all errors into error messages of `reconcile`."""
    try:
        yield
    except (InvoiceError, SettingsError) as error:
        raise NotCompared(str(error)) from None
    except click.ClickException as error:
        raise NotCompared(error.message) from None


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def backup(file: Path, *, as_json: bool) -> None:
    """Write the whole ledger to FILE, as of one moment, while traffic goes on."""
    settings = load_for_workers()
    with errors_as_messages(settings), connect(direct_postgres_of(settings)) as connection:
        expected = expected_rows(connection)
        with progress_of(SafeConsole(stderr=True), f"backup {file.name}", 0, expected, lines=True) as progress:
            manifest = back_up(connection, file, progress)
    size = file.stat().st_size
    if as_json:
        echo_json({"file": str(file), "bytes": size, "manifest": manifest})
    else:
        show_backup(manifest, f"{file}: {size:,} bytes", SafeConsole())


@click.command("restore")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--replace", is_flag=True, help="Replace a ledger that has events.")
@json_option
def restore_ledger(file: Path, *, replace: bool, as_json: bool) -> None:
    """Restore a backup, fold what Redis has since, and verify the ledger; exit code 1 if anything differs."""
    settings, screen = load_for_workers(), SafeConsole(stderr=True)
    with errors_as_messages(settings), Backup(file) as saved, connect(direct_postgres_of(settings)) as connection:
        manifest = saved.manifest
        with progress_of(screen, f"restore {file.name}", 0, manifest.rows, lines=True) as progress:
            restore(connection, saved, progress, replace=replace)
    gaps = catch_up(settings, manifest)
    with archive_of(settings) as archive:
        reports = [verify(archive, stream) for stream in archive.streams()]
    ok = all(report.ok for report in reports)
    if as_json:
        found = {"ok": ok, "manifest": manifest, "redis_told": gaps is not None, "gaps": gaps or [], "streams": reports}
        echo_json(found)
    else:
        show_backup(manifest, f"{file} is restored{NOT_PUBLISHED if gaps is None else ''}", SafeConsole())
        show_gaps(gaps or [], SafeConsole())
        show_verified(reports, SafeConsole(soft_wrap=False))
    if not ok:
        raise click.exceptions.Exit(1)


def catch_up(settings: Settings, manifest: Manifest) -> list[Gap] | None:
    """Fold what Redis has, with or without workers, and publish it. Returns what is missing; None without Redis."""
    url = redis_url_of(settings)
    if not url:
        return None
    try:
        with open_redis(url) as redis:
            gaps = gaps_of(redis, manifest.streams)
            streams = {name.decode() for name in redis.smembers(wire.STREAMS_KEY)}
        for stream in sorted(streams.union(place.stream for place in manifest.streams)):
            run_until_done(settings, stream, partial(project_next, stream=stream))
    except (RedisError, click.ClickException):
        return None
    return gaps


def project_next(projector: Projector, stream: str) -> Projected | None:
    """Fold the stream's next batch; a step for `in_turn`."""
    return projector.project(stream)


@contextmanager
def archive_of(settings: Settings) -> Iterator[Archive]:
    """Open the ledger of the settings or of a running `ccproxy up`; errors of Postgres end the command."""
    postgres = direct_postgres_of(settings)
    with errors_as_messages(settings):
        check_schema(postgres)
        archive = open_archive(postgres)
        try:
            yield archive
        finally:
            archive.close()


@contextmanager
def errors_as_messages(settings: Settings) -> Iterator[None]:
    """Turn errors of Postgres and of backups, and states of newer workers, into error messages of the command."""
    try:
        yield
    except psycopg.Error as error:
        variable = "DATABASE_DIRECT_URL" if settings.database_direct_url else "DATABASE_URL"
        raise click.ClickException(trouble_words(error, direct_postgres_of(settings), variable)) from None
    except (SchemaError, BackupError, wire.NewerState) as error:
        raise click.ClickException(" ".join(str(error).split())) from None
    except NotEmpty as error:
        raise click.ClickException(f"{error}; nothing was changed. `--replace` overwrites it with the backup") from None


def redis_error(error: RedisError, url: str, more: str = "") -> click.ClickException:
    """Return the error of a command that can't use Redis: what is wrong and its mend, in the words of `check`."""
    return click.ClickException(f"Redis at {failure_words(error, place_of(url), 'REDIS_URL')}{more}")


def selected_streams(archive: Archive, stream: str | None) -> list[str]:
    """Return the requested stream, or all streams."""
    streams = archive.streams()
    if stream is None:
        return streams
    if stream not in streams:
        raise click.ClickException(f"no stream {stream!r}; available: {', '.join(streams) or 'none yet'}")
    return [stream]


def fold_dead_letters(settings: Settings, stream: str) -> Projected:
    """Fold a stream's dead letters, as a worker does, and publish the result."""
    return run_until_done(settings, stream, lambda projector: projector.retry_dead_letters(stream))


def publish_current(settings: Settings, stream: str) -> bool:
    """Publish a stream's current state; False if Redis is unavailable."""
    url = redis_url_of(settings)
    if not url:
        return False
    try:
        run_until_done(settings, stream, lambda projector: projector.load_ledger(stream))
    except click.ClickException:
        return False
    return True


def add_owner(redis: Redis, one: Unowned) -> bool:
    """Add the owner to a resource in the Redis index, keeping its expiry; True if it had none."""
    key, without = wire.resource_key(one.resource_id), f"{one.stream} {one.event_id}"
    if redis.get(key) != without.encode():
        return False
    return bool(redis.set(key, f"{without} {one.owner}", xx=True, keepttl=True))


def run_until_done(settings: Settings, stream: str, step: Callable[[Projector], Projected | None]) -> Projected:
    """Run a step on a stream whenever no worker holds it, until nothing is left to do, and publish the result."""
    postgres, url = direct_postgres_of(settings), required(redis_url_of(settings), "REDIS_URL")
    redis, store = open_redis(url), Store(postgres)
    try:
        return turns(Projector(store, Streams(redis)), Publisher(redis, Event()), step, MAX_TRIES)
    except RedisError as error:
        raise redis_error(error, url) from None
    except StreamBusy:
        raise click.ClickException(f"{stream}: workers are still busy with it; try again") from None
    finally:
        store.close()
        redis.close()
