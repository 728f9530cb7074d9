"""The workers' commands. They join `ccproxy` as entry points, so that the proxy need not know them."""

import json
import logging
import sys
import time

import click
import psycopg

from service.settings import Settings, load
from workers.migrate import SchemaError, pending
from workers.migrate import migrate as apply_migrations
from workers.run import Process
from workers.store import connect

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "silent": logging.CRITICAL + 1,
}


class JsonLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line."""
        line = {"at_ms": int(record.created * 1000), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


@click.command()
def worker() -> None:
    """Fold events from Redis into Postgres until stopped."""
    settings = load(to_serve=False)
    open_log(settings)
    redis_url = needed(settings.redis_url, "REDIS_URL")
    database_url = needed(settings.database_url, "DATABASE_URL")
    Process(redis_url, settings.rq_redis_url or redis_url, database_url).run()


@click.command()
@click.option("--check", is_flag=True, help="Only say what is missing; exit code 1 when something is.")
def migrate(*, check: bool) -> None:
    """Bring the database's schema up to date."""
    settings = load(to_serve=False)
    try:
        with connect(needed(settings.database_url, "DATABASE_URL")) as connection:
            steps = pending(connection) if check else apply_migrations(connection)
    except (SchemaError, psycopg.Error) as error:
        raise click.ClickException(" ".join(str(error).split())) from None
    for step in steps:
        click.echo(f"migration.{'missing' if check else 'applied'} number={step.number:04} name={step.name}")
    if not steps:
        click.echo("schema.current")
    if check and steps:
        raise click.exceptions.Exit(1)


def needed(value: str | None, name: str) -> str:
    """A setting without which there is nothing to do."""
    if not value:
        raise click.ClickException(f"{name} is not set; set it, or use `ccproxy up`, which brings its own servers")
    return value


def open_log(settings: Settings) -> None:
    """Log to stderr as the settings say, in UTC."""
    formatter: logging.Formatter = JsonLines()
    if settings.log_format == "text":
        formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
        formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    log = logging.getLogger("ccproxy")
    log.handlers[:] = [handler]
    log.setLevel(LEVELS[settings.log_level])
    log.propagate = False
