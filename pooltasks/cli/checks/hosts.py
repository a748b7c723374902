"""The hosts: what they allow a node, whether their clocks are right, which versions run there."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from pooltasks.cli.checks.finding import Finding, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pooltasks.pool_settings import PoolSettings

_FILES, _FILES_A_WORKER = 64, 8
"""Files that a node opens, and more for each worker: pipes, and connections to come."""
_PROCESSES = 2
"""A worker, and the one that takes its place when it is replaced."""
_SHARE = 0.95
"""Share of the memory; the rest is for others, as the optimizer reckons too."""
_AHEAD = 1.0
"""Seconds by which a clock may be wrong."""


def most_workers(its: PoolSettings) -> int:
    """Return the most workers that a node of a pool may have."""
    size = its.max_pool_size if its.enable_optimizer else its.pool_size
    return size + max(its.max_overflow, its.spares)


def check_limits(
    subject: str,
    its: PoolSettings,
    report: Mapping[str, Any],
    *,
    worker: float | None,
    present: int = 0,
) -> Iterator[Finding]:
    """Look at whether a host allows a node all the workers that it may have.

    Args:
        subject: The node or the host.
        its: The settings of the pool.
        report: What the host allows, as :func:`pooltasks.node.host.host_report` says it.
        worker: Bytes of memory of a worker, if they are known.
        present: Workers that the node has already.
    """
    workers = most_workers(its)
    more = max(0, workers - present)
    files, processes, memory = report["files"], report["processes"], report["memory"]
    wanted = (0 if present else _FILES) + _FILES_A_WORKER * more
    if files is not None and files < wanted:
        yield warning(
            subject,
            f"it may open {files} more files, and {workers} workers need about {wanted}",
            "Raise the limit: LimitNOFILE= of its systemd unit, ulimit -n, or --ulimit nofile.",
        )
    if processes is not None and processes < _PROCESSES * more:
        yield warning(
            subject,
            f"it may start {processes} more processes, and {workers} workers need about "
            f"{_PROCESSES * more}",
            "Raise the limit: TasksMax= of its systemd unit, ulimit -u, or the pod's pids limit.",
        )
    if its.memory_limit_mb is not None:
        worker = its.memory_limit_mb * 2**20
    if worker and memory is not None and workers * worker > _SHARE * memory:
        room = int(_SHARE * memory / worker)
        yield warning(
            subject,
            f"{workers} workers of {worker / 2**20:,.0f} MiB need more than the "
            f"{memory / 2**20:,.0f} MiB that the host may use: there is room for {room}",
            f"Set max_pool_size to at most {max(1, room)}, or give the host more memory.",
        )


def check_clock(subject: str, ahead: float | None) -> Iterator[Finding]:
    """Look at whether a host's clock is that of the server.

    Args:
        subject: The node or the host.
        ahead: Seconds by which its clock is ahead; None if that is not known.
    """
    if ahead is not None and abs(ahead) > _AHEAD:
        yield warning(
            subject,
            f"its clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the "
            "server's: times in its logs, and an eta that it reckons, are wrong by that",
            "Have the host keep its time (chronyc tracking; timedatectl set-ntp true).",
        )


def check_versions(reports: Mapping[str, Mapping[str, Any]], *, mixed: bool) -> list[Finding]:
    """Look at whether all nodes run the same versions.

    Args:
        reports: Of each node.
        mixed: Whether several may run beside each other, as in a deployment.
    """
    found = []
    for program in ("pooltasks", "celery", "python"):
        nodes = defaultdict(list)
        for node, report in sorted(reports.items()):
            nodes[report["versions"][program]].append(node)
        if len(nodes) < 2:  # noqa: PLR2004  one version
            continue
        text = f"{program}: " + "; ".join(
            f"{version} on {', '.join(its)}" for version, its in sorted(nodes.items())
        )
        found.append(
            ok("versions", text)
            if mixed
            else warning("versions", text, "Install the same versions on all hosts.")
        )
    if reports and not found:
        same = next(iter(reports.values()))["versions"]
        text = ", ".join(f"{program} {version}" for program, version in same.items())
        found.append(ok("versions", f"{text} on every node"))
    return found
