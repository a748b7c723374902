"""A rehearsal of a pool's warm-up: its commands run once, in a process of their own."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

from pooltasks.app import settings_of

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from celery import Celery


def rehearse(app: Celery, pool: str) -> str | None:
    """Run the warm-up of a pool as a worker would; return its failure, None if there is none.

    Its modules have to be imported before. Everything that the commands load is gone
    with the process.

    Returns:
        The operation, its error, and the file and the line.
    """
    settings = settings_of(app).pool_settings(pool)
    fork = multiprocessing.get_context("fork")  # as a node forks its workers
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_run, args=(app, pool, sender), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(settings.init_timeout):
            return f"its time: it is not finished within init_timeout ({settings.init_timeout:g} s)"
        failure: str | None = receiver.recv()
    except EOFError:
        process.join()
        return f"a process that ended with code {process.exitcode} before the warm-up did"
    finally:
        process.kill()
        process.join()
        receiver.close()
    return failure


def _run(app: Celery, pool: str, sender: Connection) -> None:
    from pooltasks.node.worker.warmup import run_commands

    warm_up = settings_of(app).pool_settings(pool).warmup
    report = run_commands(app, warm_up.commands, warm_up.command_timeout)
    sender.send(report.failure)
