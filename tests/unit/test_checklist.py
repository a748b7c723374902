"""``pooltasks check``: each planted fault is found, and nothing on a sound deployment."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import TimeoutError as NoAnswer
from click.testing import CliRunner
from redis.exceptions import NoPermissionError, ResponseError

import pooltasks
from pooltasks.cli.checks import (
    checklist,
    code,
    growth,
    hosts,
    monitoring,
    nodes,
    optimizer,
    server,
    smoke,
)
from pooltasks.cli.checks.configured import check_settings
from pooltasks.cli.checks.finding import Finding, worst
from pooltasks.cli.main import main
from pooltasks.dashboard.verdict import Verdict
from pooltasks.errors import PoolSaturated
from pooltasks.metrics.sample import Sample
from pooltasks.metrics.samples import QueueState, StoredSample
from pooltasks.node.host import host_report
from pooltasks.pool_settings import PoolSettings
from pooltasks.pools import Pool
from pooltasks.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from pooltasks.app import PoolApp

MIB = 2**20


def faults(findings: Iterable[Finding]) -> list[Finding]:
    """Return the warnings and errors; each of them says what to do."""
    found = [its for its in findings if its.severity in ("warning", "error")]
    assert all(its.remedy for its in found)
    return found


def the_fault(findings: Iterable[Finding], severity: str, text: str) -> Finding:
    (found,) = faults(findings)
    assert found.severity == severity
    assert text in found.reason
    return found


# The server.

SOUND_SERVER: dict[str, Any] = {
    "redis_version": "7.2.4",
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
    "aof_last_bgrewrite_status": "ok",
    "rdb_last_bgsave_status": "ok",
    "loading": 0,
    "maxmemory_policy": "noeviction",
    "maxmemory": 1000 * MIB,
    "used_memory": 10 * MIB,
    "role": "master",
    "connected_slaves": 1,
    "slave0": {"ip": "10.0.0.2", "port": 6379, "state": "online", "lag": 1},
}
LOOKS: tuple[Callable[[dict[str, Any]], Iterable[Finding]], ...] = (
    server.check_version,
    server.check_persistence,
    server.check_memory,
    server.check_replication,
)


def of_server(**changes: Any) -> list[Finding]:
    return [its for look in LOOKS for its in look({**SOUND_SERVER, **changes})]


def test_nothing_is_wrong_with_a_sound_server() -> None:
    assert [its.reason for its in of_server()] == ["redis 7.2.4"]
    assert not faults(of_server(maxmemory=0, total_system_memory=1000 * MIB))


@pytest.mark.parametrize(
    ("changes", "severity", "text"),
    [
        ({"redis_version": "6.0.16"}, "error", "redis 6.0.16 lacks commands"),
        ({"aof_enabled": 0}, "warning", "it has no append-only file"),
        ({"aof_last_write_status": "err"}, "error", "the last write to its append-only file"),
        ({"aof_last_bgrewrite_status": "err"}, "error", "the last rewrite of its append-only"),
        ({"rdb_last_bgsave_status": "err"}, "error", "its last snapshot failed"),
        ({"loading": 1}, "warning", "still loads"),
        ({"maxmemory_policy": "allkeys-lru"}, "error", "maxmemory-policy is allkeys-lru"),
        ({"used_memory": 850 * MIB}, "warning", "it uses 85% of the 1,000 MiB"),
        ({"used_memory": 990 * MIB}, "error", "full, it refuses operations"),
        (
            {"maxmemory": 0, "total_system_memory": 100 * MIB, "used_memory": 90 * MIB},
            "warning",
            "it uses 90% of the 100 MiB",
        ),
        ({"role": "slave"}, "error", "it is a replica"),
        (
            {"slave0": {**SOUND_SERVER["slave0"], "state": "wait_bgsave"}},
            "warning",
            "its replica 10.0.0.2:6379 is wait_bgsave",
        ),
        ({"slave0": {**SOUND_SERVER["slave0"], "lag": 60}}, "warning", "online, 60 s behind"),
    ],
)
def test_what_is_wrong_with_a_server(changes: dict[str, Any], severity: str, text: str) -> None:
    the_fault(of_server(**changes), severity, text)


@pytest.mark.parametrize(
    ("url", "is_open"),
    [
        ("redis://redis.internal:6379/0", True),
        ("redis://:secret@redis.internal:6379/0", False),
        ("rediss://redis.internal/0?ssl_certfile=/etc/node.crt", False),
        ("redis://127.0.0.1:6379/0", False),
        ("unix:///run/redis.sock", False),
    ],
)
def test_a_server_that_lets_anybody_in_is_told_of(url: str, is_open: bool) -> None:
    assert bool(faults(server.check_access(url))) == is_open


def test_a_slow_server_is_told_of() -> None:
    assert not faults(server.check_latency(0.001))
    the_fault(server.check_latency(0.05), "warning", "it answers this host in 50 ms")


def test_a_queue_that_fills_the_memory_is_told_of() -> None:
    def look(rate: float, size: float) -> list[Finding]:
        return list(growth.check_growth("shop", SOUND_SERVER, rate, size))

    assert not look(0, 1000)
    assert not look(10, 1000)  # a day
    the_fault(look(500, 1000), "warning", "grows by 500 operations a second")
    the_fault(look(5000, 1000), "error", "the server's memory is full in 3 min")


def test_the_growth_of_a_queue_is_that_of_its_samples() -> None:
    def sample(at: float, depth: int) -> StoredSample:
        its = Sample(0, 1.0, 1, 1, 0, 0, 0.0)
        return StoredSample(its, QueueState(at, depth, None))

    assert growth.growth({}) == 0
    assert growth.growth({"a": [sample(0, 0), sample(1, 900)]}) == 0  # too short
    assert growth.growth({"a": [sample(0, 100), sample(5, 600)], "b": [sample(10, 1100)]}) == 100
    assert growth.growth({"a": [sample(0, 100), sample(10, 0)]}) == 0


# The settings.


@pytest.mark.parametrize(
    ("pool", "text"),
    [
        ({"checkout_timeout": 1, "objective": {"wait_ms": 5000}}, "checkout_timeout (1 s)"),
        (
            {"warmup": {"commands": [{"operation": "shop.load", "timeout": 60}]}},
            "a command of the warm-up may take 60 s",
        ),
        ({"warmup": {"command_timeout": 90}}, "a command of the warm-up may take 90 s"),
        ({"recycle_age": 20}, "replaced after recycle_age (20 s)"),
        ({"max_queue": 5}, "max_queue (5) is below the 16 slots"),
        ({"operation_timeout": 100_000}, "an operation may take 100060 s"),
    ],
)
@pytest.mark.usefixtures("bare_environment")
def test_settings_that_do_not_go_together(pool: dict[str, Any], text: str) -> None:
    settings = Settings.load(pools={"shop": pool})
    the_fault(check_settings(settings, ("shop",)), "warning", text)


@pytest.mark.parametrize("profile", ["default", "document"])
@pytest.mark.usefixtures("bare_environment")
def test_nothing_is_wrong_with_the_defaults(profile: str) -> None:
    settings = Settings.load(pools={"shop": {"profile": profile, "max_queue": 1000}})
    assert not faults(check_settings(settings, ("shop",)))


# The code.


@pytest.mark.usefixtures("bare_environment")
def test_a_module_that_cannot_be_imported_is_named_with_its_line(
    make_app: Callable[..., PoolApp], bare_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bare_environment / "night_shop.py").write_text("x = 1\nprices = x['list']\n")
    monkeypatch.syspath_prepend(bare_environment)
    app = make_app(pools={"shop": {"imports": ["night_shop"]}})
    its = the_fault(code.check_pool(app, "shop", warm_up=True), "error", "night_shop.py, line 2")
    assert its.remedy == "Mend the module, or correct [pools.shop]."


def test_a_warm_up_that_names_no_operation_is_told_of(make_app: Callable[..., PoolApp]) -> None:
    commands = [{"operation": "pooltasks.operations.pong"}]
    app = make_app(pools={"shop": {"warmup": {"commands": commands}}})
    the_fault(
        code.check_pool(app, "shop", warm_up=True),
        "error",
        "no operation 'pooltasks.operations.pong'",
    )


def test_a_warm_up_that_fails_is_told_of(make_app: Callable[..., PoolApp]) -> None:
    commands = [{"operation": "pooltasks.operations.execute_code", "args": ["1 / 0"]}]
    app = make_app(pools={"shop": {"warmup": {"commands": commands}}})
    found = code.check_pool(app, "shop", warm_up=True)
    the_fault(found, "error", "its warm-up fails in pooltasks.operations.execute_code")
    assert not faults(code.check_pool(app, "shop", warm_up=False))


def test_an_operation_whose_pool_does_not_exist_is_told_of(
    make_app: Callable[..., PoolApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(pools={"shop": {}})
    for name, pool in (("known", "shop"), ("plain", None), ("tick", "control"), ("stray", "shoop")):
        monkeypatch.setitem(app.tasks, f"night.{name}", SimpleNamespace(pool=pool))
    # Operations that other tests have made are no operations of this deployment.
    own = [its for its in code.check_operations(app) if its.subject.startswith("night.")]
    found = the_fault(own, "error", "there is no pool 'shoop'. Pools: shop.")
    assert found.subject == "night.stray"


def test_a_schedule_that_names_no_operation_is_told_of(make_app: Callable[..., PoolApp]) -> None:
    app = make_app(pools={"shop": {}})
    app.conf.beat_schedule = {"well": {"task": "pooltasks.operations.ping", "schedule": 60}}
    assert not faults(code.check_schedule(app))
    app.conf.beat_schedule["nightly"] = {"task": "shop.no_such", "schedule": 60}
    the_fault(code.check_schedule(app), "error", "the entry 'nightly' of its schedule names")


# The hosts.

HOST: dict[str, Any] = {
    "versions": {"pooltasks": "0.1.0", "celery": "5.7.0", "python": "3.11.7"},
    "ahead": 0.01,
    "files": 1000,
    "processes": 4000,
    "memory": 4000 * MIB,
}


@pytest.mark.parametrize(
    ("host", "pool", "worker", "text"),
    [
        ({"files": 100}, {}, None, "it may open 100 more files, and 16 workers need about 192"),
        ({"processes": 20}, {}, None, "it may start 20 more processes, and 16 workers need"),
        ({}, {}, 300.0 * MIB, "there is room for 12"),
        ({"memory": 512 * MIB}, {"memory_limit_mb": 200}, None, "there is room for 2"),
        ({}, {"spares": 30, "memory_limit_mb": 100}, None, "46 workers of 100 MiB"),
        (
            {"memory": 100 * MIB},
            {"enable_optimizer": False, "memory_limit_mb": 50},
            None,
            "4 workers of 50 MiB",
        ),
    ],
)
def test_a_host_that_is_too_small_for_the_pool(
    host: dict[str, Any], pool: dict[str, Any], worker: float | None, text: str
) -> None:
    settings = PoolSettings(**pool)
    found = hosts.check_limits("shop@host", settings, {**HOST, **host}, worker=worker)
    the_fault(found, "warning", text)


def test_nothing_is_wrong_with_a_host_that_has_room() -> None:
    unlimited = dict.fromkeys(HOST)
    for report in (HOST, unlimited):
        found = hosts.check_limits("shop@host", PoolSettings(), report, worker=100.0 * MIB)
        assert not faults(found)
    # What its workers have taken already does not count again.
    tight = {**HOST, "files": 0, "processes": 0}
    assert not faults(hosts.check_limits("", PoolSettings(), tight, worker=None, present=16))


def test_a_clock_that_is_wrong_is_told_of() -> None:
    for fine in (None, 0.5, -0.5):
        assert not faults(hosts.check_clock("shop@host", fine))
    the_fault(hosts.check_clock("shop@host", 3.0), "warning", "its clock is 3.0 s ahead of")
    the_fault(hosts.check_clock("shop@host", -3.0), "warning", "its clock is 3.0 s behind")


def test_versions_that_run_beside_each_other_are_told_of_but_in_a_deployment() -> None:
    other = {**HOST, "versions": {**HOST["versions"], "pooltasks": "0.2.0"}}
    reports = {"shop@one": HOST, "shop@two": other}
    found = hosts.check_versions(reports, mixed=False)
    the_fault(found, "warning", "pooltasks: 0.1.0 on shop@one; 0.2.0 on shop@two")
    assert not faults(hosts.check_versions(reports, mixed=True))
    (same,) = hosts.check_versions({"shop@one": HOST, "shop@two": HOST}, mixed=False)
    assert same.reason == "pooltasks 0.1.0, celery 5.7.0, python 3.11.7 on every node"
    assert not hosts.check_versions({}, mixed=False)  # nothing runs yet


def test_a_host_says_what_it_allows(make_app: Callable[..., PoolApp], tmp_path: Path) -> None:
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (tmp_path / "proc" / "self" / "fd").mkdir(parents=True)
    (group / "pids.max").write_text("100\n")
    (group / "pids.current").write_text("40\n")
    (group / "memory.max").write_text(f"{512 * MIB}\n")
    report = host_report(make_app(), tmp_path)
    assert report["versions"]["pooltasks"] == pooltasks.__version__
    assert report["processes"] == 60
    assert report["memory"] == 512 * MIB
    assert abs(report["ahead"]) < 1
    (group / "memory.max").write_text("max\n")
    assert host_report(make_app(), tmp_path)["memory"] > 512 * MIB


# The nodes.

SAID: dict[str, Any] = {
    "pool": "shop",
    "warm": 2,
    "size": 2,
    "draining": False,
    "empty": False,
    "warm_up": {"last_failure": None},
}
GOOD = Verdict("good", "1 node, 2 warm workers.", frozenset())
FAILURE = "shop.load: FileNotFoundError: model.bin (/srv/shop.py, line 23)"


def of_versions(*versions: str, rollout: Any = None) -> Any:
    """Return the evidence of a pool with a node of each version."""
    present = [
        SimpleNamespace(name=f"shop{number}@host/7", version=version, state="live")
        for number, version in enumerate(versions)
    ]
    gone = SimpleNamespace(name="gone@host/1", version="0", state="stale")
    return SimpleNamespace(
        pool="shop",
        application="proj",
        settings=PoolSettings(),
        metrics=SimpleNamespace(nodes=[*present, gone]),
        rollout=rollout,
    )


def standing(said: dict[str, Any] | None = None, verdict: Verdict = GOOD, **changes: Any) -> Any:
    """Return how a pool stands; a sound one if nothing is changed."""
    running = {} if said is None else {"shop@host": said}
    its = {
        "nodes": running,
        "states": dict.fromkeys(running, "live"),
        "verdict": verdict,
        "paused": None,
        "decision": object(),
        "evidence": of_versions(),
    }
    return SimpleNamespace(**{**its, **changes})


def test_nothing_is_wrong_with_sound_nodes() -> None:
    for phase in (None, "during", "after"):
        (found,) = nodes.check_nodes(standing(SAID), phase)  # type: ignore[arg-type]
        assert found.severity == "ok"
    assert not list(nodes.check_nodes(standing(), None))  # nobody serves it yet


def test_a_warm_up_that_fails_on_one_node_is_told_of() -> None:
    partly = {**SAID, "warm": 1, "warm_up": {"last_failure": FAILURE}}
    found = the_fault(nodes.check_nodes(standing(partly), None), "warning", FAILURE)
    assert found.subject == "shop@host"
    none = {**partly, "warm": 0}
    the_fault(nodes.check_nodes(standing(none), "during"), "error", "0 of 2 workers warm")


def test_a_node_that_was_drained_and_forgotten_is_told_of() -> None:
    drained = {**SAID, "draining": True, "empty": True}
    for phase in (None, "after"):
        found = nodes.check_nodes(standing(drained), phase)  # type: ignore[arg-type]
        the_fault(found, "warning", "it is drained and still runs")
    assert not faults(nodes.check_nodes(standing(drained), "during"))


def test_nodes_of_different_versions_are_told_of_where_no_rollout_is_under_way() -> None:
    def look(*versions: str, phase: Any = None, **rollout: Any) -> list[Finding]:
        its = SimpleNamespace(**rollout) if rollout else None
        evidence = of_versions(*versions, rollout=its)
        return list(nodes.check_nodes(standing(SAID, evidence=evidence), phase))

    for phase in (None, "after"):
        found = the_fault(look("2", "1", "2", phase=phase), "warning", "no rollout is under way")
        assert found.subject == "versions of shop"
        assert "1 on shop1@host; 2 on shop0@host, shop2@host" in found.reason
        assert "one after the other" in str(found.remedy)
    the_fault(look("", "1"), "warning", "no version on shop0@host; 1 on shop1@host")
    assert not faults(look("1", "2", phase="during"))
    assert not faults(look("1", "1"))
    assert not faults(look("1", "2", is_live=True))
    ended = the_fault(
        look("1", "2", is_live=False, retires=lambda version: version == "1"), "warning", "1 out"
    )
    assert ended.remedy == "Stop the nodes of 1: they take nothing."


def test_a_pool_that_nobody_serves_after_the_deployment_is_told_of() -> None:
    the_fault(nodes.check_nodes(standing(), "after"), "error", "no node serves this pool")


def test_what_is_wrong_with_a_pool_is_told_as_status_tells_it() -> None:
    lost = Verdict("bad", "shop@host has not answered.", frozenset({"nodes"}), "Start it again.")
    found = the_fault(nodes.check_nodes(standing(SAID, lost), None), "error", lost.text)
    assert found.remedy == "Start it again."
    late = Verdict("fair", "The oldest operation has waited 9 s.", frozenset({"oldest"}))
    the_fault(nodes.check_nodes(standing(SAID, late), None), "warning", late.text)


# The optimizer.


def test_nothing_is_wrong_with_an_optimizer_that_decides() -> None:
    assert not faults(optimizer.check_optimizer([standing(SAID)], standing(SAID)))
    assert not list(optimizer.check_optimizer([standing()], standing()))  # nothing runs yet


@pytest.mark.parametrize(
    ("pool", "control", "text"),
    [
        ({}, None, "no node serves the control pool"),
        ({"decision": None}, SAID, "it decides nothing for shop: beat does not run"),
        ({"paused": 300.0}, SAID, "it is paused for shop, 300 s more"),
    ],
)
def test_what_keeps_the_optimizer_from_its_work(
    pool: dict[str, Any], control: dict[str, Any] | None, text: str
) -> None:
    found = optimizer.check_optimizer([standing(SAID, **pool)], standing(control))
    the_fault(found, "warning", text)


# A smoke operation.


@pytest.mark.parametrize(
    ("raised", "text"),
    [
        (NoAnswer(), "has no result after 5 s"),
        (PoolSaturated("the pool is full"), "fails: PoolSaturated: the pool is full"),
    ],
)
def test_an_operation_that_does_not_come_back_is_told_of(
    make_app: Callable[..., PoolApp],
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    text: str,
) -> None:
    app = make_app(pools={"shop": {}})
    monkeypatch.setattr(Pool, "execute", lambda *_, **__: {"status": "ok"})
    assert smoke.check_round(app, "shop").severity == "ok"

    def fail(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr(Pool, "execute", fail)
    the_fault([smoke.check_round(app, "shop")], "error", text)


def test_a_user_who_may_not_send_is_no_fault_of_the_pool(
    make_app: Callable[..., PoolApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise NoPermissionError("this user has no permissions")

    monkeypatch.setattr(Pool, "execute", refuse)
    found = smoke.check_round(make_app(pools={"shop": {}}), "shop")
    assert found.severity == "skipped"
    assert found.reason.startswith("this user may not send operations")


# The monitoring.


def rule(metric: str, **changes: Any) -> dict[str, Any]:
    return {"name": metric, "query": f"{metric} > 0", "health": "ok", "alerts": [], **changes}


RULES = [
    rule(metric)
    for metric in (
        "pooltasks_up",
        "pooltasks_nodes",
        "job_pool:pooltasks_failures:ratio_rate10m",
        "pooltasks_oldest_age_seconds",
        "pooltasks_dead_letters",
    )
]
FIRING = {
    "state": "firing",
    "labels": {"alertname": "PooltasksNodeLost"},
    "annotations": {"summary": "Pool shop: a node was lost", "description": "Start it again."},
}


def prometheus(rules: list[dict[str, Any]] = RULES, up: str | None = "1") -> Callable[[str], Any]:
    """Return a Prometheus that reads the pools and watches them."""

    def ask(path: str) -> Any:
        if path.startswith("rules"):
            return {"groups": [{"rules": rules}]}
        return {"result": [] if up is None else [{"value": [0, up]}]}

    return ask


def test_nothing_is_wrong_with_alerts_that_are_loaded() -> None:
    assert not faults(monitoring.check_exporter(prometheus()))
    assert not faults(monitoring.check_alerts(prometheus(), "after"))


@pytest.mark.parametrize(
    ("up", "severity", "text"),
    [
        (None, "warning", "it scrapes no exporter and no dashboard"),
        ("0", "error", "cannot read the server"),
    ],
)
def test_what_is_wrong_with_the_exporter(up: str | None, severity: str, text: str) -> None:
    the_fault(monitoring.check_exporter(prometheus(up=up)), severity, text)


@pytest.mark.parametrize(
    ("rules", "severity", "text"),
    [
        ([], "warning", "none watches the pools"),
        ([rule("node_load1")], "warning", "none watches the pools"),
        (RULES[1:], "warning", "none watches a server that is away"),
        (
            [*RULES, rule("pooltasks_size", health="err", lastError="no such metric")],
            "error",
            "pooltasks_size cannot be evaluated: no such metric",
        ),
        (
            [*RULES, rule("pooltasks_size", alerts=[FIRING])],
            "warning",
            "PooltasksNodeLost fires: Pool shop: a node was lost",
        ),
    ],
)
def test_what_is_wrong_with_the_alerts(
    rules: list[dict[str, Any]], severity: str, text: str
) -> None:
    the_fault(monitoring.check_alerts(prometheus(rules), None), severity, text)


def test_an_alert_that_fires_before_a_deployment_is_no_fault_of_it() -> None:
    rules = [*RULES, rule("pooltasks_size", alerts=[FIRING])]
    assert not faults(monitoring.check_alerts(prometheus(rules), "before"))


def test_a_prometheus_that_does_not_answer_is_told_of() -> None:
    the_fault(
        monitoring.check_monitoring("http://127.0.0.1:1", None), "error", "http://127.0.0.1:1"
    )
    (found,) = monitoring.check_monitoring(None, None)
    assert found.severity == "skipped"
    assert "--prometheus" in (found.remedy or "")


# The command.


def test_the_command_without_a_server_goes_on_and_says_so(
    bare_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bare_environment / "night_app.py").write_text(
        "from pooltasks.app import PoolApp\napp = PoolApp('night', set_as_current=False)\n"
    )
    monkeypatch.syspath_prepend(bare_environment)
    monkeypatch.setenv("POOLTASKS_REDIS_URL", "unix:///no/such/socket?db=0")
    monkeypatch.setenv("POOLTASKS_POOLS__SHOP__MAX_QUEUE", "3")
    result = CliRunner().invoke(main, ["-A", "night_app", "check", "--json", "--no-warm-up"])
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["severity"] == "error"
    said = {(its["subject"], its["severity"]) for its in answer["findings"]}
    assert {("server", "error"), ("pool.shop", "warning"), ("pool.shop", "ok")} <= said
    text = CliRunner().invoke(main, ["-A", "night_app", "check", "--no-warm-up"]).stdout
    assert "FAIL server: The server unix:" in text
    assert "       Start it, or correct POOLTASKS_REDIS_URL." in text


def test_a_server_that_refuses_to_ask_the_nodes_is_a_finding_as_others(
    make_app: Callable[..., PoolApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise ResponseError("command not allowed when used memory > 'maxmemory'.")

    monkeypatch.setattr(checklist, "statuses", refuse)
    monkeypatch.setattr(server, "ask_server", lambda _: (SOUND_SERVER, []))
    app = make_app(pools={"shop": {}})
    found = list(checklist.Checklist(app, ("shop",), "after").findings())
    its = the_fault(found, "error", "refuses the command: command not allowed when used memory")
    assert not its.reason.endswith("..")
    assert found[-1].subject == "alerts"  # the rest is looked at


def test_the_worst_finding_is_the_severity_of_all() -> None:
    assert worst([]) == "ok"
    every = [Finding("", severity, "") for severity in ("ok", "warning", "skipped")]
    assert worst(every) == "warning"
