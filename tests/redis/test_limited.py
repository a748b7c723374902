"""What limits hold back, as it is shown: apart from the queue, by operation, and the top keys."""

from __future__ import annotations

import time

import pytest
from flow import QUEUE, make_operation
from node_session import Node

from pooltasks.broker import limited
from pooltasks.broker.limit_store import Limit, LimitStore
from pooltasks.broker.limiting import Limits
from pooltasks.broker.wire import pack
from pooltasks.dashboard.limits import RecentLimits
from pooltasks.metrics.families import families
from pooltasks.metrics.samples import SampleStore
from pooltasks.metrics.standings import Standings
from pooltasks.pool_settings import Objective

NAME = "jobs.run"
LIMITS = Limits(key="note", concurrency=2)


@pytest.fixture
def node(app, redis_url):
    """A node that runs two of "a" and one of "b", while limits hold 28 of "a" back."""
    operation = make_operation(app, NAME, limits=LIMITS)
    for number in range(30):
        operation.delay(number, note="a")
    operation.delay(30, note="b")
    node = Node(redis_url, QUEUE, limited=True, operations=(NAME,))
    node.session.send_until_done(pack(("HSET", node.names.limits, f"code {NAME}", LIMITS.text())))
    node.turn_until(lambda: not node.session.side.is_owed(), "the answer")
    assert len(node.reserve(50)) == 3
    yield node
    node.die()


@pytest.mark.usefixtures("node")
def test_what_is_held_is_no_backlog_for_the_optimizer(client):
    assert client.llen(QUEUE) == 0
    queue = SampleStore(client, "code", [QUEUE], Objective()).read(60).queue
    assert (queue.depth, queue.oldest_age) == (0, 0.0)


@pytest.mark.usefixtures("node")
def test_operations_and_top_keys_are_read_in_one_step(client, app):
    answer = limited.ask(client, "code", 10)
    assert limited.operations(answer) == [limited.LimitedOperation(NAME, 3, 28)]
    first, second = limited.top_keys(answer)
    now = app.pooltasks.clock.now()
    assert now - 60 < first.since <= now
    assert (first.key, first.running, first.held, first.limit, first.is_changed) == (
        *("a", 2, 28),
        *(Limit(2, None, None), False),
    )
    assert (second.key, second.running, second.held, second.since) == ("b", 1, 0, None)
    assert [its.key for its in limited.read_top_keys(client, "code", 1)] == ["a"]
    LimitStore(client, "code").change(NAME, "b", Limit(7, None, None))
    assert limited.read_top_keys(client, "code", 5)[1].limit.concurrency == 7
    assert limited.read_top_keys(client, "code", 5)[1].is_changed


def test_a_pool_without_limits_has_nothing_to_show(client):
    assert limited.operations(limited.ask(client, "code", 0)) == []
    assert RecentLimits(client, "code").latest(time.time()) == []


@pytest.mark.usefixtures("node")
def test_the_page_says_for_how_long_a_key_is_held(client, app):
    now = app.pooltasks.clock.now()
    first, second = RecentLimits(client, "code").latest(now + 100)
    assert 100 <= first["age"] < 160
    assert second["age"] is None
    assert first["limit"]["concurrency"] == 2


@pytest.mark.usefixtures("node")
def test_prometheus_has_two_series_of_each_operation(client, app):
    standings = Standings(app, client)
    found = families(standings.pools, standings.read(), up=True)
    (family,) = (each for each in found if each.name == "pooltasks_limited_operations")
    series = {tuple(sample.labels.values()): sample.value for sample in family.samples}
    assert series == {("code", NAME, "running"): 3, ("code", NAME, "held"): 28}
