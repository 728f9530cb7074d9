"""`ccproxy completion`: shell completion of commands, options and routes."""

import click
from click.shell_completion import get_completion_class

from service.telemetry.terminal import echo_own

PROGRAM, VARIABLE = "ccproxy", "_CCPROXY_COMPLETE"
HOW = {
    "bash": 'eval "$(ccproxy completion bash)"  # in ~/.bashrc',
    "zsh": 'eval "$(ccproxy completion zsh)"  # in ~/.zshrc',
    "fish": "ccproxy completion fish | source  # in ~/.config/fish/config.fish",
}


@click.command(epilog="\b\n" + "\n".join(HOW.values()))
@click.argument("shell", type=click.Choice(list(HOW)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL."""
    maker = get_completion_class(shell)
    if maker is None:
        raise click.ClickException(f"click has no completion for {shell}")
    command = maker(context.find_root().command, {}, PROGRAM, VARIABLE)
    echo_own(command.source_template % command.source_vars())
