"""``dashboard``: Flower with the pages of the pools.

Celery loads this module at every command, through its entry point
``celery.commands``: it stays light.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click
from celery.bin.base import CeleryCommand

from pooltasks.errors import MissingExtraError

if TYPE_CHECKING:
    from celery.bin.base import CLIContext


@click.command(cls=CeleryCommand, context_settings={"ignore_unknown_options": True})
@click.argument("flower_options", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def dashboard(context: click.Context, flower_options: tuple[str, ...]) -> None:
    """Run Flower with the pages of the pools.

    Takes Flower's options and environment variables (``--port``,
    ``--basic-auth``, ``--read-only``, ``--url-prefix`` …).
    """
    try:
        require_extra()
    except MissingExtraError as error:
        raise click.ClickException(str(error)) from error
    # What Flower's own command does, with our application in place of Flower's.
    from flower import command  # noqa: PLC0415  an optional dependency
    from flower.options import options  # noqa: PLC0415
    from flower.urls import settings  # noqa: PLC0415

    from pooltasks.dashboard.app import PoolFlower  # noqa: PLC0415  it imports Flower
    from pooltasks.metrics.prometheus import register  # noqa: PLC0415  needs what Flower needs

    celery: CLIContext = context.obj
    command.warn_about_celery_args_used_in_flower_command(context, flower_options)
    command.apply_env_options()
    command.apply_options(sys.argv[0], flower_options)
    command.extract_settings()
    command.setup_logging()
    application = PoolFlower(capp=celery.app, options=options, **settings)
    register(celery.app)  # Flower's /metrics is the default registry
    gc.freeze()  # what is here stays: an hour of samples is read without looking at it again
    signal.signal(signal.SIGTERM, command.sigterm_handler)
    port = application.start_http_server()
    if not celery.quiet:
        command.print_banner(celery.app, "ssl_options" in settings, port)
    with suppress(KeyboardInterrupt, SystemExit):
        application.start()
    application.stop()
    logging.shutdown()
    # Not by returning: without the server, a thread of Flower's executor that asks
    # nodes waits for it for ever, and Python waits for the thread.
    os._exit(0)


def is_installed() -> bool:
    """Return whether what the dashboard needs beyond pooltasks is installed."""
    return all(find_spec(package) for package in ("flower", "plotly"))


def require_extra() -> None:
    """Check that the dashboard can run.

    Raises:
        MissingExtraError: Flower or plotly is not installed.
    """
    if not is_installed():
        raise MissingExtraError(
            "The dashboard needs Flower and plotly. "
            "Install them with: pip install 'pooltasks[dashboard]'."
        )
