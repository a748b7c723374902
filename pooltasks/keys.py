"""Every Redis key that pooltasks owns: type, content, lifetime.

Every key of a pool begins with ``pooltasks:{pool.<name>}:``. The braces are a hash
tag: on a server cluster the key lies in the slot of the list ``pool.<name>``, so a
cluster holds each pool in one piece, and one script may use all of its keys.

Of a pool, after ``pooltasks:{pool.<name>}:``

* ``pool.<name>`` (the whole key), a list: waiting operations, stock kombu messages; a pool with
  priorities has more lists, as kombu names them. Kept until reserved.
* ``unacked``, a hash: node identity → its epoch, ``stopping`` or ``dead``: who may have
  reserved messages. Kept until the node has left or is recovered.
* ``unacked:<identity>``, a hash: reservation id → place, state and message. Kept until done or
  put back.
* ``incoming:<identity>``, a list: the message that woke the node, until its reservation a
  moment later. Kept until reserved or put back.
* ``leases``, a zset: node identity → server time in ms at which its lease runs out. Kept a day
  after the last one.
* ``watchers``, a zset: identity of the nodes that watch the others → server time in ms at which
  that ends. Kept a minute after the last.
* ``delayed``, a zset: entry → server time in ms at which the operation is due. Kept until due.
* ``delayed:messages``, a hash: entry → place and message. Kept until due.
* ``dead``, a hash: id → dead letter as JSON. Kept until dropped; ``age`` of the pool's dead
  letters after the last one.
* ``dead:messages``, a hash: id → its original message. Kept as long.
* ``dead:order``, a zset: id → when it was set aside, in seconds. Kept as long.
* ``adopted``, a string: present once what an earlier version left is taken over. Kept 30 days
  after the last node's start.
* ``submission:<lane>``, a string: number of the last accepted chunk of a producer's lane. Kept
  an hour after it.
* ``unique:<digest>``, a string: ``<id>:<retries>`` of the operation that has the key of a unique
  operation. Kept until it ends or starts, or as long as the key is to be unique; at most until
  its deadline and longest run have passed.
* ``room``, a hash: ``at``, ``ended``, ``rate``: how many operations had ended when producers of a
  pool with ``max_queue`` looked, and how many a second did before; ``aside``: how many wait in the
  lists of a rollout. Kept a minute.
* ``flow:running``, a hash: key of operations with limits → how many of them are reserved; ``#`` →
  the last number of what was held. Kept.
* ``flow:held``, a zset: key, place and number of what limits hold back. Kept until it may go on.
* ``flow:messages``, a hash: the same → place and message. Kept as long.
* ``flow:limits``, a hash: ``code <operation>``, ``all <operation>``, ``key <key>`` → how many run
  at once, ms between two starts, how many start at once, the weight of its turns; ``weights
  <operation>`` → weights by key. Kept until changed, or until no node's code has the operation.
* ``flow:nodes``, a hash: node identity → the operations with limits that its code has. Kept until
  the node has left or is recovered; what none of them has is then deleted from ``flow:limits``.
* ``flow:rates``, a zset: key → server time in ms until which what may start is used up. Kept a day
  after the last.
* ``flow:resume``, a zset: key → server time in ms at which some that are held may go on. Kept until
  then.
* ``flow:waiting``, a hash: place, key and number of what waits for its turn → since when, in server
  seconds, and the message. Kept until it has its turn, as the next three.
* ``flow:lines``, a hash: place and key → the numbers of its first and its last; ``@`` and place →
  the tag of the last turn.
* ``flow:turns``, a zset: place and key → its tag: the lowest of a place is next.
* ``flow:ages``, a zset: place and key → since when its first waits, in server seconds.
* ``rollout``, a hash: two versions that run beside each other: ``from``, ``to``, ``state``,
  ``share``, what the judge counted; ``retired``: versions that take nothing. Kept while it goes
  on, and a week after its end or after the last node of such a version.
* ``stable:<place>`` and ``canary:<place>``, lists: waiting operations that are the one version's
  or the other's; only while there is a rollout. Kept until reserved.
* ``nodes``, a zset: node → server time of its last sample, in seconds. Kept an hour after the
  last sample.
* ``samples:<node>``, a stream: the samples of a node, an hour of them. Kept as long.
* ``operations:<node>``, a stream: what a node did, by operation. Kept as long.
* ``counted:<node>``, a string: JSON: what the last sample of a node added to the totals. Kept
  as long.
* ``totals``, a hash: counter → what the pool ever did; times in µs. Kept a day after the last
  sample.
* ``by_name``, a hash: ``count:<outcome>:<name>`` → the same by operation; ``order:<name>``,
  ``names``: which have a name. Kept as long.
* ``errors``, a hash: kind of error → what errors of it have in common, as JSON; the last 64
  kinds. Kept a week after the last error, as the next four.
* ``errors:counts``, a hash: ``failed:<kind>``, ``retried:<kind>``, ``first:<kind>``: how often,
  and since when; ``minute:<kind>``: minute of the clock, how often in it and in the one before.
* ``errors:order``, a zset: kind → when it was seen last, in seconds.
* ``errors:examples``, a hash: kind → one of these errors in full, as JSON.
* ``errors:classes``, a hash: operation and class of error → failures, the first 32; ``other``.
* ``errors:<node>``, a string: number of the last errors that a node told. Kept an hour.
* ``optimizer``, a hash: ``state``: what the optimizer remembers (JSON); ``token``: the last
  fencing token. Kept a week after the last decision.
* ``decisions``, a stream: the optimizer's decisions of an hour, a JSON object each. Kept an
  hour after the last one.
* ``hosts``, a list: an element for each node that the pool needs: its length is for external
  scalers. Kept a day after the last decision.
* ``announced``, a hash: source → server time until which its figures stand, a space, and the
  figures as JSON. Kept as long as the last of them stands, at most an hour.
* ``lock``, a string: fencing token of the optimizer that decides now. Kept 1.5 s.
* ``paused``, a string: present while the optimizer only watches. Kept until the pause ends.
* ``audit``, a stream: what operators did to the pool in the dashboard, the last 1,000 actions.
  Kept 90 days after the last action.

Of the whole deployment:

* ``pooltasks:session:<id>``, a hash: ``created_at``; ``version``: the last one given to one of
  its programs; ``data:<name>`` → a JSON value each. Kept for the
  session's TTL, renewed by use.
* ``pooltasks:session:<id>:programs``, a hash: program id → version, space, JSON record. Kept as
  long.
* ``pooltasks:session:<id>:statistics``, a hash: ``<program id>:<counter>`` → number. Kept as
  long.

Channels are named like keys: ``alive`` (every node of the pool is subscribed with two
connections), ``alive:<identity>`` (one node, the same), ``due`` (the nodes that watch; all, where
a rollout begins or ends).

Queues are kombu's own lists, named here because pools are addressed by them. All keys
but queues and what is reserved, delayed or a dead letter have a time to live. Where
the deployment has a key prefix, it stands before every key and, as it is part of the
queue's key, within the braces too; the clients of :mod:`pooltasks.broker.client` put
it there.
"""

from __future__ import annotations

PREFIX = "pooltasks:"
QUEUE_PREFIX = "pool."
CONTROL_POOL = "control"
"""The pool of pooltasks itself: a queue and a process of its own, so that the
optimizer never waits behind the backlog it is to cure."""


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


def of_queue(queue_name: str, name: str) -> str:
    """Return the key ``name`` of the pool whose queue is ``queue_name``."""
    return f"{PREFIX}{{{queue_name}}}:{name}"


def prefixed(prefix: str, key: str) -> str:
    """Return a key as the server knows it in a deployment with a key prefix.

    The prefix is part of the queue's key, so it stands within the hash tag too.
    """
    return prefix + key.replace(f"{PREFIX}{{", f"{PREFIX}{{{prefix}", 1)


def submission(queue_name: str, lane: str) -> str:
    """Return the counter of the accepted chunks of a producer's lane."""
    return of_queue(queue_name, f"submission:{lane}")


def unique(queue_name: str, digest: str) -> str:
    """Return the key that belongs to one call of a unique operation at a time."""
    return of_queue(queue_name, f"unique:{digest}")


def room(queue_name: str) -> str:
    """Return the hash from which producers learn how fast a pool makes room."""
    return of_queue(queue_name, "room")


OF_TURNS = ("waiting", "lines", "turns", "ages")
"""The keys of a pool's flow control that hold what waits for its turn."""


def flow(queue_name: str, name: str) -> str:
    """Return one of the keys of a pool's limits and turns: what runs, what is held, and so on."""
    return of_queue(queue_name, f"flow:{name}")


def in_lines(queue_name: str) -> tuple[str, str]:
    """Return the keys of what waits for its turn in a pool, and of since when."""
    return flow(queue_name, "waiting"), flow(queue_name, "ages")


def rollout(queue_name: str) -> str:
    """Return the hash of the rollout of a new version on a pool."""
    return of_queue(queue_name, "rollout")


def track(queue_name: str, name: str, place: int) -> str:
    """Return the list of what waits for one of the two versions of a rollout.

    Args:
        queue_name: The pool's queue.
        name: ``stable`` or ``canary``.
        place: The step of priority, 0 to 9.
    """
    return of_queue(queue_name, f"{name}:{place}")


def unacked_index(queue_name: str) -> str:
    """Return the hash of the nodes that may have reserved messages of a queue."""
    return of_queue(queue_name, "unacked")


def unacked(queue_name: str, identity: str) -> str:
    """Return the hash of what the node ``identity`` has reserved."""
    return of_queue(queue_name, f"unacked:{identity}")


def incoming(queue_name: str, identity: str) -> str:
    """Return the list that takes the message which wakes the node ``identity``."""
    return of_queue(queue_name, f"incoming:{identity}")


def leases(queue_name: str) -> str:
    """Return the leases of a pool's nodes: identity to the end of its lease, server time in ms."""
    return of_queue(queue_name, "leases")


def watchers(queue_name: str) -> str:
    """Return the sorted set of the nodes that watch the others of their pool."""
    return of_queue(queue_name, "watchers")


def alive(queue_name: str, identity: str = "") -> str:
    """Return the channel of a pool's living nodes, or of one of them."""
    return of_queue(queue_name, f"alive:{identity}" if identity else "alive")


def due(queue_name: str) -> str:
    """Return the channel that tells a pool's watchers of an operation that is due earlier."""
    return of_queue(queue_name, "due")


def delayed(queue_name: str) -> str:
    """Return the sorted set of a pool's delayed operations: entry to due time, server ms."""
    return of_queue(queue_name, "delayed")


def delayed_messages(queue_name: str) -> str:
    """Return the hash of the messages of a pool's delayed operations."""
    return of_queue(queue_name, "delayed:messages")


def adopted(queue_name: str) -> str:
    """Return the key that exists once what an earlier version left is taken over."""
    return of_queue(queue_name, "adopted")


def dead_letters(queue_name: str) -> str:
    """Return the hash of the dead letters of a queue."""
    return of_queue(queue_name, "dead")


def dead_messages(queue_name: str) -> str:
    """Return the hash of the original messages of a queue's dead letters."""
    return of_queue(queue_name, "dead:messages")


def dead_order(queue_name: str) -> str:
    """Return the sorted set of the dead letters of a queue by their time."""
    return of_queue(queue_name, "dead:order")


def pool_nodes(pool: str) -> str:
    """Return the sorted set of the nodes that wrote samples of ``pool``."""
    return of_queue(queue(pool), "nodes")


def node_samples(pool: str, node: str) -> str:
    """Return the stream of a node's samples."""
    return of_queue(queue(pool), f"samples:{node}")


def pool_totals(pool: str) -> str:
    """Return the hash of what a pool ever did."""
    return of_queue(queue(pool), "totals")


def node_counted(pool: str, node: str) -> str:
    """Return the string that holds what a node's last sample added to the totals."""
    return of_queue(queue(pool), f"counted:{node}")


def optimizer(pool: str) -> str:
    """Return the hash of what the optimizer remembers of ``pool``."""
    return of_queue(queue(pool), "optimizer")


def optimizer_lock(pool: str) -> str:
    """Return the lock of the optimizer that decides for ``pool`` now."""
    return of_queue(queue(pool), "lock")


def optimizer_paused(pool: str) -> str:
    """Return the key that exists while the optimizer of ``pool`` is paused."""
    return of_queue(queue(pool), "paused")


def decisions(pool: str) -> str:
    """Return the stream of the optimizer's decisions on ``pool``."""
    return of_queue(queue(pool), "decisions")


def hosts_wanted(pool: str) -> str:
    """Return the list that has an element for each node that ``pool`` needs."""
    return of_queue(queue(pool), "hosts")


def announced(pool: str) -> str:
    """Return the hash of what applications recorded for the optimizer of ``pool``."""
    return of_queue(queue(pool), "announced")


def pool_audit(pool: str) -> str:
    """Return the stream of what operators did to a pool."""
    return of_queue(queue(pool), "audit")


def pool_totals_by_name(pool: str) -> str:
    """Return the hash of what each operation of a pool ever did."""
    return of_queue(queue(pool), "by_name")


def node_operations(pool: str, node: str) -> str:
    """Return the stream of what a node did, by operation."""
    return of_queue(queue(pool), f"operations:{node}")


def error_heads(pool: str) -> str:
    """Return the hash of what errors of one kind have in common."""
    return of_queue(queue(pool), "errors")


def error_counts(pool: str) -> str:
    """Return the hash of how often each kind of error happened."""
    return of_queue(queue(pool), "errors:counts")


def error_order(pool: str) -> str:
    """Return the sorted set of the kinds of errors by when they were seen last."""
    return of_queue(queue(pool), "errors:order")


def error_examples(pool: str) -> str:
    """Return the hash of an example of each kind of error."""
    return of_queue(queue(pool), "errors:examples")


def error_classes(pool: str) -> str:
    """Return the hash of a pool's failures by operation and class of error."""
    return of_queue(queue(pool), "errors:classes")


def node_errors(pool: str, node: str) -> str:
    """Return the string that holds the number of the last errors that a node told."""
    return of_queue(queue(pool), f"errors:{node}")
