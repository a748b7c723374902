"""``pooltasks limit``: what limits hold back is shown, and a change holds at once."""

from __future__ import annotations

import json

import pytest
import redis
from celery.bin.base import CLIContext
from click.testing import CliRunner
from flow import QUEUE, make_app, make_operation
from node_session import Node

from pooltasks import keys
from pooltasks.broker.limit_store import LimitStore
from pooltasks.broker.limiting import Limits
from pooltasks.broker.wire import pack
from pooltasks.cli.limit import limit
from pooltasks.dashboard.audit import AuditLog

LIMITS = Limits(key="note", concurrency=1)
NAME = "jobs.run"


@pytest.fixture
def server(valkey_url):
    with redis.Redis.from_url(valkey_url) as client:
        yield client


@pytest.fixture
def app(valkey_url):
    app = make_app(valkey_url)
    yield app
    app.close()


@pytest.fixture
def node(app, valkey_url):
    """A node that has reserved what it may, of four operations of "a" and one of "b c"."""
    operation = make_operation(app, NAME, limits=LIMITS)
    node = Node(valkey_url, QUEUE, limited=True, operations=(NAME,))
    told = pack(("HSET", node.names.limits, f"code {NAME}", LIMITS.text()))
    node.session.send_until_done(told)
    for number in range(4):
        operation.delay(number, note="a")
    operation.delay(4, note="b c")
    node.turn_until(lambda: not node.session.side.is_owed(), "the answer")
    node.reserve()
    yield node
    node.die()


@pytest.fixture
def run(app):
    def call(*arguments, code=0):
        context = CLIContext(app=app, no_color=True, workdir=None)
        done = CliRunner().invoke(limit, ["code", *arguments], obj=context)
        assert done.exit_code == code, done.output
        return done.output

    return call


@pytest.mark.usefixtures("node")
def test_each_key_that_has_something_to_run_is_shown(run):
    lines = [line.split() for line in run().splitlines()]
    assert lines[1][:6] == [NAME, "a", "1", "0", "-", "3"]
    assert lines[2][:7] == [NAME, "b", "c", "1", "0", "-", "0"]
    (first, second) = json.loads(run("--json"))
    assert (first["key"], first["held"], second["key"]) == ("a", 3, "b c")
    assert first["limit"] == {
        "concurrency": 1,
        "rate": None,
        "burst": None,
        "weight": None,
    }


def test_a_change_for_one_key_lets_those_go_on_that_it_allows(run, node, server):
    assert "3 at once" in run(NAME, "note=a", "--concurrency", "3")
    node.turn_until(lambda: server.llen(QUEUE) == 2, "those that may go on")
    assert len(node.reserve()) == 2
    assert "(changed)" in run().splitlines()[1]
    assert "1 at once" in run(NAME)
    assert "1 at once" in run(NAME, "note=a", "--reset")
    (done, _) = AuditLog(server, "code").latest(5)
    assert (done["action"], done["outcome"]) == ("limit", "the limit of the code")


def test_a_change_for_all_keys_holds_for_those_without_one_of_their_own(run, node, server):
    run(NAME, "note=a", "--concurrency", "2")
    node.turn_until(lambda: server.llen(QUEUE) == 1, "one that may go on")
    run(NAME, "--concurrency", "none", "--rate", "30/m")
    assert "0.5 a second, 1 of them at once" in run(NAME)
    assert json.loads(run(NAME, "note=a", "--json"))["concurrency"] == 2
    assert "no limit" in run(NAME, "--rate", "none")


def test_more_keys_than_are_looked_at_at_once_all_go_on(node, server):
    flows = {f"{NAME}/{number:04}\x000{1:016}": 0 for number in range(2500)}
    server.zadd(node.names.held, flows)
    store = LimitStore(server, "code")
    store.change(NAME, None, LimitStore(server, "code").limit(NAME))
    # The nodes that watch have begun with them already.
    assert server.zcard(keys.flow(QUEUE, "resume")) >= 2501
    assert len(store.states()) >= 1000


def test_what_makes_no_sense_is_refused(run, node):
    assert node
    assert "has no limits in this pool; those that have: jobs.run" in run("jobs.other", code=2)
    assert "tenant=acme" in run(NAME, "a", "--concurrency", "1", code=2)
    assert "is no rate" in run(NAME, "--rate", "fast", code=1)
    assert "number from 0" in run(NAME, "--concurrency", "-1", code=2)
    assert "Name the operation" in run("--concurrency", "1", code=2)
