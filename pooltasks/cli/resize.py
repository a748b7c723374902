"""``pool resize``: set how many workers serve a pool."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from pooltasks.cli.durations import duration, in_words
from pooltasks.cli.nodes import ask, statuses
from pooltasks.cli.options import json_option
from pooltasks.counted import counted
from pooltasks.pools import Pool
from pooltasks.remote import split

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery.bin.base import CLIContext

_FRESH = 10.0
"""Seconds, or ten of the optimizer's intervals, for which its last decision shows that it runs."""


@click.command()
@click.argument("pool")
@click.argument("size", type=click.IntRange(min=0))
@click.option("--spares", type=click.IntRange(min=0), help="Warm workers each node keeps beyond.")
@click.option(
    "--pause",
    callback=duration,
    metavar="DURATION",
    help="Pause the optimizer too, so that the size lasts: 30s, 10m, 1h.",
)
@json_option
@click.pass_obj
def resize(
    context: CLIContext,
    pool: str,
    size: int,
    *,
    spares: int | None,
    pause: float | None,
    as_json: bool,
) -> None:
    """Have SIZE workers serve POOL, split over its nodes.

    Each node stays within min_pool_size and max_pool_size; a size that they do
    not allow is refused before anything is changed. No operation is interrupted:
    a worker that is too many ends when it has finished. Exits with 1 if the nodes
    have another size afterwards, or none answers.
    """
    nodes = statuses(context.app, (pool,))
    if not nodes:
        raise click.ClickException(
            f"No node answers. Start one: celery -A {context.app.main or 'pooltasks'} worker "
            f"-Q pool.{pool}"
        )
    _refuse(pool, size, nodes)
    decisions = Pool(pool, context.app).decisions()
    if pause is not None:
        decisions.pause(pause)
    replies = {
        name: reply
        for name, share in split(size, nodes).items()
        for name, reply in ask(
            context.app, "pool_resize", [name], size=share, spares=spares
        ).items()
    }
    if as_json:
        click.echo(json.dumps(replies, indent=2))
    else:
        click.echo(f"{'NODE':<32} {'SIZE':>5} {'WARM':>5} {'WARMING':>8} {'SPARES':>7} {'BUSY':>5}")
        for name, node in sorted(replies.items()):
            click.echo(
                f"{name:<32} {node['size']:>5} {node['warm']:>5} {node['warming']:>8} "
                f"{node['spares']:>7} {node['busy']:>5}"
            )
    reached = sum(node["size"] for node in replies.values())
    if reached != size:
        silent = ", ".join(sorted(set(nodes) - set(replies))) or "none"
        raise click.ClickException(
            f"The pool has {counted(reached, 'worker')}, not {size}; "
            f"nodes that did not answer: {silent}. Look: pooltasks status {pool}"
        )
    if pause is not None:
        click.echo(
            f"The optimizer is paused for {in_words(pause)}. "
            f"End the pause: pooltasks optimize {pool} --resume",
            err=True,
        )
    elif decisions.paused() is None and _decides(pool, context):
        click.secho(
            "The optimizer of this pool runs and will set its own size within seconds. "
            f"Keep this one: pooltasks resize {pool} {size} --pause 10m",
            fg="yellow",
            err=True,
        )


def _refuse(pool: str, size: int, nodes: Mapping[str, Mapping[str, Any]]) -> None:
    low = sum(node["floor"] for node in nodes.values())
    high = sum(node["ceiling"] for node in nodes.values())
    if low <= size <= high:
        return
    count = "The node allows" if len(nodes) == 1 else f"The {len(nodes)} nodes allow"
    empty = f" To take no work: pooltasks drain {pool}." if size == 0 else ""
    raise click.BadParameter(
        f"{count} {low} to {high} workers (min_pool_size, max_pool_size); "
        f"nothing was changed.{empty}",
        param_hint="SIZE",
    )


def _decides(name: str, context: CLIContext) -> bool:
    """Return whether an optimizer has decided on the pool a moment ago, and acts."""
    pool = Pool(name, context.app)
    if not pool.settings.enable_optimizer:
        return False
    decision = pool.decisions().current()
    if decision is None or not decision.acting:
        return False
    patience = max(_FRESH, 10 * pool.settings.optimization_interval)
    return pool.metrics(1.0).at - decision.at < patience
