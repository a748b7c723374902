"""An application's pools, on a server of their own, for as long as a test session lasts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, Any

import pooltasks
from pooltasks import keys
from pooltasks.embedded import EmbeddedServer, tied_to_this_process
from pooltasks.errors import PooltasksError
from pooltasks.extension import Extension

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from celery import Celery

_START = 30.0
"""Seconds in which a node must be up."""
_STOP = 15.0
"""Seconds after which a node that was told to stop is killed."""


@contextmanager
def running(app: Celery, folder: Path) -> Iterator[None]:
    """Run a server and a node for each of the application's pools; the application uses them.

    Args:
        app: The application: an attribute of a module, so that nodes can import it.
        folder: The folder of the server's data and the logs of server and nodes.

    Raises:
        PooltasksError: A node did not start; the error has the end of its log.
    """
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer(folder))
        stack.enter_context(_pointed_at(app, server.url))
        env = {
            **os.environ,
            "CELERY_BROKER_URL": server.url,
            "CELERY_RESULT_BACKEND": server.url,
            "POOLTASKS_REDIS_URL": server.url,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        nodes = {}
        for pool in app.pooltasks.settings.pools:
            log = stack.enter_context((folder / f"{pool}.log").open("w+b"))
            nodes[pool] = _start(app, pool, env, log), log
            stack.callback(_stop, nodes[pool][0])
        for pool, (process, log) in nodes.items():
            _wait_for(pool, process, log)
        yield


def _start(app: Celery, pool: str, env: dict[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "celery", "-A", _name_of(app), "worker", "-l", "info"]
    command += ["-Q", keys.queue(pool), "-n", f"{pool}@test"]
    return subprocess.Popen(  # noqa: S603  our own command
        tied_to_this_process(command), env=env, stdout=log, stderr=log, start_new_session=True
    )


def _wait_for(pool: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    deadline = time.monotonic() + _START
    while True:
        log.seek(0)
        text = log.read().decode(errors="replace")
        if f"{pool}@test ready." in text:
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise PooltasksError(
                f"The node of the pool {pool!r} did not start. The end of its log:\n{text[-2000:]}"
            )
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _name_of(app: Celery) -> str:
    """Return the name by which ``celery -A`` finds the application.

    Raises:
        PooltasksError: It is no attribute of a module.
    """
    if app is pooltasks.app:
        return "pooltasks"
    for name, module in list(sys.modules.items()):
        for attribute, value in list(vars(module).items()) if module else ():
            if value is app and name != "__main__":
                return f"{name}:{attribute}"
    raise PooltasksError(
        f"{app!r} is no attribute of an imported module, so that a node cannot import it. "
        "Make it one."
    )


@contextmanager
def _pointed_at(app: Celery, url: str) -> Iterator[None]:
    """Have the application use another server."""
    before: Extension = app.pooltasks
    conf = app.conf
    # PoolApp's own backend and Celery's differ in their class only.
    backend = str(conf.result_backend or "")
    own = backend.partition("+")[0] if backend.startswith("pooltasks.") else ""
    names: dict[str, Any] = {"broker_url": url, "result_backend": f"{own}+{url}" if own else url}
    kept = {name: conf[name] for name in names}
    settings = before.settings.model_copy(
        update={"redis_url": type(before.settings.redis_url)(url)}
    )
    _use(app, Extension(settings), names)
    try:
        yield
    finally:
        app.pooltasks.close()
        _use(app, before, kept)


def _use(app: Celery, extension: Extension, configuration: dict[str, Any]) -> None:
    _forget_connections(app)
    app.conf.update(configuration)
    if isinstance(app, pooltasks.app.__class__):
        app._extension = extension  # noqa: SLF001  the library's own class
    else:
        app.pooltasks = extension


def _forget_connections(app: Celery) -> None:
    if app._pool is not None:  # noqa: SLF001  Celery's name
        app._pool.force_close_all()  # noqa: SLF001
        app._pool = None  # noqa: SLF001
    app.amqp._producer_pool = None  # noqa: SLF001
    app._backend_cache = None  # noqa: SLF001
    app._local.__dict__.clear()  # noqa: SLF001
