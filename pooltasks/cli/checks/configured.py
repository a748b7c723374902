"""Settings that are valid one by one, and do not go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pooltasks import keys
from pooltasks.cli.checks.finding import Finding, ok, warning
from pooltasks.counted import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pooltasks.pool_settings import PoolSettings
    from pooltasks.settings import Settings


def check_settings(settings: Settings, pools: tuple[str, ...]) -> Iterator[Finding]:
    """Look at the settings of the deployment and of ``pools``."""
    names = ", ".join(settings.pools)
    yield ok("settings", f"{counted(len(settings.pools), 'pool')}: {names or 'none'}")
    for pool in pools:
        yield from _check_pool(keys.queue(pool), settings.pool_settings(pool), settings)


def _check_pool(pool: str, its: PoolSettings, settings: Settings) -> Iterator[Finding]:
    wait = its.objective.wait_ms / 1000
    if its.checkout_timeout < wait:
        yield warning(
            pool,
            f"checkout_timeout ({its.checkout_timeout:g} s) is shorter than the wait that the "
            f"objective allows ({wait:g} s): operations expire that are not late",
            f"Set checkout_timeout to more than {wait:g}, or a shorter objective.",
        )
    longest = max((command.timeout or 0.0 for command in its.warmup.commands), default=0.0)
    longest = max(longest, its.warmup.command_timeout or 0.0)
    if longest > its.init_timeout:
        yield warning(
            pool,
            f"a command of the warm-up may take {longest:g} s, and the whole warm-up has "
            f"init_timeout ({its.init_timeout:g} s)",
            f"Set init_timeout to more than {longest:g}, or a shorter timeout of the command.",
        )
    if its.recycle_age is not None and its.recycle_age <= its.init_timeout:
        yield warning(
            pool,
            f"workers are replaced after recycle_age ({its.recycle_age:g} s), and may take "
            f"init_timeout ({its.init_timeout:g} s) to become warm",
            f"Set recycle_age to several times {its.init_timeout:g}.",
        )
    slots = its.max_pool_size * its.slots
    if its.max_queue is not None and its.max_queue < slots:
        yield warning(
            pool,
            f"max_queue ({its.max_queue}) is below the {slots} slots of one node: it refuses "
            "operations that the pool has room for",
            f"Set max_queue to at least {slots}.",
        )
    life = its.checkout_timeout + its.operation_timeout
    if settings.result_expires < life:
        yield warning(
            pool,
            f"a result is kept for result_expires ({settings.result_expires:g} s), and an "
            f"operation may take {life:g} s: its caller may find nothing",
            f"Set result_expires to at least {life:g}.",
        )
