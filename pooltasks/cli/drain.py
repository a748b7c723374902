"""``pool drain``: have nodes finish what they have and take nothing more."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from pooltasks.cli.nodes import ask, statuses

if TYPE_CHECKING:
    from celery.bin.base import CLIContext

_LOOK_AGAIN = 0.1


@click.command()
@click.argument("targets", nargs=-1, required=True)
@click.option("--undo", is_flag=True, help="Take up work again.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait until empty.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def drain(
    context: CLIContext, targets: tuple[str, ...], undo: bool, timeout: float, as_json: bool
) -> None:
    """Have TARGETS, pools or nodes (NAME@HOST), reserve nothing more and tell when they are empty.

    What they have reserved runs to its end; what waits for its time goes back
    to the queue when the node stops. Exits with 1 if one is not empty in time,
    or none answers.
    """
    pools = tuple(target for target in targets if "@" not in target)
    found = statuses(context.app, pools) if pools else {}
    nodes = [*found, *(target for target in targets if "@" in target)]
    replies = ask(context.app, "pool_drain", nodes, undo=undo) if nodes else {}
    deadline = time.monotonic() + timeout
    while not undo and time.monotonic() < deadline:
        waiting = [name for name, reply in replies.items() if not reply["empty"]]
        if not waiting:
            break
        time.sleep(_LOOK_AGAIN)  # between questions to nodes that still work
        replies |= ask(context.app, "pool_status", waiting)
    states = {
        name: {key: reply[key] for key in ("draining", "reserved", "empty")}
        for name, reply in sorted(replies.items())
    }
    if as_json:
        click.echo(json.dumps(states, indent=2))
    else:
        for name, state in states.items():
            click.echo(f"{name}: {_in_words(undo=undo, reserved=state['reserved'])}")
    missing = set(nodes) - set(states)
    if missing or not nodes:
        raise click.ClickException(
            f"No answer from {', '.join(sorted(missing)) or 'any node of ' + ', '.join(pools)}."
        )
    if not undo and not all(state["empty"] for state in states.values()):
        raise SystemExit(1)


def _in_words(*, undo: bool, reserved: int) -> str:
    if undo:
        return "takes operations"
    return f"still has {reserved} operations" if reserved else "empty"
