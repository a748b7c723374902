"""``pooltasks rollout``, and what ``status``, the pages and Prometheus say of a rollout."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import fakeredis
import pytest
from celery.bin.base import CLIContext
from click.testing import CliRunner

from pooltasks import keys
from pooltasks.cli.rollout import rollout
from pooltasks.dashboard.actions import ACTIONS, carry_out
from pooltasks.dashboard.audit import AuditLog
from pooltasks.dashboard.rollouts import finding, shown
from pooltasks.dashboard.verdict import Evidence, verdict
from pooltasks.metrics.families import families
from pooltasks.metrics.rollout_store import RolloutStore
from pooltasks.metrics.sample import FORMAT, Sample
from pooltasks.metrics.samples import SampleStore
from pooltasks.metrics.standings import Standings
from pooltasks.pool_settings import Objective
from pooltasks.pools import Pool

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from pooltasks.app import PoolApp


@pytest.fixture
def client() -> redis.Redis:
    return fakeredis.FakeRedis()


@pytest.fixture
def app(make_app: Callable[..., PoolApp], client: redis.Redis) -> PoolApp:
    app = make_app(pools={"code": {}, "other": {}})
    app.pooltasks.client = client
    return app


@pytest.fixture
def store(client: redis.Redis) -> RolloutStore:
    return RolloutStore(client, "code")


@pytest.fixture
def run(app: PoolApp) -> Callable[..., str]:
    def call(*arguments: str, code: int = 0) -> str:
        context = CLIContext(app=app, no_color=True, workdir=None)
        done = CliRunner().invoke(rollout, arguments, obj=context)
        assert done.exit_code == code, done.output
        return done.output

    return call


def there_is(client: redis.Redis, version: str, pool: str = "code", **changes: Any) -> None:
    """Have a node tell of itself."""
    its = replace(Sample(0, 1.0, 2, 2, 0, 0, 0.0, version=version), **changes)
    store = SampleStore(client, pool, [keys.queue(pool)], Objective())
    store.write(f"{pool}-{version}@host/1", its)


@pytest.fixture
def served(client: redis.Redis) -> None:
    there_is(client, "1")
    there_is(client, "", "control")


def test_a_rollout_is_refused_before_anything_is_changed(run, client, store):
    assert "Name the pools: code, other" in run("start", "2", code=2)
    assert "allowed: 1 to 64 letters" in run("start", "2 b", "code", code=2)
    assert "No node serves code" in run("start", "2", "code", code=1)
    there_is(client, "1")
    assert "No control node runs" in run("start", "2", "code", code=1)
    there_is(client, "", "control")
    assert "have the version 1" in run("start", "1", "code", code=1)
    there_is(client, "3")
    assert "have the versions 1, 3" in run("start", "2", "code", code=1)
    client.xadd(keys.node_samples("code", "x@host/9"), {"sample": b"v0 0  x"})
    client.zadd(keys.pool_nodes("code"), {"x@host/9": client.time()[0]})
    assert "another version of pooltasks" in run("start", "2", "code", code=1)
    assert not FORMAT.startswith(b"v0")
    assert store.read() is None


def test_metrics_an_optimizer_and_the_transport_are_needed(make_app, client):
    there_is(client, "1")
    for changes, word in (
        ({"pools": {"code": {"enable_metrics": False}}}, "enable_metrics = false"),
        ({"pools": {"code": {}}, "broker_transport": "stock"}, "broker_transport = 'stock'"),
        ({"pools": {"code": {"enable_optimizer": False}}}, "enable_optimizer = false"),
    ):
        other = make_app(**changes)
        other.pooltasks.client = client
        context = CLIContext(app=other, no_color=True, workdir=None)
        done = CliRunner().invoke(rollout, ["start", "2"], obj=context)
        assert done.exit_code == 1
        assert word in done.output


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(("text", "is_fair"), [("- - - 1", True), ("2 - -", False)])
def test_a_pool_with_a_fair_operation_is_not_rolled_out_by_share(run, client, store, text, is_fair):
    client.hset(keys.flow(keys.queue("code"), "limits"), "code jobs.run", text)
    said = run("start", "2", "code", code=int(is_fair))
    assert (store.read() is None) == is_fair
    assert ("its operation jobs.run is fair" in said) == is_fair
    assert ("restart its nodes one after the other" in said) == is_fair


@pytest.mark.usefixtures("served")
def test_a_rollout_is_led_by_hand(run, client, store):
    assert "No rollout goes on" in run("abort", code=1)
    assert "Start nodes with POOLTASKS_VERSION=2" in run("start", "2", "code")
    assert "has a rollout that goes on" in run("start", "2", "code", code=1)
    assert "has no warm worker of version 2" in run("promote", code=1)
    there_is(client, "2")
    assert "version 2 has 5 %" in run("promote")
    assert "keeps 5 %" in run("pause", "code")
    assert "paused" in run("status")
    assert "goes on at 5 %" in run("pause", "--undo")
    for share in (10, 25, 50, 75, 100):
        assert f"version 2 has {share} %" in run("promote", "code")
    assert "has taken over from 1: by hand" in run("promote", "code")
    text = run("status", "code")
    assert "1: 1 node, 2 warm workers" in text
    assert text.count("by hand") == 7
    actions = [each["action"] for each in AuditLog(client, "code").latest(20)]
    assert actions == ["rollout promote"] * 6 + ["rollout pause"] * 2 + [
        "rollout promote",
        "rollout start",
    ]
    found = json.loads(run("status", "--json"))["code"]
    assert (found["state"], found["version"], found["retired"]) == ("done", "2", ["1"])
    assert "every version" in run("forget", "code")
    assert store.read() is None
    assert "There is no rollout to forget" in run("forget", code=1)


@pytest.fixture
def act(app: PoolApp) -> Callable[..., str]:
    """Do something on the page."""

    def call(name: str, *, refused: bool = False, **arguments: Any) -> str:
        action = ACTIONS[f"rollout-{name}"](**arguments)
        done = carry_out(app, "code", action, "alice", "192.0.2.7")
        assert done.succeeded != refused, done.outcome
        return done.outcome

    return call


@pytest.mark.usefixtures("served")
def test_a_rollout_is_led_on_the_page_as_at_the_command_line(act, client, run, store):
    assert "allowed: 1 to 64 letters" in act("start", version="2 b", refused=True)
    assert act("start", version="2").startswith("The rollout of 2 has begun, before 1.")
    assert "has a rollout that goes on" in act("start", version="3", refused=True)
    seen = {"version": "2", "share": 0}
    assert "has no warm worker of version 2" in act("promote", **seen, refused=True)
    there_is(client, "2")
    assert act("promote", **seen).startswith("Version 2 has 5 % for 0 s, 1 the rest")
    # Somebody looks at a page that is a step behind, or at another version.
    for stale in (seen, {"version": "1", "share": 5}):
        for name in ("promote", "pause", "abort", "forget"):
            text = act(name, **stale, refused=True)
            assert text.startswith("Nothing was changed, as the rollout has gone on: version 2")
    seen = {"version": "2", "share": 5}
    assert act("pause", **seen) == "2 keeps 5 %."
    assert store.read().paused
    assert act("pause", **seen, undo=True) == "The rollout of 2 goes on at 5 %."
    assert not store.read().paused
    assert "End it: pooltasks rollout abort code" in act("forget", **seen, refused=True)
    assert act("abort", **seen) == (
        "2 is rolled back; 1 runs everything. Stop the nodes of 2: they take nothing."
    )
    assert "has gone on meanwhile" in act("abort", **seen, refused=True)
    assert act("forget", **seen) == "Nodes of every version take operations."
    assert act("forget", **seen, refused=True).startswith("code has no rollout any more")
    assert "There is no rollout" in run("status")
    latest = AuditLog(client, "code").latest(30)
    done = [each["action"] for each in latest if each["succeeded"]]
    names = ("forget", "abort", "pause", "pause", "promote", "start")
    assert done == [f"rollout {name}" for name in names]
    assert latest[-2]["arguments"] == {"version": "2"}
    assert {(each["user"], each["address"]) for each in latest} == {("alice", "192.0.2.7")}


@pytest.mark.usefixtures("served")
def test_what_was_rolled_back_is_an_exit_code(run):
    run("start", "2", "code")
    assert "goes on" in run("forget", code=1)
    assert "1 runs everything. Stop the nodes of 2" in run("abort")
    assert "version 2 was rolled back at 0 %: by hand" in run("status", "--wait", code=1)
    assert "There is no rollout" in run("status", "other")


def evidence(app: PoolApp, store: RolloutStore, **changes: Any) -> Evidence:
    pool = Pool("code", app)
    its = store.read()
    assert its is not None
    return Evidence("code", pool.settings, pool.metrics(60), rollout=replace(its, **changes))


@pytest.mark.usefixtures("served")
def test_a_verdict_speaks_of_the_rollout(app, client, store):
    store.start("1", "2")
    there_is(client, "2")
    its = evidence(app, store, looked=store.read().at, share=25)
    assert "version 2 has 25 % of the operations" in verdict(its).text.lower()
    assert finding(its).kind == "remark"
    # Nobody looks after it.
    away = finding(evidence(app, store, since=0.0))
    assert away.kind == "problem"
    assert "status control" in away.remedy
    store.end(store.read(), "aborted", "9 of 90 failed")
    its = evidence(app, store)
    assert "9 of 90 failed" in verdict(its).text
    assert "rollout status code" in verdict(its).remedy
    # Long ago, and its nodes are gone.
    there_is(client, "2", stopped=True, number=1)
    assert finding(evidence(app, store, ended=1.0)) is None


def test_a_pool_whose_nodes_are_all_out_of_use_is_bad(app, client, store):
    there_is(client, "1", draining=True)
    store.start("1", "2")
    store.end(store.read(), "done", "well")
    its = evidence(app, store)
    assert verdict(its).level == "bad"
    assert "pooltasks rollout forget code" in verdict(its).remedy


@pytest.mark.usefixtures("served")
def test_the_page_shows_both_versions(app, client, store):
    assert shown(None, ()) is None
    store.start("1", "2")
    there_is(client, "2")
    its = evidence(app, store)
    page = shown(its.rollout, its.metrics.nodes)
    assert page["sentence"].startswith("Version 2 has 0 %")
    assert [(side["version"], side["nodes"], side["takes"]) for side in page["sides"]] == [
        ("1", 1, True),
        ("2", 1, True),
    ]
    assert page["sides"][0]["finished"] is None
    store.end(store.read(), "done", "well")
    its = evidence(app, store)
    assert [side["takes"] for side in shown(its.rollout, its.metrics.nodes)["sides"]] == [
        False,
        True,
    ]


@pytest.mark.usefixtures("served")
def test_prometheus_has_versions_and_the_share(app, client, store):
    there_is(client, "2")
    store.start("1", "2")
    store.step(store.read(), 25, "well")

    def seen(name: str) -> dict[tuple[str, ...], float]:
        standings = Standings(app, client)
        found = families(standings.pools, standings.read(), up=True)
        (family,) = [family for family in found if family.name == name]
        return {
            tuple(each.labels.values()): each.value
            for each in family.samples
            if each.labels["pool"] == "code"
        }

    assert seen("pooltasks_version_nodes") == {("code", "1"): 1, ("code", "2"): 1}
    assert seen("pooltasks_rollout_ratio") == {("code", "2", "live"): 0.25}
    store.end(store.read(), "aborted", "worse")
    assert seen("pooltasks_rollout_ratio") == {("code", "2", "aborted"): 0}
