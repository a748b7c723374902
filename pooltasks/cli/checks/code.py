"""The code of the pools: modules, operations, schedule, and the warm-up, run once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pooltasks import keys
from pooltasks.app import import_operations, settings_of
from pooltasks.cli.checks.finding import Finding, error, ok
from pooltasks.cli.faults import place_of
from pooltasks.cli.rehearsal import rehearse
from pooltasks.counted import counted
from pooltasks.errors import ConfigurationError
from pooltasks.keys import CONTROL_POOL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery


def check_pool(app: Celery, pool: str, *, warm_up: bool) -> Iterator[Finding]:
    """Import the modules of a pool, and run its warm-up once if ``warm_up`` says so."""
    queue = keys.queue(pool)
    try:
        import_operations(app, pool)
    except ConfigurationError as fault:
        place = place_of(fault.__cause__) if fault.__cause__ else None
        yield error(
            queue,
            f"{fault}{f' Raised in {place}.' if place else ''}",
            f"Mend the module, or correct [pools.{pool}].",
        )
        return
    yield ok(queue, "its operations can be imported")
    commands = settings_of(app).pool_settings(pool).warmup.commands
    if not commands or not warm_up:
        return
    failure = rehearse(app, pool)
    if failure is None:
        yield ok(queue, f"its warm-up succeeds ({counted(len(commands), 'command')})")
    else:
        yield error(
            queue,
            f"its warm-up fails in {failure}",
            "Mend that before you deploy: with it, no worker takes an operation.",
        )


def check_operations(app: Celery) -> Iterator[Finding]:
    """Look for operations of a pool that is not configured."""
    pools = settings_of(app).pools
    there = ", ".join(pools) or "none"
    for name, task in sorted(app.tasks.items()):
        pool = getattr(task, "pool", None)
        if pool and pool not in pools and pool != CONTROL_POOL:
            yield error(
                name,
                f"@operation(pool={pool!r}): there is no pool {pool!r}. Pools: {there}.",
                f"Add [pools.{pool}] to the TOML file, or correct the name in the code.",
            )


def check_schedule(app: Celery) -> Iterator[Finding]:
    """Look for entries of beat's schedule that nothing can run."""
    for name, entry in sorted(app.conf.beat_schedule.items()):
        task = entry.get("task") if isinstance(entry, dict) else entry.task
        if task not in app.tasks:
            yield error(
                "beat",
                f"the entry {name!r} of its schedule names {task}, which is no operation",
                "Correct the name in beat_schedule, or import the module that has it.",
            )
