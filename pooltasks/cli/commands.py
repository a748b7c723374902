"""Groups of commands: a command is imported when it is used, and fails with a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from kombu.exceptions import OperationalError
from kombu.utils.imports import symbol_by_name
from redis.exceptions import RedisError

from pooltasks.errors import PooltasksError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Commands(click.Group):
    """Commands that fail with a message: no mistake of a user shows a traceback.

    Args:
        places: Where each command is, by its name: ``module:attribute``.
    """

    def __init__(self, *args: Any, places: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands in order."""
        return sorted({*super().list_commands(ctx), *self._places})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, imported now; None if there is none of this name."""
        if cmd_name in self._places and cmd_name not in self.commands:
            self.add_command(symbol_by_name(self._places[cmd_name]), cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is named; click suggests one of those that are imported."""
        if self.get_command(ctx, args[0]) is None:
            for name in self._places:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that is named; say what is wrong if it fails for a known reason."""
        try:
            return super().invoke(ctx)
        except click.ClickException:
            raise  # it is a message already; ConfigurationError is one of them
        except (RedisError, OperationalError) as error:
            from pooltasks.cli.faults import server_fault

            raise click.ClickException(server_fault(ctx.obj.app, error)) from error
        except PooltasksError as error:
            raise click.ClickException(str(error)) from error
