"""``pool drain``: nodes finish their operations and take no more."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from pooltasks.cli.nodes import ask, statuses
from pooltasks.cli.options import json_option

if TYPE_CHECKING:
    from celery import Celery
    from celery.bin.base import CLIContext

_LOOK_AGAIN = 0.1


@click.command(short_help="Stop pools or nodes, and wait until they have no operations.")
@click.argument("targets", nargs=-1, required=True)
@click.option("--undo", is_flag=True, help="Take up work again.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait until empty.")
@json_option
@click.pass_obj
def drain(
    context: CLIContext, targets: tuple[str, ...], undo: bool, timeout: float, as_json: bool
) -> None:
    """Stop TARGETS, pools or nodes (NAME@HOST), from taking operations; wait until they have none.

    The operations that a node has reserved run to their end. One that is not due
    goes back to the queue when the node stops. --undo has the nodes take operations
    again. Exits with 1 if a node still has operations after --timeout, or none answers.
    """
    stop_taking(context.app, targets, undo=undo, timeout=timeout, as_json=as_json)


@click.command(short_help="Stop pools or nodes from taking operations.")
@click.argument("targets", nargs=-1, required=True)
@click.option("--wait", is_flag=True, help="Wait until they have no operations, as drain does.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait at most.")
@json_option
@click.pass_obj
def quiet(
    context: CLIContext, targets: tuple[str, ...], wait: bool, timeout: float, as_json: bool
) -> None:
    """Stop TARGETS, pools or nodes (NAME@HOST), from taking operations.

    Returns at once: the operations that they have reserved run on. Undo it: resume.
    """
    stop_taking(context.app, targets, timeout=timeout if wait else None, as_json=as_json)


@click.command(short_help="End quiet or drain.")
@click.argument("targets", nargs=-1, required=True)
@json_option
@click.pass_obj
def resume(context: CLIContext, targets: tuple[str, ...], as_json: bool) -> None:
    """End quiet or drain: TARGETS, pools or nodes (NAME@HOST), take operations again."""
    stop_taking(context.app, targets, undo=True, timeout=None, as_json=as_json)


def stop_taking(
    app: Celery,
    targets: tuple[str, ...],
    *,
    undo: bool = False,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Tell nodes to take no operations, or to take them again, and print their states.

    Args:
        app: The application.
        targets: Pools and nodes.
        undo: Whether they take operations again.
        timeout: Seconds to wait until they have none; None does not wait.
        as_json: Whether to print JSON.

    Raises:
        click.ClickException: A node does not answer.
        SystemExit: With 1, if one still has operations after ``timeout``.
    """
    pools = tuple(target for target in targets if "@" not in target)
    found = statuses(app, pools) if pools else {}
    nodes = [*found, *(target for target in targets if "@" in target)]
    replies = ask(app, "pool_drain", nodes, undo=undo) if nodes else {}
    waits = timeout is not None and not undo
    deadline = time.monotonic() + (timeout or 0.0)
    while waits and time.monotonic() < deadline:
        waiting = [name for name, reply in replies.items() if not reply["empty"]]
        if not waiting:
            break
        time.sleep(_LOOK_AGAIN)  # between questions to nodes that still work
        replies |= ask(app, "pool_status", waiting)
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
    if waits and not all(state["empty"] for state in states.values()):
        raise SystemExit(1)


def _in_words(*, undo: bool, reserved: int) -> str:
    if undo:
        return "takes operations again"
    if not reserved:
        return "drained: it takes no operations and has none"
    return f"draining: it still has {reserved} operation{'' if reserved == 1 else 's'}"
