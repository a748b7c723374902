"""``pooltasks completion``: the script with which a shell completes the commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes these commands in SHELL.

    bash: pooltasks completion bash >> ~/.bashrc. zsh: the same with ~/.zshrc. fish:
    pooltasks completion fish > ~/.config/fish/completions/pooltasks.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click cannot complete in {shell}.")
    click.echo(kind(context.find_root().command, {}, "pooltasks", "_POOLTASKS_COMPLETE").source())
