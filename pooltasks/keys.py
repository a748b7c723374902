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
| ``pooltasks:pool:<name>:totals``      | hash   | counter → what the pool ever  | a day after   |
|                                       |        | did; times in µs              | the last      |
|                                       |        |                               | sample        |
| ``pooltasks:pool:<name>:by_name``     | hash   | ``count:<outcome>:<name>`` →  | the same      |
|                                       |        | the same by operation;        |               |
|                                       |        | ``order:<name>``, ``names``:  |               |
|                                       |        | which have a name             |               |
| ``pooltasks:pool:<name>:counted:<n>`` | string | JSON: what the last sample of | one hour      |
|                                       |        | node ``<n>`` added to them    | after it      |
| ``pooltasks:pool:<name>:operations:`` | stream | what node ``<n>`` did, by     | the same      |
| ``<n>``                               |        | operation                     |               |
| ``pooltasks:pool:<name>:optimizer``   | hash   | ``state``: what the optimizer | a week after  |
|                                       |        | remembers (JSON); ``token``:  | the last      |
|                                       |        | the last fencing token        | decision      |
| ``pooltasks:pool:<name>:decisions``   | stream | the optimizer's decisions of  | an hour after |
|                                       |        | an hour, a JSON object each   | the last one  |
| ``pooltasks:pool:<name>:hosts``       | list   | an element for each node that | a day after   |
|                                       |        | the pool needs: its length is | the last      |
|                                       |        | for external scalers          | decision      |
| ``pooltasks:pool:<name>:lock``        | string | fencing token of the          | 1.5 s         |
|                                       |        | optimizer that decides now    |               |
| ``pooltasks:pool:<name>:paused``      | string | present while the optimizer   | until the     |
|                                       |        | only watches                  | pause ends    |
| ``pooltasks:pool:<name>:audit``       | stream | what operators did to the     | 90 days after |
|                                       |        | pool in the dashboard, the    | the last      |
|                                       |        | last 1,000 actions            | action        |
| ``pooltasks:submission:<id>``         | string | number of the last chunk that | an hour after |
|                                       |        | was accepted                  | it            |
| ``pooltasks:leases``                  | zset   | node identity → server time   | a day after   |
|                                       |        | in ms when its lease runs out | the last one  |
| ``pooltasks:unacked:<identity>``      | hash   | reservation id → message,     | until done or |
|                                       |        | exchange and routing key      | put back      |
| ``pooltasks:dead:<queue>``            | hash   | id → dead letter as JSON      | until dropped |
| ``pooltasks:dead:<queue>:messages``   | hash   | id → its original message     | until dropped |

Queues are kombu's own lists, named here because pools are addressed by them.
Every other key begins with ``pooltasks:``; all but unacked operations and dead
letters have a time to live. Where the deployment has a key prefix, it stands
before all of them; the clients of :mod:`pooltasks.broker.client` put it there.
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


LEASES = f"{PREFIX}leases"
"""Leases of the nodes: identity to the server time in ms at which each runs out."""


def submission(submission_id: str) -> str:
    """Return the counter of the accepted chunks of a submission."""
    return f"{PREFIX}submission:{submission_id}"


def unacked(identity: str) -> str:
    """Return the hash of what the node ``identity`` has reserved."""
    return f"{PREFIX}unacked:{identity}"


def alive(identity: str) -> str:
    """Return the channel to which the node ``identity`` is subscribed while it lives."""
    return f"{PREFIX}alive:{identity}"


def dead_letters(queue_name: str) -> str:
    """Return the hash of the dead letters of a queue."""
    return f"{PREFIX}dead:{queue_name}"


def dead_messages(queue_name: str) -> str:
    """Return the hash of the original messages of a queue's dead letters."""
    return f"{PREFIX}dead:{queue_name}:messages"


def pool_nodes(pool: str) -> str:
    """Return the sorted set of the nodes that wrote samples of ``pool``."""
    return f"{PREFIX}pool:{pool}:nodes"


def node_samples(pool: str, node: str) -> str:
    """Return the stream of a node's samples."""
    return f"{PREFIX}pool:{pool}:samples:{node}"


def pool_totals(pool: str) -> str:
    """Return the hash of what a pool ever did."""
    return f"{PREFIX}pool:{pool}:totals"


def node_counted(pool: str, node: str) -> str:
    """Return the string that holds what a node's last sample added to the totals."""
    return f"{PREFIX}pool:{pool}:counted:{node}"


def optimizer(pool: str) -> str:
    """Return the hash of what the optimizer remembers of ``pool``."""
    return f"{PREFIX}pool:{pool}:optimizer"


def optimizer_lock(pool: str) -> str:
    """Return the lock of the optimizer that decides for ``pool`` now."""
    return f"{PREFIX}pool:{pool}:lock"


def optimizer_paused(pool: str) -> str:
    """Return the key that exists while the optimizer of ``pool`` is paused."""
    return f"{PREFIX}pool:{pool}:paused"


def decisions(pool: str) -> str:
    """Return the stream of the optimizer's decisions on ``pool``."""
    return f"{PREFIX}pool:{pool}:decisions"


def hosts_wanted(pool: str) -> str:
    """Return the list that has an element for each node that ``pool`` needs."""
    return f"{PREFIX}pool:{pool}:hosts"


def pool_audit(pool: str) -> str:
    """Return the stream of what operators did to a pool."""
    return f"{PREFIX}pool:{pool}:audit"


def pool_totals_by_name(pool: str) -> str:
    """Return the hash of what each operation of a pool ever did."""
    return f"{PREFIX}pool:{pool}:by_name"


def node_operations(pool: str, node: str) -> str:
    """Return the stream of what a node did, by operation."""
    return f"{PREFIX}pool:{pool}:operations:{node}"
