"""Exporter: an HTTP server for the metrics of this process's registry."""

from __future__ import annotations

import socket
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_metrics: WSGIApplication = make_wsgi_app()


def make_exporter(host: str, port: int) -> WSGIServer:
    """Return a server of ``/metrics`` and ``/healthcheck`` that listens already.

    Raises:
        OSError: It cannot listen there.
    """
    server = _Server6 if ":" in host else _Server
    return make_server(host, port, _answer, server, _Handler)


def _answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/metrics":
        return _metrics(environ, start_response)
    # The health of this process only. `pooltasks_up` tells whether the Redis server is
    # away, which is no reason to start the exporter again.
    status, body = ("200 OK", b"OK") if path == "/healthcheck" else ("404 Not Found", b"")
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 10.0  # seconds for a client to finish its request

    def log_message(self, *_: object) -> None:
        """Log nothing: there is a request every few seconds."""
