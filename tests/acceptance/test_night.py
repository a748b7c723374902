"""A night with eight incidents on one deployment: each is named in words, with what to do.

``pooltasks status``, the page of all pools and the alert say the same thing. What they say to
do is done where that is possible on one host, and ends the incident.
"""

from __future__ import annotations

import json
import os
import re
import resource
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
from pooltasks.broker.asking import REPLY_TIMEOUT
from pooltasks.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.long, pytest.mark.timing]

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
SECONDS = 5.0
"""Seconds within which an incident is named on a machine that does nothing else. Where processes
wait for a processor, those that name it wait as ``status`` does, and that is added."""
LOOK = 0.2
"""Seconds from look to look at the pages, whose dashboard shares the machine with all this."""
REST = 4.0
"""Seconds without a sample, as nodes at rest have them."""
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
        self.after: dict[str, dict[str, float]] = {}
        """Of each alert: the seconds after which page, metrics and status named its incident, and
        those that were allowed."""
        self._before: Series = {}
        self._never = threading.Event()

    def start(self) -> None:
        self.start_node("a")
        self.deployment.start_node("-Q", "pool.control", "-n", "control@night")
        self.type("celery -A pooltasks beat")
        wait_until(lambda: self.verdict()["level"] == "good", "all is well", PATIENCE)
        wait_until(lambda: "target_slots" in str(self.series()), "the optimizer decides", PATIENCE)

    def start_node(self, name: str) -> None:
        self.type(f"celery -A pooltasks worker -Q pool.shop -n {name}@night")

    def type(self, command: str) -> None:
        """Run a command that stays: a node, or beat."""
        celery, option, application, program, *options = shlex.split(command)
        assert [celery, option, application] == ["celery", "-A", "pooltasks"]
        if program == "beat":
            self.beat = self.deployment.start_beat()
            return
        # Two processors, so that its host can be full. Its operations compute; the pages and
        # the commands would be on other hosts.
        own = sorted(os.sched_getaffinity(0))[:2]
        under = ("nice", "-n", "5", "taskset", "-c", ",".join(map(str, own)))
        self.nodes[options[-1]] = self.deployment.start_node(*options, under=under)

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
        """Wait until all tell of an incident; return all that they say to do.

        Page and metrics are to tell of it within 5 s, and ``status`` when it is typed then.

        Args:
            began: When it began.
            alert: Which is to see it at its next evaluation.
            shows: A pattern of a series that is other than before then.
            *words: That name it.
            by: By how much more than this.
            gone: Whether the series is not there then.
        """
        after: dict[str, float] = {}
        verdict: dict[str, Any] = {}

        def told() -> bool:
            nonlocal verdict
            if "page" not in after:
                verdict = self.verdict()
                if all(word in verdict["text"] for word in words):
                    after["page"] = time.monotonic() - began
            if "alert" not in after:
                series = self._changed(shows, by, gone=gone)
                if series is not None:
                    after["alert"] = time.monotonic() - began
                    self.seen[alert] = self._before, series
            return len(after) == 2

        wait_until(told, f"page and metrics tell of {words}", PATIENCE)
        waited = 0.0
        while "status" not in after:
            asked = time.monotonic() - began
            completed, waited = self._status()
            if all(word in completed.stdout for word in words):
                after["status"] = asked
            assert asked < PATIENCE, completed.stdout + completed.stderr
        self.after[alert] = {**after, "allowed": SECONDS + waited}
        return "\n".join(filter(None, [verdict["remedy"], *verdict["more"]]))

    def _status(self) -> tuple[subprocess.CompletedProcess[str], float]:
        """Run ``status``; return for how long it waited for a processor, too."""
        began, used = time.monotonic(), processor_time()
        completed = self.deployment.run("pooltasks", "status")
        took = time.monotonic() - began
        return completed, max(0.0, took - (processor_time() - used) - REPLY_TIMEOUT)

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


def processor_time() -> float:
    """Return the seconds of processor time of the processes that this one waited for."""
    its = resource.getrusage(resource.RUSAGE_CHILDREN)
    return its.ru_utime + its.ru_stime


def name_of(name: str, labels: dict[str, str]) -> str:
    pairs = "".join(f", {label}={json.dumps(value)}" for label, value in labels.items())
    return f'{name}{{job="pooltasks"{pairs}}}'


@pytest.fixture
def quiet_night(tmp_path: Path) -> Iterator[Night]:
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
            night.start()
            yield night


@pytest.fixture
def night(quiet_night: Night) -> Iterator[Night]:
    """The same under some traffic."""
    is_over = threading.Event()
    traffic = threading.Thread(target=send, args=(quiet_night.pool, is_over))
    traffic.start()
    try:
        yield quiet_night
    finally:
        is_over.set()
        traffic.join(DEADLINE)
        server_has_memory(quiet_night)


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
    night.begin()
    night.server.delete("model")
    night.start_node("b")
    # It takes a node some seconds to come that far.
    failed_at = wait_until(lambda: night.server.get("missed"), "the warm-up has failed", PATIENCE)
    began = time.monotonic() - (time.time() - float(failed_at))
    words = ("the warm-up fails in night_operations.load", "model.bin", "night_operations.py, line")
    todo = night.named(began, "PooltasksWorkersNotWarm", "pooltasks_size", *words)
    assert "pooltasks check shop" in todo
    tried = night.deployment.run("pooltasks", "check", "shop")
    assert "the warm-up fails in night_operations.load" in tried.stdout, tried.stdout
    night.server.set("model", "1")
    night.over(*words, "workers warm")


def an_operation_raises(night: Night) -> None:
    began = night.begin()
    for order in range(40):
        night.pool.submit("night_operations.pay", [order])
    words = ("night_operations.pay", "RuntimeError: the bank refuses order #")
    todo = night.named(began, "PooltasksOperationsFail", "operations_total.*failure", *words, by=19)
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
    assert "pooltasks dead drop shop --kind KIND" in todo
    assert "1 dropped" in night.run(f"pooltasks dead drop shop --kind {kind}")
    night.over("dead letter")


def the_host_is_full(night: Night) -> None:
    began = night.begin()
    night.pool.submit_many("night_operations.compute", [[0.5]] * 100)
    words = ("the hosts are full", "has memory and processors for")
    todo = night.named(began, "PooltasksHostsFull", "wanted_slots", *words)
    assert "Start a node on another host: celery -A pooltasks worker -Q pool.shop" in todo
    night.server.delete("pool.shop")  # there is no other host here


def a_tenant_floods_the_pool(night: Night) -> None:
    began = night.begin()
    night.pool.submit_many("night_operations.serve", [["acme", 0.1]] * 1500)
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
    night.nodes["b@night"].send_signal(signal.SIGKILL)
    words = ("b@night has not answered for",)
    todo = night.named(began, "PooltasksNodeLost", "nodes.*(stale|lost)", *words)
    command = re.search(r"start the node again: (celery .+)", todo)
    assert command is not None, todo
    night.type(command[1])
    night.over("b@night")


def beat_stops(night: Night) -> None:
    began = night.begin()
    night.beat.terminate()
    words = ("optimizer has stopped",)
    todo = night.named(began, "PooltasksOptimizerSilent", "target_slots", *words, gone=True)
    command = re.search(r"Start beat \((celery [^)]+)\)", todo)
    assert command is not None, todo
    night.type(command[1])
    night.over(*words)


def the_server_is_out_of_memory(night: Night) -> None:
    began = night.begin()
    night.server.config_set("maxmemory", "1mb")
    words = ("server's memory is full",)
    todo = night.named(began, "PooltasksServerMemoryFull", "memory_ratio", *words)
    command = re.search(r"redis-cli (config set maxmemory )SIZE", todo)
    assert command is not None, todo
    night.server.execute_command(*command[1].split(), "256mb")
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
    told = json.dumps(night.after, indent=2)
    print(told)  # noqa: T201  pytest shows it with -s
    for after in night.after.values():
        assert max(after.values()) <= after["allowed"], told
    assert_alerts_see(night.seen, tmp_path)


def test_a_node_that_is_killed_at_rest_is_named(quiet_night: Night) -> None:
    night, pool = quiet_night, quiet_night.pool

    def rests() -> bool:
        return any(node.silent > REST for node in pool.metrics(1.0).nodes)

    wait_until(rests, "the node writes seldom", PATIENCE)
    # Right after a sample: the next one is due the latest.
    wait_until(lambda: not rests(), "it has written", PATIENCE)
    began = time.monotonic()
    night.nodes["a@night"].send_signal(signal.SIGKILL)
    word = "a@night has not answered for"
    wait_until(lambda: word in night.verdict()["text"], "the page names it", PATIENCE)
    after = time.monotonic() - began
    completed, waited = night._status()
    assert word in completed.stdout, completed.stdout
    assert after <= SECONDS + waited


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
