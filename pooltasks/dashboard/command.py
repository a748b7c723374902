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
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryCommand
from kombu.exceptions import OperationalError

from pooltasks.errors import MissingExtraError

if TYPE_CHECKING:
    from celery.bin.base import CLIContext


@click.command(cls=CeleryCommand, context_settings={"ignore_unknown_options": True})
@click.option(
    "--metrics-login",
    is_flag=True,
    envvar="FLOWER_METRICS_LOGIN",
    help="Ask for the login at /metrics too. Prometheus then needs its basic_auth.",
)
@click.argument("flower_options", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def dashboard(
    context: click.Context, *, metrics_login: bool, flower_options: tuple[str, ...]
) -> None:
    """Run Flower with the pages of the pools.

    Takes Flower's options and environment variables (``--port``,
    ``--basic-auth``, ``--read-only``, ``--url-prefix`` …). Celery's task events, which fill
    Flower's own lists of tasks, are off unless ``--enable-events`` is given.
    """
    try:
        require_extra()
    except MissingExtraError as error:
        raise click.ClickException(str(error)) from error
    # The steps of Flower's own command, with our application in place of Flower's.
    from flower import command  # noqa: PLC0415  an optional dependency
    from flower.options import options  # noqa: PLC0415
    from flower.urls import settings  # noqa: PLC0415

    from pooltasks.dashboard.app import PoolFlower  # noqa: PLC0415  it imports Flower
    from pooltasks.metrics.prometheus import register  # noqa: PLC0415  needs what Flower needs

    celery: CLIContext = context.obj
    command.warn_about_celery_args_used_in_flower_command(context, flower_options)
    # Task events of the whole fleet cost its nodes and workers half of their processor time
    # again. The pages of the pools need none; Flower's own pages need --enable-events.
    options.enable_events = False
    command.apply_env_options()
    command.apply_options(sys.argv[0], flower_options)
    command.extract_settings()
    command.setup_logging()
    logging.getLogger("flower.inspector").addFilter(is_news)
    if metrics_login and not (options.basic_auth or options.auth):
        raise click.UsageError("--metrics-login needs a login: --basic-auth or --auth.")
    application = PoolFlower(
        capp=celery.app, options=options, metrics_login=metrics_login, **settings
    )
    register(celery.app)  # Flower's /metrics is the default registry
    gc.freeze()  # the collector then skips these objects while an hour of samples is read
    # Flower's handler raises SystemExit, which Python drops if it strikes in a finalizer.
    signal.signal(signal.SIGTERM, lambda *_: _stop_soon(application.io_loop))
    try:
        port = application.start_http_server()
    except OSError as error:
        where = options.unix_socket or f"{options.address or 'all addresses'} port {options.port}"
        say = f"The dashboard cannot listen on {where}: {error.strerror}. Choose another: --port."
        application.stop()
        raise click.ClickException(say) from error
    if not celery.quiet:
        command.print_banner(celery.app, "ssl_options" in settings, port)
    with suppress(KeyboardInterrupt, SystemExit):
        application.start()
    if options.enable_events:
        # Nodes would go on sending them for ever.
        with suppress(OperationalError):  # then nobody can be told
            celery.app.control.disable_events()
    application.stop()
    logging.shutdown()
    # Not by returning: without the server, a thread of Flower's executor that asks
    # nodes waits for it for ever, and Python waits for the thread.
    os._exit(0)


NO_ANSWER = "Inspect method %s failed"


def is_news(record: logging.LogRecord) -> bool:
    """Return whether a record of Flower's inspector is worth a line.

    Flower asks four questions at its start and warns of each that no node answers. In a
    deployment that starts there is no node yet, and the pages show the pools without one.
    """
    return record.msg != NO_ANSWER


def _stop_soon(loop: Any) -> None:
    loop.add_callback_from_signal(loop.stop)


def is_installed() -> bool:
    """Return whether the packages of the dashboard are installed."""
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
