"""An application with controlled operations, for tests that need no node."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from node_session import Node

from pooltasks.app import Extension, PoolApp
from pooltasks.broker.limiting import is_marked
from pooltasks.broker.serialization import SERIALIZER
from pooltasks.broker.wire import pack
from pooltasks.settings import Settings
from pooltasks.task import Operation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pooltasks.broker.limiting import Limits
    from pooltasks.broker.uniqueness import Unique

QUEUE = "pool.code"


def make_app(url: str, **pool: Any) -> PoolApp:
    """Return an application whose pool ``code`` has these settings."""
    app = PoolApp("flow", set_as_current=False)
    app._extension = Extension(Settings.load(redis_url=url, pools={"code": pool}))
    return app


def make_operation(app: PoolApp, name: str = "jobs.run", **options: Any) -> Any:
    options = {"pool": "code", "serializer": SERIALIZER, **options}

    @app.task(base=Operation, shared=False, name=name, **options)
    def run(number: int = 0, note: str = "") -> int:  # noqa: ARG001  part of what makes the key
        return number

    return run._get_current_object()


def make_unique(app: PoolApp, unique: Unique, **options: Any) -> Any:
    return make_operation(app, unique=unique, **options)


def limited_node(url: str, name: str, limits: Limits, **options: Any) -> Node:
    """Return a node that has told the server of an operation's limits."""
    node = Node(url, QUEUE, limited=True, fair=limits.fair, operations=(name,), **options)
    node.session.send_until_done(
        pack(("HSET", node.names.limits, *sum(limits.fields(name).items(), ())))
    )
    node.turn_until(lambda: not node.session.side.is_owed(), "the answer")
    return node


def numbers(messages: Iterable[tuple[str, bytes]]) -> list[int]:
    """Return the first arguments of operations."""
    return [
        int(json.loads(m)["headers"]["argsrepr"].strip("()").split(",")[0]) for _, m in messages
    ]


def take(node: Node, room: int = 10) -> list[tuple[str, int]]:
    """Reserve, as the intake does; return reservation and number of each operation."""
    got = node.reserve(room)
    for reservation, message in got:
        if is_marked(message):
            node.reservations.controlled[reservation] = None
    return list(zip((each for each, _ in got), numbers(got), strict=True))


def end(node: Node, *reserved: tuple[str, int]) -> None:
    for reservation, _ in reserved:
        node.reservations.acknowledge(reservation)
