"""The checklist: which checks belong to which phase of a deployment, in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from pooltasks.app import settings_of
from pooltasks.broker.client import redis_client
from pooltasks.cli.checks import code, growth, hosts, monitoring, nodes, optimizer, server, smoke
from pooltasks.cli.checks.configured import check_settings
from pooltasks.cli.checks.finding import error, ok
from pooltasks.cli.faults import server_fault
from pooltasks.cli.nodes import ask, statuses
from pooltasks.cli.standing import WINDOW, standings
from pooltasks.dashboard.verdict import celery_name
from pooltasks.keys import CONTROL_POOL
from pooltasks.node.host import host_report
from pooltasks.pools import Pool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from celery import Celery

    from pooltasks.cli.checks.finding import Finding
    from pooltasks.cli.checks.phase import Phase
    from pooltasks.cli.standing import Standing

_HOST = "this host"
_WELL = "room for all workers that a node may have, and the right time"


class Checklist:
    """Looks at one deployment.

    Args:
        app: The application.
        pools: Names of the pools to look at.
        phase: Of the deployment; None: whatever runs is looked at, and nothing has to run.
        warm_up: Whether each warm-up is run once.
        prometheus: URL of the Prometheus that watches the deployment.
    """

    def __init__(
        self,
        app: Celery,
        pools: tuple[str, ...],
        phase: Phase | None = None,
        *,
        warm_up: bool = True,
        prometheus: str | None = None,
    ) -> None:
        self._app = app
        self._settings = settings_of(app)
        self._pools = pools
        self._phase = phase
        self._warm_up = warm_up
        self._prometheus = prometheus

    def findings(self) -> Iterator[Finding]:
        """Give what is found, as it is found."""
        yield from check_settings(self._settings, self._pools)
        information, found = server.ask_server(self._app)
        yield from found
        if self._phase in (None, "before"):
            yield from self._of_this_host(served=information is not None)
        if information is not None and self._phase != "before":
            try:
                yield from self._of_what_runs(information)
            except (RedisError, OperationalError) as fault:
                yield error(
                    "nodes",
                    f"they cannot be asked: {server_fault(self._app, fault)}",
                    server.what_to_do(fault),
                )
        yield from monitoring.check_monitoring(self._prometheus, self._phase)

    def _of_this_host(self, *, served: bool) -> Iterator[Finding]:
        for pool in self._pools:
            yield from code.check_pool(self._app, pool, warm_up=self._warm_up)
        yield from code.check_operations(self._app)
        yield from code.check_schedule(self._app)
        if served:
            self._app.pooltasks.clock.measure(redis_client(self._app))
        report = host_report(self._app)
        found = list(hosts.check_clock(_HOST, report["ahead"]))
        for pool in self._pools:
            its = self._settings.pool_settings(pool)
            subject = f"{_HOST}, as a node of {pool}"
            found += hosts.check_limits(subject, its, report, worker=None)
        yield from found or [ok(_HOST, _WELL)]

    def _of_what_runs(self, information: Mapping[str, Any]) -> Iterator[Finding]:
        said = statuses(self._app)
        names = dict.fromkeys((*self._pools, CONTROL_POOL))
        every = {its.evidence.pool: its for its in standings(self._app, names, said)}
        control = every[CONTROL_POOL]
        found = [its for pool, its in every.items() if pool in self._pools]
        reports = ask(self._app, "pool_host", sorted(said))
        for its in found:
            yield from nodes.check_nodes(its, self._phase)
            of_hosts = list(self._of_hosts(its, reports))
            if its.nodes.keys() & reports.keys():
                yield from of_hosts or [ok(f"hosts of {its.evidence.pool}", _WELL)]
            yield from self._of_queue(its.evidence.pool, information)
            if its.evidence.metrics.load.warm and not its.evidence.draining:
                yield smoke.check_round(self._app, its.evidence.pool)
        yield from hosts.check_versions(reports, mixed=self._phase == "during")
        yield from optimizer.check_optimizer(found, control)

    def _of_hosts(self, its: Standing, reports: Mapping[str, Any]) -> Iterator[Finding]:
        measured = {celery_name(node): node for node in its.evidence.metrics.nodes}
        for name in sorted(its.nodes.keys() & reports.keys()):
            report = reports[name]
            yield from hosts.check_clock(name, report["ahead"])
            node, worker = measured.get(name), None
            if node is not None and node.memory is not None and node.warm:
                # The node's own process is about as large as a worker.
                worker = node.memory / (node.warm + 1)
            yield from hosts.check_limits(
                name,
                its.evidence.settings,
                report,
                worker=worker,
                present=len(its.nodes[name]["workers"]),
            )

    def _of_queue(self, pool: str, information: Mapping[str, Any]) -> Iterator[Finding]:
        _, samples = Pool(pool, app=self._app).samples(WINDOW)
        rate = growth.growth(samples)
        if rate:
            size = growth.message_bytes(self._app, redis_client(self._app), pool)
            yield from growth.check_growth(pool, information, rate, size)
