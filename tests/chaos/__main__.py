"""`python -m tests.chaos --seed 7 --actions 200 --seconds 150`: a run with its progress and its summary."""

import random
import sys
import tempfile
from pathlib import Path

import click

from tests.chaos.run import CLIENTS, run


@click.command()
@click.option("--seed", type=int, help="The plan and the load; without one, by chance.")
@click.option("--actions", default=200, show_default=True)
@click.option("--seconds", default=150.0, show_default=True, help="About how long they are spread over.")
@click.option("--clients", default=CLIENTS, show_default=True)
@click.option("--keep", is_flag=True, help="Leave the folder, with all logs, also when all is well.")
def main(seed: int | None, actions: int, seconds: float, clients: int, *, keep: bool) -> None:
    """Hurt everything, heal it, and hold the ledger against what the fakes received."""
    if seed is None:
        seed = random.randrange(1_000_000)  # noqa: S311 - any will do
    folder = Path(tempfile.mkdtemp(prefix="ccproxy-chaos-"))
    click.echo(f"seed {seed}, {actions} actions in about {seconds:.0f} s; logs in {folder}")
    report = run(folder, seed=seed, actions=actions, seconds=seconds, say=click.echo, clients=clients)
    click.echo("\n".join(report.lines))
    if report.tally.findings:
        click.echo("\n".join(("", *report.tally.findings)))
        click.echo(f"\nFAILED. Again: make chaos SEED={seed} ACTIONS={actions} SECONDS={seconds:.0f}; logs in {folder}")
        sys.exit(1)
    click.echo("exact")
    if not keep:
        import shutil

        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
