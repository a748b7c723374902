"""A rollout that meets fair operations: their nodes take nothing, and nothing gets lost."""

from __future__ import annotations

import logging

import pytest
import redis
from flow import QUEUE, end, limited_node, make_app, make_operation, take

from pooltasks import keys
from pooltasks.broker.limiting import Limits
from pooltasks.metrics.rollout_store import RolloutStore
from pooltasks.node.intake.controls import Controls

NAME = "jobs.run"
FAIR, LIMITED = Limits(key="note", fair=True), Limits(key="note", concurrency=100)
BEFORE, NEW = "1", "2"


@pytest.fixture
def client(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def store(client):
    return RolloutStore(client, "code")


@pytest.fixture
def send(redis_url):
    app = make_app(redis_url)
    operation = make_operation(app, NAME, limits=FAIR)

    def call(first, end, key="a"):
        for number in range(first, end):
            operation.delay(number, key)

    yield call
    app.close()


@pytest.fixture
def start(redis_url):
    nodes = []

    def make(limits=FAIR, **options):
        nodes.append(limited_node(redis_url, NAME, limits, **options))
        return nodes[-1]

    yield make
    for node in nodes:
        node.die()


def is_retired(node):
    return node.session.is_retired


def serve(node):
    """Run everything; return the numbers in their order."""
    seen = []
    while reserved := take(node):
        seen += [number for _, number in reserved]
        end(node, *reserved)
    return seen


def end_of(store):
    assert store.end(store.read(), "aborted", "a test says so")


def waiting(client):
    lists = client.llen(QUEUE) + sum(
        client.llen(keys.track(QUEUE, name, 0)) for name in ("stable", "canary")
    )
    return lists + client.hlen(keys.flow(QUEUE, "waiting"))


def test_a_node_of_a_fair_pool_takes_nothing_during_a_rollout_and_says_so_once(
    start, client, store, send, caplog
):
    caplog.set_level(logging.WARNING, logger="pooltasks.broker.tracks")
    node = start(version=BEFORE)
    assert store.start(BEFORE, NEW)
    node.turn_until(lambda: is_retired(node), "that the rollout is heard of")
    send(0, 30)
    node.session.join_again()  # as after a connection that broke
    assert take(node) == take(node) == []
    assert waiting(client) == 30
    said = [record.getMessage() for record in caplog.records if "takes nothing" in record.msg]
    assert len(said) == 1
    assert "an operation of its pool is fair" in said[0]
    assert "pooltasks rollout abort code" in said[0]


def test_what_it_has_is_completed_and_the_rest_is_served_after_the_rollout(
    start, client, store, send
):
    node = start(version=BEFORE)
    send(0, 20)
    send(20, 40, "b")
    reserved = take(node, 4)
    assert waiting(client) == 36
    assert store.start(BEFORE, NEW)
    node.turn_until(lambda: is_retired(node), "that the rollout is heard of")
    end(node, *reserved)
    assert take(node) == []  # with this step they are completed
    assert client.hlen(keys.unacked(QUEUE, node.session.identity)) == 0
    counts = client.hgetall(keys.flow(QUEUE, "running"))
    assert not [flow for flow in counts if flow[:1] not in b"#!"]
    assert waiting(client) == 36
    end_of(store)
    node.turn_until(lambda: not is_retired(node), "that the rollout has ended")
    assert sorted(serve(node) + [number for _, number in reserved]) == list(range(40))


@pytest.mark.parametrize("version", [BEFORE, NEW])
def test_a_message_that_woke_it_goes_back(start, client, store, send, version):
    node = start(version=version)
    assert store.start(BEFORE, NEW)
    node.turn_until(lambda: is_retired(node), "that the rollout is heard of")
    send(0, 1)
    incoming = keys.incoming(QUEUE, node.session.identity)
    assert client.lmove(QUEUE, incoming, "RIGHT", "RIGHT")
    assert take(node) == []
    assert client.llen(incoming) == 0
    assert waiting(client) == 1


def test_a_node_that_waits_when_the_rollout_begins_gives_back_what_wakes_it(
    start, client, store, send
):
    node = start(version=BEFORE)
    node.session.intake._on_push = lambda _: None  # what it is told got lost
    node.ask(5, wait=True)
    assert store.start(BEFORE, NEW)
    send(0, 1)
    node.turn_until(lambda: node.refused_messages, "the refusal")
    assert node.received == []
    assert is_retired(node)
    assert waiting(client) == 1


def test_the_version_before_goes_on_where_only_the_new_one_is_fair(start, client, store, send):
    old = start(LIMITED, version=BEFORE)
    assert store.start(BEFORE, NEW)
    new = start(version=NEW)
    old.turn_until(lambda: old.session.track, "that the rollout is heard of")
    client.hset(old.names.limits, f"code {NAME}", LIMITED.text())  # a retired node tells nothing
    assert store.step(store.read(), 50, "a test says so")
    for number in range(40):
        send(number, number + 1, f"key-{number}")
    assert take(new) == []
    first = serve(old)
    assert 0 < len(first) < 40  # the others wait for the new version
    assert waiting(client) == 40 - len(first)
    end_of(store)
    old.turn_until(lambda: old.session.track is None, "that the rollout has ended")
    assert sorted(first + serve(old)) == list(range(40))
    assert take(new) == []


def test_a_node_that_takes_nothing_changes_no_limits(redis_url, start, client, store):
    node = start(LIMITED, version=NEW)
    app = make_app(redis_url)
    controls = Controls(app, node.session, node.reservations, {NAME: Limits(concurrency=1)})
    assert store.start(BEFORE, "3")
    node.turn_until(lambda: is_retired(node), "that the rollout is heard of")
    controls.tell()
    node.settle()
    assert controls.is_known
    code = f"code {NAME}"
    assert client.hget(node.names.limits, code).decode() == LIMITED.text()
    end_of(store)
    node.turn_until(lambda: not is_retired(node), "that the rollout has ended")
    controls.tell()
    assert not controls.is_known
    node.turn_until(lambda: controls.is_known, "that the server knows the limits")
    assert client.hget(node.names.limits, code).decode() == Limits(concurrency=1).text()
    app.close()


def test_lines_are_dissolved_when_nodes_that_know_them_are_out_of_use(start, client, store, send):
    node = start(version=BEFORE)
    send(0, 20)
    assert take(node, 1)
    assert client.hlen(keys.flow(QUEUE, "waiting")) > 0
    assert store.start(BEFORE, NEW)
    node.turn_until(
        lambda: not client.exists(keys.flow(QUEUE, "waiting")), "that the lines are dissolved"
    )
    assert waiting(client) == 19
