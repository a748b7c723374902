"""A night with eight incidents on one deployment: each is named in words, with what to do.

``pooltasks status``, the page of all pools and the alert say the same thing. What they say to
do is done where that is possible on one host, and ends the incident.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from dashboard_process import Dashboard, running
from deployment import DEADLINE, Deployment, wait_until
from kombu.exceptions import OperationalError
from prometheus_client.parser import text_string_to_metric_families

from pooltasks import Pool
from pooltasks.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.long

CONFIGURATION = """
[pools.shop]
imports = ["night_operations"]
pool_size = 2
min_pool_size = 2
max_pool_size = 8
max_deliveries = 2
objective = { wait_ms = 500, quantile = 0.99 }
warmup = { commands = [{ operation = "night_operations.load" }] }
"""
RULES = Path(__file__).parents[2] / "config/prometheus/rules"
PATIENCE = 2 * DEADLINE
"""Seconds for what takes 5 on a machine that does nothing else."""
LOOK = 0.2
"""Seconds from look to look at the pages, whose dashboard shares the machine with all this."""
HOUR = 60
"""Minutes for which the alerts saw nothing unusual."""
Series = dict[str, float]


class Night:
    """A deployment under some traffic, as an operator sees it."""

    def __init__(self, deployment: Deployment, dashboard: Dashboard) -> None:
        self.deployment = deployment
        self.dashboard = dashboard
        self.server = deployment.redis
        self.pool = Pool("shop", app=deployment.app)
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.beat: subprocess.Popen[bytes]
        self.seen: dict[str, tuple[Series, Series]] = {}
        """Of each alert: the series before and in its incident."""
        self._before: Series = {}
        self._never = threading.Event()

    def start(self) -> None:
        self.start_node("a")
        self.deployment.start_node("-Q", "pool.control", "-n", "control@night")
        self.start_beat()
        wait_until(lambda: self.verdict()["level"] == "good", "all is well", PATIENCE)
        wait_until(lambda: "target_slots" in str(self.series()), "the optimizer decides", PATIENCE)

    def start_node(self, name: str) -> None:
        """Start a node with two processors, so that its host can be full."""
        own = sorted(os.sched_getaffinity(0))[:2]
        self.nodes[name] = self.deployment.start_node(
            *("-Q", "pool.shop", "-n", f"{name}@night"),
            under=("taskset", "-c", ",".join(map(str, own))),
        )

    def start_beat(self) -> None:
        self.beat = self.deployment.start_beat()

    def verdict(self) -> dict[str, Any]:
        self._never.wait(LOOK)
        answer = self.dashboard.json("/pools/-/data")
        lines = answer.get("pools", ())  # none while the dashboard cannot read the server
        found = (line["verdict"] for line in lines if line["pool"] == "shop")
        return next(found, {"level": "unknown", "text": str(answer)})

    def series(self) -> Series:
        self._never.wait(LOOK)
        _, text, _ = self.dashboard.ask("/metrics")
        return {
            name_of(sample.name, sample.labels): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.startswith("pooltasks_") and not sample.name.endswith("_created")
        }

    def begin(self) -> float:
        """Return the moment at which an incident begins."""
        self._before = self.series()
        return time.monotonic()

    def named(  # what an incident is, and how it shows
        self, began: float, alert: str, shows: str, *words: str, by: float = 0, gone: bool = False
    ) -> str:
        """Wait until page and status name an incident; return all that they say to do.

        Args:
            began: When it began.
            alert: Which is to see it at its next evaluation.
            shows: A pattern of a series that is other than before then.
            *words: That name it.
            by: By how much more than this.
            gone: Whether the series is not there then.
        """

        def said() -> dict[str, Any] | None:
            its = self.verdict()
            return its if all(word in its["text"] for word in words) else None

        verdict = wait_until(said, f"the page says {words}", PATIENCE)
        took = time.monotonic() - began
        print(f"{alert}: named after {took:.1f} s")  # noqa: T201  pytest shows it with -s
        completed = self.deployment.run("pooltasks", "status")
        assert all(word in completed.stdout for word in words), completed.stdout + completed.stderr
        series = wait_until(
            lambda: self._changed(shows, by, gone=gone), f"{shows} has changed", PATIENCE
        )
        self.seen[alert] = self._before, series
        return "\n".join(filter(None, [verdict["remedy"], *verdict["more"]]))

    def _changed(self, shows: str, by: float, *, gone: bool) -> Series | None:
        now, before = self.series(), self._before
        if gone:
            return None if any(re.search(shows, name) for name in now) else now
        names = {name for name in {*now, *before} if re.search(shows, name)}
        is_other = any(abs(now.get(name, 0) - before.get(name, 0)) > by for name in names)
        return now if is_other else None

    def over(self, *words: str) -> None:
        def silent() -> bool:
            its = self.verdict()
            return its["level"] != "unknown" and not any(word in its["text"] for word in words)

        wait_until(silent, f"it is over; now {self.verdict()}", PATIENCE)

    def run(self, command: str) -> str:
        completed = self.deployment.run(*shlex.split(command))
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout


def name_of(name: str, labels: dict[str, str]) -> str:
    pairs = "".join(f", {label}={json.dumps(value)}" for label, value in labels.items())
    return f'{name}{{job="pooltasks"{pairs}}}'


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    """A server of its own, whose memory is to be filled; a node, the optimizer, a dashboard."""
    with (
        EmbeddedServer(tmp_path / "server") as server,
        Deployment(tmp_path, server.url) as deployment,
    ):
        app = deployment.configure(CONFIGURATION)
        app.loader.import_task_module("night_operations")
        app.finalize()
        deployment.redis.set("model", "1")
        with running(deployment) as dashboard:
            night = Night(deployment, dashboard)
            is_over = threading.Event()
            traffic = threading.Thread(target=send, args=(night.pool, is_over))
            night.start()
            traffic.start()
            try:
                yield night
            finally:
                is_over.set()
                traffic.join(DEADLINE)
                server_has_memory(night)


def server_has_memory(night: Night) -> None:
    """Let the nodes stop, whatever went wrong."""
    night.server.config_set("maxmemory", "0")


def send(pool: Pool, is_over: threading.Event) -> None:
    """Send some operations, so that there is something to see."""
    while not is_over.wait(0.1):
        try:
            pool.submit("night_operations.serve", ["calm"])
        except OperationalError:  # an incident
            continue


def a_deployment_forgets_a_file(night: Night) -> None:
    began = night.begin()
    night.server.delete("model")
    night.start_node("b")
    words = ("the warm-up fails in night_operations.load", "model.bin", "night_operations.py, line")
    todo = night.named(began, "PooltasksWorkersNotWarm", "pooltasks_size", *words)
    assert "pooltasks check shop" in todo
    night.server.set("model", "1")
    night.over(*words, "workers warm")


def an_operation_raises(night: Night) -> None:
    began = night.begin()
    for order in range(40):
        night.pool.submit("night_operations.pay", [order])
    words = ("night_operations.pay", "RuntimeError: the bank refuses order #")
    todo = night.named(began, "PooltasksOperationsFail", "operations_total.*failure", *words)
    assert "pooltasks errors shop" in todo
    assert "night_operations.py, line" in night.run("pooltasks errors shop")


def a_message_is_poison(night: Night) -> None:
    began = night.begin()
    night.pool.submit("night_operations.parse")
    words = ("1 operation became a dead letter", "night_operations.parse killed its worker")
    todo = night.named(began, "PooltasksDeadLettersGrow", "dead_letters", *words)
    assert "pooltasks errors shop" in todo
    kinds = json.loads(night.run("pooltasks errors shop --json"))["shop"]
    (kind,) = (its["id"] for its in kinds if its["operation"] == "night_operations.parse")
    assert "1 dropped" in night.run(f"pooltasks dead drop shop --kind {kind}")


def the_host_is_full(night: Night) -> None:
    began = night.begin()
    night.pool.submit_many("night_operations.compute", [[0.5]] * 100)
    words = ("the hosts are full", "has memory and processors for")
    todo = night.named(began, "PooltasksHostsFull", "wanted_slots", *words)
    assert "Start a node on another host: celery -A … worker -Q pool.shop" in todo
    night.server.delete("pool.shop")  # there is no other host here


def a_tenant_floods_the_pool(night: Night) -> None:
    began = night.begin()
    night.pool.submit_many("night_operations.serve", [["acme", 0.1]] * 2500)
    words = ("operations that wait are night_operations.serve of 'acme'",)
    todo = night.named(began, "PooltasksObjectiveBurnsFast", "late_operations_total", *words, by=50)
    command = re.search(r"Hold it back: (pooltasks limit .+)", todo)
    assert command is not None, todo
    night.run(command[1])
    calm = night.pool.submit("night_operations.serve", ["calm"])
    assert calm.get(timeout=DEADLINE) == "calm"
    night.run("pooltasks purge shop --yes")
    # What the limit holds back does not wait in the queue, and runs now.
    night.run("pooltasks limit shop night_operations.serve key=acme --reset")
    night.over(*words)


def a_node_is_killed(night: Night) -> None:
    began = night.begin()
    night.nodes["b"].send_signal(signal.SIGKILL)
    words = ("b@night has not answered for",)
    todo = night.named(began, "PooltasksNodeLost", "nodes.*(stale|lost)", *words)
    assert "start the node again" in todo
    night.start_node("b")
    night.over("b@night")


def beat_stops(night: Night) -> None:
    began = night.begin()
    night.beat.terminate()
    words = ("optimizer has stopped",)
    todo = night.named(began, "PooltasksOptimizerSilent", "target_slots", *words, gone=True)
    assert "celery -A … beat" in todo
    night.start_beat()
    night.over(*words)


def the_server_is_out_of_memory(night: Night) -> None:
    began = night.begin()
    night.server.config_set("maxmemory", "1mb")
    words = ("server's memory is full",)
    todo = night.named(began, "PooltasksServerMemoryFull", "memory_ratio", *words)
    assert "redis-cli config set maxmemory" in todo
    night.server.config_set("maxmemory", "0")
    night.over(*words)


INCIDENTS = (
    a_deployment_forgets_a_file,
    an_operation_raises,
    a_message_is_poison,
    the_host_is_full,
    a_tenant_floods_the_pool,
    a_node_is_killed,
    beat_stops,
    the_server_is_out_of_memory,
)


@pytest.mark.timeout(400)  # a night is long where others use the machine
def test_each_incident_is_named_with_what_to_do(night: Night, tmp_path: Path) -> None:
    for incident in INCIDENTS:
        incident(night)
    assert len(night.seen) == len(INCIDENTS)
    assert_alerts_see(night.seen, tmp_path)


def assert_alerts_see(seen: dict[str, tuple[Series, Series]], folder: Path) -> None:
    """Have promtool evaluate the alerts on what was scraped before and in each incident."""
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no promtool on PATH (Debian: apt-get install prometheus)")
        return
    rules = sorted(RULES.glob("*.yml"))
    tests = [
        {
            "interval": "1m",
            "name": alert,
            "input_series": [
                {"series": name, "values": values(before.get(name), after.get(name))}
                for name in sorted({*before, *after})
            ],
            "promql_expr_test": [
                {
                    "expr": f"count(ALERTS{{alertname='{alert}'}})",
                    "eval_time": f"{HOUR + 1}m",
                    "exp_samples": [{"labels": "{}", "value": 1}],
                }
            ],
        }
        for alert, (before, after) in seen.items()
    ]
    file = folder / "night.yml"
    document = {"rule_files": list(map(str, rules)), "evaluation_interval": "1m", "tests": tests}
    file.write_text(yaml.safe_dump(document))
    completed = subprocess.run(
        [promtool, "test", "rules", file], capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


def values(before: float | None, after: float | None) -> str:
    """Return a series in promtool's form: for an hour as before, and then as in the incident."""
    first = f"_x{HOUR}" if before is None else f"{before}x{HOUR - 1}"
    return f"{first} {'stale' if after is None else f'{after}x1'}"
