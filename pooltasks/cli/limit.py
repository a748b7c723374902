"""``pool limit``: what limits hold back, and changing them while the pool runs."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from pooltasks.broker.client import redis_client
from pooltasks.broker.limit_store import Limit, LimitStore
from pooltasks.broker.limiting import HIGHEST_WEIGHT, LOWEST_WEIGHT, bursts, per_second
from pooltasks.cli.options import json_option
from pooltasks.dashboard.audit import AuditLog, Done
from pooltasks.pools import Pool

if TYPE_CHECKING:
    from celery.bin.base import CLIContext

    from pooltasks.broker.limit_store import KeyState

_NONE = "none"


class _Concurrency(click.ParamType[Any]):
    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return a number, or "none"."""
        if value == _NONE or (str(value).isdecimal() and int(value) >= 0):
            return value if value == _NONE else int(value)
        return self.fail(f"{value!r} is neither a number from 0 on nor {_NONE}.", param, ctx)


@click.command(short_help="Show or change the limits by key, and their weights.")
@click.argument("pool")
@click.argument("operation", required=False)
@click.argument("key", required=False, metavar="[KEY=VALUE]")
@click.option("--concurrency", type=_Concurrency(), help="How many run at once, or none.")
@click.option("--rate", help="How many start, as 100/s, 90/m or 5/h, or none.")
@click.option(
    "--weight",
    type=click.FloatRange(LOWEST_WEIGHT, HIGHEST_WEIGHT),
    help="Turns of a key, where another one has one; for fair operations.",
)
@click.option("--reset", is_flag=True, help="Have the limit of the code again.")
@json_option
@click.pass_obj
def limit(
    context: CLIContext,
    pool: str,
    operation: str | None,
    key: str | None,
    *,
    concurrency: int | str | None,
    rate: str | None,
    weight: float | None,
    reset: bool,
    as_json: bool,
) -> None:
    """Show or change the limits of POOL's operations, and the weights of their turns.

    Without OPERATION: each key that has something to run, the most waiting first. WAITING
    is what waits for its turn, HELD what limits hold back. With it, a limit is changed
    for all of its keys, or for one: tenant=acme. A change holds at once, on all nodes,
    until --reset; what runs is not stopped. --concurrency 0 has a key wait.
    """
    store = LimitStore(redis_client(context.app), Pool(pool, context.app).name)
    changes = reset or any(each is not None for each in (concurrency, rate, weight))
    if operation is None:
        if changes:
            raise click.UsageError("Name the operation whose limit is to be changed.")
        _show(store.states(), as_json=as_json)
        return
    known = store.operations()
    if operation not in known:
        raise click.BadParameter(
            f"{operation!r} has no limits in this pool; those that have: "
            f"{', '.join(known) or 'none, or no node has started'}.",
            param_hint="OPERATION",
        )
    value = key.partition("=")[2] if key else None
    if key and "=" not in key:
        raise click.BadParameter(f"{key!r} is not KEY=VALUE, as tenant=acme.", param_hint="KEY")
    if changes:
        before = store.limit(operation, value)
        if weight is not None and before.weight is None:
            raise click.BadParameter(
                f"{operation} is not fair: only keys that take turns have weights.",
                param_hint="--weight",
            )
        its = None if reset else _changed(before, concurrency, rate, weight)
        store.change(operation, value, its)
        _note(context, pool, operation, key, its)
    now = store.limit(operation, value)
    if as_json:
        click.echo(json.dumps({"operation": operation, "key": value, **asdict(now)}, indent=2))
    else:
        click.echo(f"{operation}{f' {key}' if key else ''}: {now.in_words()}")


def _changed(
    before: Limit, concurrency: int | str | None, rate: str | None, weight: float | None
) -> Limit:
    if concurrency is not None:
        before = replace(before, concurrency=None if concurrency == _NONE else int(concurrency))
    if rate == _NONE:
        before = replace(before, rate=None, burst=None)
    elif rate is not None:
        number = per_second(rate)
        before = replace(before, rate=number, burst=bursts(number))
    if weight is not None:
        before = replace(before, weight=weight)
    return before


def _note(
    context: CLIContext, pool: str, operation: str, key: str | None, its: Limit | None
) -> None:
    user = os.environ.get("USER") or str(os.getuid())
    arguments = {"operation": operation, "key": key}
    outcome = "the limit of the code" if its is None else its.in_words()
    AuditLog(redis_client(context.app), pool).add(
        Done(user, "the command line", "limit", arguments, outcome, succeeded=True)
    )


def _show(states: list[KeyState], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([asdict(state) for state in states], indent=2))
        return
    row = "{:<32} {:<24} {:>7} {:>7} {:>7} {:>7}  {}{}"
    click.echo(row.format("OPERATION", "KEY", "RUNNING", "WAITING", "SINCE", "HELD", "LIMIT", ""))
    for its in states:
        since = f"{its.age:.1f}s" if its.waiting else "-"
        changed = " (changed)" if its.is_changed else ""
        cells = (its.operation, its.key, its.running, its.waiting, since, its.held)
        click.echo(row.format(*cells, its.limit.in_words(), changed))
