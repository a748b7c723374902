"""What waits is deleted wherever it waits; what runs is still counted."""

from __future__ import annotations

import pytest
from flow import QUEUE, end, limited_node, make_app, make_operation, take

from pooltasks import keys
from pooltasks.broker.limiting import Limits
from pooltasks.broker.purging import Purged, purge

NAME = "jobs.run"


@pytest.fixture
def app(redis_url):
    app = make_app(redis_url, priorities=[0, 5])
    yield app
    app.close()


@pytest.fixture
def start(redis_url):
    nodes = []

    def make(limits):
        nodes.append(limited_node(redis_url, NAME, limits, places=(0, 5)))
        return nodes[-1]

    yield make
    for node in nodes:
        node.die()


@pytest.mark.parametrize("fair", [False, True])
def test_what_limits_hold_back_is_deleted_with_the_rest(app, server, start, fair):
    limits = Limits(key="note", concurrency=1, fair=fair)
    operation = make_operation(app, NAME, limits=limits)
    for number in range(5):
        operation.delay(number, note="a")
    node = start(limits)
    (running,) = take(node)
    operation.apply_async((5, "b"), priority=5)
    operation.apply_async((6, "b"), countdown=3600)
    assert purge(app, "code") == Purged(1, 0, 4)
    left = {key.rpartition(":")[2] for key in server.keys(keys.flow(QUEUE, "*"))}
    assert left <= {"limits", "nodes", "running"}
    operation.delay(7, note="a")
    assert take(node) == []
    end(node, running)
    node.settle()
    assert [number for _, number in take(node)] == [7]
    assert server.zcard(node.names.delayed) == 1


def test_what_was_let_go_is_waited_for_no_more(app, start):
    limits = Limits(concurrency=1)
    operation = make_operation(app, NAME, limits=limits)
    for number in range(3):
        operation.delay(number)
    node = start(limits)
    end(node, *take(node))
    node.settle()
    assert purge(app, "code") == Purged(1, 0, 1)  # one was on its way to a node
    operation.delay(8)
    assert [number for _, number in take(node)] == [8]


def test_what_waits_for_its_turn_is_deleted(app, server, start):
    limits = Limits(key="note", fair=True)
    operation = make_operation(app, NAME, limits=limits)
    for number in range(9):
        operation.delay(number, note="abc"[number % 3])
    node = start(limits)
    assert len(take(node, 1)) == 1
    assert purge(app, "code") == Purged(1, 7, 0)
    assert not server.exists(QUEUE, *(keys.flow(QUEUE, name) for name in keys.OF_TURNS))
    operation.delay(9, note="a")
    assert [number for _, number in take(node)] == [9]
