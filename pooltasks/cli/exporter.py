"""``pool exporter``: the metrics of the pools for Prometheus, without the dashboard."""

from __future__ import annotations

import signal
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from celery.bin.base import CLIContext


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=9808,
    show_default=True,
    help="The port to listen on.",
)
@click.pass_obj
def exporter(context: CLIContext, host: str, port: int) -> None:
    """Serve /metrics for Prometheus, and /healthcheck, until Ctrl-C.

    The dashboard serves the same metrics. Several exporters show the same numbers.
    """
    if find_spec("prometheus_client") is None:
        raise click.ClickException(
            "The exporter needs prometheus-client. "
            "Install it with: pip install 'pooltasks[prometheus]'."
        )
    from pooltasks.metrics.exporter import make_exporter  # an optional dependency
    from pooltasks.metrics.prometheus import register

    register(context.app)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        server = make_exporter(host, port)
    except OSError as error:
        raise click.ClickException(
            f"The exporter cannot listen on {host} port {port}: {error.strerror}. "
            "Choose others: --host, --port."
        ) from error
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        click.echo(f"Serving /metrics on {host} port {port}")
        stop.wait()
        server.shutdown()
