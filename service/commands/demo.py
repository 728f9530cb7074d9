"""`ccproxy demo`: see it at work without any key. Not here: what is started."""

import sys

import click


@click.command()
@click.option("--port", type=click.IntRange(1, 65_535), help="Where the demo's proxy listens; default: a free port.")
def demo(port: int | None) -> None:
    """Show the proxy at work without any key: fake providers, made-up traffic, own servers."""
    from service.embedded.demo import run_demo

    sys.exit(run_demo(port))
