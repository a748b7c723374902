"""The rights of each kind of process on the server: the rules of an access control list (ACL).

The commands and keys are those that the processes use; a test runs all of them under these
rules. A role has several grants (*selectors* of Redis 7 and Valkey): a producer may delete a
result, and may not delete a queue.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pooltasks import keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

USER = "pooltasks-"
"""The beginning of the users' names; the role follows."""
_AFTER_A_QUEUE = "[^-a-z0-9_]*"
"""kombu puts a priority after a queue's name, behind letters that no pool's name has. Elsewhere
in the brackets the server takes a hyphen for a range."""
_SPECIAL = re.compile(r"([*?\[\]\\])")
"""Letters that mean something in a pattern of the server's."""


class Grant(NamedTuple):
    """Commands, and the keys and channels on which they may be used.

    A key is a pattern, after ``%R`` if it may only be read. ``{queue}`` stands for the lists
    of the pools, ``{pool}`` for what their other keys begin with, ``{result}`` for what the
    keys of Celery's result backend begin with, ``{prefix}`` for the deployment's prefix, and
    ``{db}`` for the number of its database.
    """

    commands: str
    keys: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Role:
    """The rights of the processes of one kind.

    Args:
        purpose: The processes, in words.
        grants: Their rights.
    """

    purpose: str
    grants: tuple[Grant, ...]


_CONNECT = "@connection -@admin -@dangerous multi exec discard unwatch"
"""Rights by categories: Redis 7.0 does not know all that a client says of itself to later ones."""
_LISTEN = "subscribe unsubscribe psubscribe punsubscribe"
_SCRIPTS = "script|load script|exists"
_RESULT = ("{result}celery-task-meta-*", "{result}celery-taskset-meta-*")
_BINDINGS = Grant(
    "sadd srem smembers exists del eval evalsha zadd zrem zrangebyscore",
    ("{prefix}_kombu.binding*",),
)
_SESSIONS = Grant(
    "eval evalsha hset hsetnx hget hmget hgetall hdel hlen hkeys hvals hexists hincrby "
    "hincrbyfloat hscan exists expire pexpire del unlink watch type",
    ("{prefix}pooltasks:session:*",),
)
_WAIT_FOR_RESULTS = Grant("get mget del exists expire set", _RESULT)
_REMOTE_CONTROL = (
    Grant("publish", (), ("{prefix}/{db}.celery.pidbox",)),
    Grant("lpush brpop rpop llen del exists pexpire", ("{prefix}*.reply.celery.pidbox",)),
    _BINDINGS,
    # kombu's own consumer, which hears the answers, looks here for what others have left.
    Grant(
        "eval evalsha set get del watch zadd zrem zrange zrevrangebyscore hset hget hdel "
        "lpush rpush",
        ("{prefix}unacked", "{prefix}unacked_index", "{prefix}unacked_mutex"),
    ),
)
_READ = (
    "llen lindex lrange hlen hget hmget hgetall hkeys hvals hexists hscan zcard zcount zscore "
    "zrange zrevrange zrangebyscore zrangebylex zlexcount xrange xrevrange xlen get mget exists "
    "ttl pttl type getrange"
)
_READ_POOLS = Grant(f"eval evalsha {_READ}", ("{queue}", "{pool}*"))
_WORK = (
    f"eval evalsha {_READ} lpush rpush rpop lpop ltrim lmove blmove hset hsetnx hdel hincrby "
    "hincrbyfloat zadd zrem zremrangebyscore set del expire pexpire pexpireat renamenx xadd"
)
_EVENTS = (
    "{prefix}/{db}.celeryev/*",
    "{prefix}/{db}.celeryev/worker.*",
    "{prefix}/{db}.celery.pidbox",
)
"""The server lets a client subscribe to a pattern only if it is in its rules word for word."""
_WAITING = ("{queue}", "{pool}stable:*", "{pool}canary:*")
_HELD = ("held", "messages", "resume")
_LOOK_AFTER = (
    _READ_POOLS,
    # Dead letters are sent again or dropped; a queue is purged.
    Grant(
        "eval evalsha lpush del hdel zrem zremrangebyscore expire pexpire",
        (
            *_WAITING,
            *("{pool}dead", "{pool}dead:*", "{pool}delayed", "{pool}delayed:messages"),
        ),
    ),
    Grant("del", tuple(f"{{pool}}flow:{name}" for name in (*keys.OF_TURNS, *_HELD))),
    Grant("hdel", ("{pool}flow:running",)),
    Grant("brpop rpop llen del exists pexpire", ("{prefix}celeryev.*",)),  # Flower's events
    Grant("set del", ("{pool}paused",)),
    Grant("xadd expire pexpire", ("{pool}audit",)),
    Grant("publish", (), _EVENTS),
    Grant("get mget exists", ("{result}celery-task-meta-*",)),
    # A rollout that begins or ends has every node join again.
    Grant("eval evalsha", (*_WAITING, "{pool}rollout", "{pool}unacked", "{pool}room")),
    Grant("hset hdel hincrby del pexpire", ("{pool}rollout",)),
    Grant("hset", ("{pool}unacked",)),
    Grant("hdel", ("{pool}room",)),
    Grant("lpop", _WAITING[1:]),
    Grant("rpush", _WAITING[:1]),
    Grant("publish", (), ("{pool}due",)),
    *_REMOTE_CONTROL,
)

ROLES: Mapping[str, Role] = {
    "producer": Role(
        "applications that send operations, and beat",
        (
            Grant(f"{_CONNECT} {_LISTEN} {_SCRIPTS} time", (), ("{result}celery-task-meta-*",)),
            Grant("lpush llen", ("{queue}",)),
            # A script may have these keys. Its commands on each of them are below.
            Grant(
                "eval evalsha",
                (
                    "{queue}",
                    "{pool}submission:*",
                    "{pool}unique:*",
                    "{pool}delayed",
                    "{pool}delayed:messages",
                    "{pool}room",
                    "{pool}totals",
                    "{pool}flow:held",
                    "{pool}flow:waiting",
                    "{pool}announced",
                ),
            ),
            Grant("get set", ("{pool}submission:*", "{pool}unique:*")),
            Grant("hset hexists zadd zrange", ("{pool}delayed", "{pool}delayed:messages")),
            # A pool with max_queue: what waits, also for limits and turns, and how fast it ends.
            Grant("hmget hset hdel pexpire", ("{pool}room",)),
            Grant("hmget", ("%R{pool}totals",)),
            Grant("zcard hlen", ("%R{pool}flow:held", "%R{pool}flow:waiting")),
            Grant("hset hgetall hdel pexpire", ("{pool}announced",)),  # record_metrics
            Grant("publish", (), ("{pool}due",)),
            Grant("sadd smembers", ("{prefix}_kombu.binding*",)),
            _WAIT_FOR_RESULTS,
            # A group may be saved, to be waited for elsewhere.
            Grant("setex publish", _RESULT[1:], _RESULT[1:]),
        ),
    ),
    "node": Role(
        "nodes and their workers, the control node among them",
        (
            Grant(
                # With info a node that watches learns how long the server has been there.
                f"{_CONNECT} {_LISTEN} {_SCRIPTS} time scan info pubsub|numsub",
                (),
                ("{pool}*", "{result}celery-task-meta-*", *_EVENTS),
            ),
            # A result is stored in one step with the end of its message.
            Grant(f"{_WORK} setex incr", ("{queue}", "{pool}*", *_RESULT)),
            Grant("sadd sismember scard srem smembers", _RESULT),  # the parts of a chord
            Grant("brpop rpop llen del exists pexpire", ("{prefix}*.celery.pidbox",)),
            # Keys that an earlier version left.
            Grant(
                _WORK,
                (
                    "{prefix}pooltasks:leases",
                    "{prefix}pooltasks:unacked:*",
                    "{prefix}pooltasks:dead:*",
                    "{queue}",
                    "{pool}dead",
                    "{pool}dead:*",
                ),
            ),
            Grant("publish", (), ("{pool}*", "{result}celery-task-meta-*", *_EVENTS)),
            _SESSIONS,
            *_REMOTE_CONTROL,
        ),
    ),
    "dashboard": Role(
        "the pages, with what their buttons do",
        (Grant(f"{_CONNECT} {_LISTEN} {_SCRIPTS} time info", (), _EVENTS), *_LOOK_AFTER),
    ),
    "operator": Role(
        "the commands of pooltasks",
        (
            Grant(
                f"{_CONNECT} {_LISTEN} {_SCRIPTS} time info pubsub|numsub",
                (),
                (*_EVENTS, "{result}celery-task-meta-*"),
            ),
            *_LOOK_AFTER,
            # The result of the operation that `check` sends.
            Grant("del", ("{result}celery-task-meta-*",)),
            # The limits of a pool that runs.
            Grant("hset hdel", ("{pool}flow:limits",)),
            Grant("zadd", ("{pool}flow:resume",)),
            # An optimizer that is called by hand decides, and writes what it has decided.
            Grant(_WORK, ("{pool}lock", "{pool}optimizer", "{pool}decisions", "{pool}hosts")),
        ),
    ),
    "exporter": Role(
        "pooltasks exporter, and whoever only reads",
        (Grant(f"{_CONNECT} {_SCRIPTS} time info"), _READ_POOLS),
    ),
    "scaler": Role("KEDA", (Grant(f"{_CONNECT} llen", ("%R{pool}hosts",)),)),
}


def lines(
    roles: Sequence[str] = tuple(ROLES),
    *,
    pools: Sequence[str] = (),
    prefix: str = "",
    result_prefix: str = "",
    database: int = 0,
    passwords: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the lines of an ACL file.

    Args:
        roles: Which of :data:`ROLES`.
        pools: The pools whose keys they may use; none means every pool.
        prefix: The deployment's key prefix.
        result_prefix: The same of the result backend, which may be another.
        database: The number of the database; channels have it in their names.
        passwords: The password of each role. One without has a user that is switched off,
            until ``ACL SETUSER pooltasks-<role> on >PASSWORD``.
    """
    given = passwords or {}
    fill = _Patterns(pools, prefix, result_prefix, database)
    return [_line(role, fill, given.get(role)) for role in roles]


def _line(role: str, fill: _Patterns, password: str | None) -> str:
    first, *others = (_grant(grant, fill) for grant in ROLES[role].grants)
    state = "off" if password is None else f"on #{hashlib.sha256(password.encode()).hexdigest()}"
    selectors = "".join(f" ({grant})" for grant in others)
    return f"user {USER}{role} {state} resetkeys resetchannels -@all {first}{selectors}"


def _grant(grant: Grant, fill: _Patterns) -> str:
    its_keys = [
        f"%R~{pattern}" if key.startswith("%R") else f"~{pattern}"
        for key in grant.keys
        for pattern in fill(key.removeprefix("%R"))
    ]
    channels = [f"&{pattern}" for channel in grant.channels for pattern in fill(channel)]
    commands = [each if each[0] == "-" else f"+{each}" for each in grant.commands.split()]
    return " ".join((*commands, *its_keys, *channels))


class _Patterns:
    """Fills the keys of a deployment into patterns."""

    def __init__(
        self, pools: Sequence[str], prefix: str, result_prefix: str, database: int
    ) -> None:
        self._database = str(database)
        self._prefix = _SPECIAL.sub(r"\\\1", prefix)
        self._result = _SPECIAL.sub(r"\\\1", result_prefix)
        names = [self._prefix + keys.queue(pool) for pool in pools or ("*",)]
        self._pools = [f"{self._prefix}{keys.PREFIX}{{{name}}}:" for name in names]
        # Of every pool the pattern has the priorities already.
        self._queues = [*names, *(name + _AFTER_A_QUEUE for name in names if pools)]

    def __call__(self, pattern: str) -> list[str]:
        if pattern == "{queue}":
            return self._queues
        if pattern.startswith("{pool}"):
            return [pool + pattern.removeprefix("{pool}") for pool in self._pools]
        pattern = pattern.replace("{db}", self._database).replace("{prefix}", self._prefix)
        return [pattern.replace("{result}", self._result)]
