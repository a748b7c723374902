"""Every Redis key that pooltasks owns: type, content, lifetime.

| key                                   | type   | content                       | lifetime      |
|---------------------------------------|--------|-------------------------------|---------------|
| ``pool.<name>``                       | list   | waiting operations (stock     | until         |
|                                       |        | kombu messages)               | reserved      |
| ``pooltasks:session:<id>``            | hash   | ``created_at``; ``version``:  | session TTL,  |
|                                       |        | the last one given to one of  | renewed by    |
|                                       |        | its programs; ``data:<name>`` | use           |
|                                       |        | → a JSON value each           |               |
| ``pooltasks:session:<id>:programs``   | hash   | program id → version, space,  | session TTL,  |
|                                       |        | JSON record                   | renewed by    |
|                                       |        |                               | use           |
| ``pooltasks:session:<id>:statistics`` | hash   | ``<program id>:<counter>`` →  | session TTL,  |
|                                       |        | number                        | renewed by    |
|                                       |        |                               | use           |
| ``pooltasks:pool:<name>:nodes``       | zset   | node → server time of its last | one hour      |
|                                       |        | sample, in seconds            | after the     |
|                                       |        |                               | last sample   |
| ``pooltasks:pool:<name>:samples:<n>`` | stream | the samples of node ``<n>``,  | the same      |
|                                       |        | an hour of them               |               |

Queues are kombu's own lists, named here because pools are addressed by them.
Every other key begins with ``pooltasks:`` and has a time to live.
"""

from __future__ import annotations

PREFIX = "pooltasks:"
QUEUE_PREFIX = "pool."


def queue(pool: str) -> str:
    """Return the name of the queue, and so of the kombu list, of ``pool``."""
    return QUEUE_PREFIX + pool


def session(session_id: str) -> str:
    """Return the hash of a session's data; it exists as long as the session does."""
    return f"{PREFIX}session:{session_id}"


def session_programs(session_id: str) -> str:
    """Return the hash of a session's programs by program id."""
    return f"{PREFIX}session:{session_id}:programs"


def session_statistics(session_id: str) -> str:
    """Return the hash of the execution counters of a session's programs."""
    return f"{PREFIX}session:{session_id}:statistics"


def pool_nodes(pool: str) -> str:
    """Return the sorted set of the nodes that wrote samples of ``pool``."""
    return f"{PREFIX}pool:{pool}:nodes"


def node_samples(pool: str, node: str) -> str:
    """Return the stream of a node's samples."""
    return f"{PREFIX}pool:{pool}:samples:{node}"
