"""Limits of operations that no living node's code has any more are forgotten, and no others."""

from __future__ import annotations

import pytest
from flow import QUEUE, end, limited_node, make_app, make_operation, take
from node_session import Node

from pooltasks.broker.limit_store import Limit, LimitStore
from pooltasks.broker.limiting import Limits

NAME = "jobs.run"
ONE = Limits(key="note", concurrency=1)
FAIR = Limits(key="note", fair=True, weights=(("b", 3.0),))


@pytest.fixture
def start(redis_url):
    """Start a node; without limits its code has no operation that has some."""
    nodes = []

    def make(limits=None):
        node = limited_node(redis_url, NAME, limits) if limits else Node(redis_url, QUEUE)
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        node.die()


def known(client):
    return LimitStore(client, "code").operations()


def leave(node):
    assert node.session.leave(10) is not None


def test_the_limits_hold_as_long_as_one_node_has_them_in_its_code(client, start):
    first, second = start(FAIR), start(FAIR)
    new = start()
    assert known(client) == [NAME]
    leave(first)
    assert known(client) == [NAME]
    assert LimitStore(client, "code").fair() == [NAME]
    second.die()
    new.turn_until(lambda: not known(client), "the last one is recovered")
    assert LimitStore(client, "code").fair() == []
    assert not client.exists(new.names.limits)
    assert client.hkeys(new.names.nodes) == [new.session.identity.encode()]
    leave(new)
    assert not client.exists(new.names.nodes)


def test_one_that_joins_forgets_what_earlier_nodes_have_left(client, start):
    leave(start(ONE))
    assert known(client) == [NAME], "nobody is there who could tell"
    start(ONE)
    assert known(client) == [NAME]
    start()
    assert known(client) == [NAME]


def test_one_that_joins_alone_forgets_what_its_code_has_not(client, start):
    leave(start(ONE))
    start()
    assert known(client) == []


def test_beside_a_node_that_says_nothing_nothing_is_forgotten(client, start):
    old, new = start(ONE), start()
    client.hdel(new.names.nodes, old.session.identity)  # one of an earlier version of pooltasks
    third = start()
    assert known(client) == [NAME]
    leave(third)
    assert known(client) == [NAME]
    leave(old)
    assert known(client) == []


def test_what_they_held_back_goes_on(redis_url, client, start):
    app = make_app(redis_url)
    operation = make_operation(app, NAME, limits=ONE)
    for number in range(5):
        operation.delay(number, note="a")
    old = start(ONE)
    (first,) = take(old)
    assert client.zcard(old.names.held) == 4
    LimitStore(client, "code").change(NAME, "a", Limit(0, None, None))
    new = start()
    end(old, first)
    old.settle()
    leave(old)
    new.turn_until(lambda: client.llen(QUEUE) == 4, "all that was held")
    assert [number for _, number in take(new)] == [1, 2, 3, 4]
    app.close()


def test_what_was_changed_by_hand_holds_again_with_the_code(client, start):
    store = LimitStore(client, "code")
    old = start(ONE)
    store.change(NAME, None, Limit(7, None, None))
    new = start()
    leave(old)
    assert store.limit(NAME) == Limit(None, None, None)
    start(ONE)
    assert store.limit(NAME) == Limit(7, None, None)
    leave(new)
