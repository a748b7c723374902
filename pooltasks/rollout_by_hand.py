"""A rollout by hand: begun, led on and ended by operators, at the command line or on a page.

A control node changes the same rollout (``optimizer/rollouts.py``). So whoever acts says what
was seen, and is refused if the rollout has gone on meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pooltasks.app import settings_of
from pooltasks.broker.client import key_prefix, redis_client
from pooltasks.broker.limit_store import LimitStore
from pooltasks.counted import counted
from pooltasks.errors import RolloutRefusedError
from pooltasks.keys import CONTROL_POOL
from pooltasks.metrics.rollout_store import RolloutStore
from pooltasks.optimizer.rollouts import end, forward
from pooltasks.pools import Pool
from pooltasks.settings import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from pooltasks.metrics.rollout import Rollout


def store_of(app: Celery, pool: str) -> RolloutStore:
    """Return the rollout of a pool as the server keeps it."""
    return RolloutStore(redis_client(app), pool, key_prefix(app))


def check_version(version: str) -> None:
    """Refuse a text that is no version.

    Raises:
        RolloutRefusedError: It is none; the error says what is.
    """
    if not VERSION.fullmatch(version):
        raise RolloutRefusedError(f"{version!r}; allowed: 1 to 64 letters, digits and . _ + -")


def start(app: Celery, pool: str, version: str, before: str) -> str:
    """Begin a rollout; return a sentence about it.

    Args:
        app: The application.
        pool: The pool's name.
        version: The new version.
        before: The version before, as :func:`version_before` says it.

    Raises:
        RolloutRefusedError: A rollout goes on; nothing was changed.
        redis.RedisError: The server does not answer.
    """
    if not store_of(app, pool).start(before, version):
        raise RolloutRefusedError(
            f"{pool} has a rollout that goes on. Look: pooltasks rollout status {pool}"
        )
    return (
        f"the rollout of {version} has begun{f', before {before}' if before else ''}. "
        f"Start nodes with POOLTASKS_VERSION={version}; keep those that run."
    )


def promote(app: Celery, pool: str, seen: Rollout) -> str:
    """Take the next step; return a sentence about how the rollout stands then.

    Args:
        app: The application.
        pool: The pool's name.
        seen: The rollout as the operator has seen it, as for the functions below.

    Raises:
        RolloutRefusedError: The rollout has gone on, or nobody could run its version.
        redis.RedisError: The server does not answer.
    """
    if not seen.share and not _has_nodes(app, pool, seen.version):
        raise RolloutRefusedError(
            f"{pool} has no warm worker of version {seen.version}. "
            f"Start a node: POOLTASKS_VERSION={seen.version} celery -A "
            f"{app.main or 'pooltasks'} worker -Q pool.{pool}"
        )
    _retried(app, pool, seen, lambda now, store: forward(store, now, "by hand"))
    return (store_of(app, pool).read() or seen).sentence()


def pause(app: Celery, pool: str, seen: Rollout) -> str:
    """Have the new version keep its share; as :func:`promote`."""
    _retried(app, pool, seen, lambda now, store: store.change(now, paused=1))
    return f"{seen.version} keeps {seen.share} %."


def go_on(app: Celery, pool: str, seen: Rollout) -> str:
    """End a pause; as :func:`promote`."""
    _retried(app, pool, seen, lambda now, store: store.change(now, paused=0))
    return f"the rollout of {seen.version} goes on at {seen.share} %."


def abort(app: Celery, pool: str, seen: Rollout) -> str:
    """Give all operations back to the version before; as :func:`promote`."""
    _retried(app, pool, seen, lambda now, store: end(store, now, "aborted", "by hand"))
    return (
        f"{seen.version} is rolled back; {named(seen.before)} runs everything. "
        f"Stop the nodes of {seen.version}: they take nothing."
    )


def forget(app: Celery, pool: str, seen: Rollout) -> str:
    """Have nodes of every version take operations again; as :func:`promote`."""
    if seen.is_live or not store_of(app, pool).forget():
        raise RolloutRefusedError(
            f"{pool} has a rollout that goes on. End it: pooltasks rollout abort {pool}"
        )
    return "nodes of every version take operations."


def named(version: str) -> str:
    """Return a version, or a word for nodes that have none."""
    return version or "(none)"


def _retried(
    app: Celery, pool: str, seen: Rollout, act: Callable[[Rollout, RolloutStore], bool]
) -> None:
    """Do something to a rollout that a control node may change at the same moment."""
    store = store_of(app, pool)
    now: Rollout | None = store.read()
    while now is not None and now.is_live and _is_same_step(now, seen):
        if act(now, store):
            return
        now = store.read()
    raise RolloutRefusedError(
        f"The rollout on {pool} has gone on meanwhile. Look: pooltasks rollout status {pool}"
    )


def _is_same_step(one: Rollout, other: Rollout) -> bool:
    """Return whether both are the same rollout with the same share."""
    return (one.started, one.version, one.share) == (other.started, other.version, other.share)


def version_before(app: Celery, name: str, version: str) -> str:
    """Return the version that a pool's nodes have; refuse what cannot be rolled out.

    Args:
        app: The application.
        name: The pool's name.
        version: The version that is to be rolled out.

    Raises:
        RolloutRefusedError: It cannot be; the error says why, and what to do.
        redis.RedisError: The server does not answer.
    """
    settings = settings_of(app)
    pool = Pool(name, app)
    if settings.broker_transport == "stock":
        raise RolloutRefusedError(
            "Nodes with broker_transport = 'stock' take whatever waits: no rollout can tell them "
            "apart. Use the transport of pooltasks."
        )
    fair = LimitStore(redis_client(app), name).fair()
    if fair:
        raise RolloutRefusedError(
            f"{name} cannot be rolled out by share because its operation {fair[0]} is fair, and "
            "the turns of its keys know no versions: restart its nodes one after the other "
            "instead, without a rollout."
        )
    if not pool.settings.enable_metrics:
        raise RolloutRefusedError(
            f"{name} has enable_metrics = false: nobody could see how the new version does."
        )
    metrics = pool.metrics(1.0)
    if metrics.unreadable:
        raise RolloutRefusedError(
            f"{name} has {counted(len(metrics.unreadable), 'node')} with another version of "
            "pooltasks, of which nothing is known. Restart them one after the other first."
        )
    last = store_of(app, name).read()
    versions = sorted(
        {
            node.version
            for node in metrics.nodes
            # One that was just rolled back may not have told yet that it takes nothing.
            if node.state == "live" and not (last and last.retires(node.version))
        }
    )
    if not versions:
        raise RolloutRefusedError(
            f"No node serves {name}: start them with POOLTASKS_VERSION={version}, "
            "without a rollout."
        )
    if versions == [version] or len(versions) > 1:
        raise RolloutRefusedError(
            f"The nodes of {name} have "
            f"{'the version' if len(versions) == 1 else 'the versions'} "
            f"{', '.join(map(named, versions))}; a rollout begins from one other version, before "
            f"nodes of {version} start. Nothing was changed."
        )
    if not any(its.enable_optimizer for its in settings.pools.values()):
        raise RolloutRefusedError(
            "Every pool has enable_optimizer = false, so beat never calls the control node: nobody "
            "would go a step on, or back."
        )
    if not any(node.state == "live" for node in Pool(CONTROL_POOL, app).metrics(1.0).nodes):
        raise RolloutRefusedError(
            "No control node runs: nobody would go a step on, or back. Start beat and one: "
            f"celery -A {app.main or 'pooltasks'} worker -Q pool.{CONTROL_POOL}"
        )
    return versions[0]


def _has_nodes(app: Celery, pool: str, version: str) -> bool:
    nodes = Pool(pool, app).metrics(1.0).nodes
    return any(node.version == version and node.warm for node in nodes if node.state == "live")
