"""`ccproxy demo`: a demonstration without any key. Not here: its processes (`embedded.demo`)."""

import sys

import click


@click.command()
@click.option("--port", type=click.IntRange(1, 65_535), help="Port of the demo's proxy; default: a free one.")
def demo(port: int | None) -> None:
    """Run a demo without any key: fake providers, generated traffic, temporary servers."""
    from service.embedded.demo import run_demo

    sys.exit(run_demo(port))
