"""The server: its version, what it keeps on disk, its memory, its replicas, its access, its speed.

All of it is what INFO says, which every role of ``pooltasks acl`` but the producer's may ask.
"""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from pooltasks import address
from pooltasks.broker.client import redis_client
from pooltasks.cli.checks.finding import Finding, error, ok, warning
from pooltasks.cli.faults import server_fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import redis
    from celery import Celery

SUBJECT = "server"
_OLDEST = (6, 2)
"""The first version with all the commands that nodes use."""
_NEARLY_FULL, _FULL = 0.8, 0.95
"""Shares of its memory."""
_SLOW = 0.010
"""Seconds for an answer; each operation takes several."""
_PINGS = 7
_OWN_HOST = {"127.0.0.1", "::1", "localhost"}
_LAG = 10
"""Seconds that a replica may be behind."""


def ask_server(app: Celery) -> tuple[Mapping[str, Any] | None, list[Finding]]:
    """Return what the server says of itself, None if it says nothing, and what was found."""
    client = redis_client(app)
    try:
        information = client.info()
        seconds = answer_time(client)
    except RedisError as fault:
        return None, [error(SUBJECT, server_fault(app, fault), what_to_do(fault))]
    url = app.pooltasks.settings.redis_url.get_secret_value()
    return information, [
        *check_version(information),
        *check_persistence(information),
        *check_memory(information),
        *check_replication(information),
        *check_access(url),
        *check_latency(seconds),
    ]


def what_to_do(fault: Exception) -> str:
    """Return what to do about a server that does not answer, or refuses."""
    if isinstance(fault, NoPermissionError):
        return "Give this user the rules of an operator: pooltasks acl operator"
    if isinstance(fault, ResponseError):
        return "Mend that first, then check again."
    return "Start it, or correct POOLTASKS_REDIS_URL."


def check_version(information: Mapping[str, Any]) -> Iterator[Finding]:
    """Look at the kind of server and its version."""
    name = information.get("server_name", "redis")
    version = str(information.get("valkey_version") or information["redis_version"])
    # Forks say under "redis_version" which Redis they are compatible with.
    compatible = str(information["redis_version"]).split(".")
    if tuple(int(part) for part in compatible[:2]) < _OLDEST:
        yield error(
            SUBJECT,
            f"{name} {version} lacks commands that nodes use",
            f"Use Redis {'.'.join(map(str, _OLDEST))} or later, or Valkey.",
        )
    else:
        yield ok(SUBJECT, f"{name} {version}")


def check_persistence(information: Mapping[str, Any]) -> Iterator[Finding]:
    """Look at whether what waits outlives the server."""
    if not information.get("aof_enabled"):
        yield warning(
            SUBJECT,
            "it has no append-only file: what was sent since its last snapshot is lost "
            "when it ends",
            "redis-cli config set appendonly yes, and the same in its configuration.",
        )
    for what, field in (
        ("the last write to its append-only file", "aof_last_write_status"),
        ("the last rewrite of its append-only file", "aof_last_bgrewrite_status"),
        ("its last snapshot", "rdb_last_bgsave_status"),
    ):
        if information.get(field, "ok") != "ok":
            yield error(
                SUBJECT,
                f"{what} failed: the server may refuse every write",
                "Look at the space on its disk and at its log.",
            )
    if information.get("loading"):
        yield warning(SUBJECT, "it still loads its data", "Wait until it has.")


def check_memory(information: Mapping[str, Any]) -> Iterator[Finding]:
    """Look at what the server does when its memory is full, and how full it is."""
    policy = information.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield error(
            SUBJECT,
            f"maxmemory-policy is {policy}: with full memory it deletes queues and results",
            "redis-cli config set maxmemory-policy noeviction, and the same in its configuration.",
        )
    used, limit = information.get("used_memory", 0), memory_limit(information)
    if not limit:
        return
    share = used / limit
    if share > _NEARLY_FULL:
        gravity = error if share > _FULL else warning
        yield gravity(
            SUBJECT,
            f"it uses {share:.0%} of the {limit / 2**20:,.0f} MiB that it may: full, it refuses "
            "operations",
            "Raise maxmemory (redis-cli config set maxmemory 4gb), or drop what waits.",
        )


def memory_limit(information: Mapping[str, Any]) -> int:
    """Return the bytes that the server may use; 0 if it does not say."""
    return int(information.get("maxmemory") or information.get("total_system_memory") or 0)


def check_replication(information: Mapping[str, Any]) -> Iterator[Finding]:
    """Look at the server's part among its replicas."""
    if information.get("role") == "slave":
        yield error(
            SUBJECT,
            "it is a replica, which can only be read",
            "Name the primary in POOLTASKS_REDIS_URL, or the Sentinels, which know it: sentinel://…",
        )
        return
    for number in range(int(information.get("connected_slaves", 0))):
        replica = information.get(f"slave{number}", {})
        if replica.get("state") != "online" or int(replica.get("lag", 0)) > _LAG:
            yield warning(
                SUBJECT,
                f"its replica {replica.get('ip')}:{replica.get('port')} is "
                f"{replica.get('state')}, {replica.get('lag')} s behind",
                "If the server ended now, that replica would lack operations. Look at its log.",
            )


def check_access(url: str) -> Iterator[Finding]:
    """Look at whether the server lets anybody in who can reach it."""
    its = address.read(url)
    has_certificate = its.tls is not None and "ssl_certfile" in its.tls
    if its.password or its.credential_provider or has_certificate:
        return
    if not its.path and any(host not in _OWN_HOST for host, _ in its.hosts):
        yield warning(
            SUBJECT,
            "it lets in anybody who reaches it: POOLTASKS_REDIS_URL has no password",
            "Make users with passwords (pooltasks acl), and name one in POOLTASKS_REDIS_URL.",
        )


def answer_time(client: redis.Redis) -> float:
    """Return the seconds in which the server answers, the median of some.

    Raises:
        redis.RedisError: It does not.
    """
    times = []
    for _ in range(_PINGS):
        began = time.perf_counter()
        client.ping()
        times.append(time.perf_counter() - began)
    return median(times)


def check_latency(seconds: float) -> Iterator[Finding]:
    """Look at how fast the server answers this host."""
    if seconds > _SLOW:
        yield warning(
            SUBJECT,
            f"it answers this host in {seconds * 1000:.0f} ms",
            "Put nodes and server into one network; look for slow commands: redis-cli slowlog get",
        )
