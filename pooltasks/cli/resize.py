"""``pool resize``: set how many workers serve a pool."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from pooltasks.cli.nodes import ask, statuses
from pooltasks.remote import split

if TYPE_CHECKING:
    from celery.bin.base import CLIContext


@click.command()
@click.argument("pool")
@click.argument("size", type=click.IntRange(min=0))
@click.option("--spares", type=click.IntRange(min=0), help="Warm workers each node keeps beyond.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def resize(context: CLIContext, pool: str, size: int, spares: int | None, as_json: bool) -> None:
    """Have SIZE workers serve POOL, split over its nodes.

    Each node stays within min_pool_size and max_pool_size. No operation is
    interrupted: what is too much ends when it has finished. An optimizer that
    runs may set another size soon. Exits with 1 if the nodes have another size
    afterwards, or none answers.
    """
    nodes = statuses(context.app, (pool,))
    if not nodes:
        raise click.ClickException(
            f"No node answers. Start one: celery -A pooltasks worker -Q pool.{pool}"
        )
    bounds = [(node["floor"], node["ceiling"]) for node in nodes.values()]
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
        low, high = (sum(bound) for bound in zip(*bounds, strict=True))
        raise click.ClickException(
            f"The pool has {reached} workers, not {size}; its {len(nodes)} nodes allow "
            f"{low} to {high}, and {len(replies)} of them answered."
        )
