"""Reservations: nothing is lost between the queue and the acknowledgement, whichever answer is."""

from __future__ import annotations

import json
import time
from uuid import uuid4

import pytest

from pooltasks.broker.dead_letters import letter
from pooltasks.broker.results import StoredResult


@pytest.fixture
def node(start):
    return start()


def message(name, **first):
    return json.dumps({**first, "body": "", "headers": {"id": name}, "properties": {}}).encode()


def ids(messages):
    return [json.loads(each)["headers"]["id"] for _, each in messages]


def unacked(client, node):
    return client.hlen(node.names.unacked(node.session.identity))


def test_the_oldest_come_first_and_are_acknowledged_with_their_results(node, client, queue):
    client.lpush(queue, message("one"), message("two"), message("three"))
    got = node.reserve(2)
    assert ids(got) == ["one", "two"]
    key = f"celery-task-meta-{uuid4()}".encode()
    node.reservations.completion.results.append(StoredResult(key, b"value", 60))
    for reservation, _ in got:
        node.reservations.acknowledge(reservation)
    assert ids(node.reserve(2)) == ["three"]
    assert unacked(client, node) == 1
    assert client.get(key) == b"value"
    assert 0 < client.ttl(key) <= 60


def test_one_message_wakes_one_idle_node(start, client, queue):
    nodes = [start() for _ in range(3)]
    for node in nodes:
        node.ask(wait=True)
    client.lpush(queue, message("one"))
    nodes[0].turn_until(lambda: any(node.received for node in nodes), "the message", *nodes[1:])
    time.sleep(0.1)  # the others would have been woken by now
    for node in nodes:
        node.turn()
    assert sum(len(node.received) for node in nodes) == 1
    assert sum(node.session.intake.is_owed() for node in nodes) == 2


def test_a_woken_node_takes_more_if_more_is_there(node, client, queue):
    node.ask(10, wait=True)
    client.lpush(queue, *(message(str(number)) for number in range(5)))
    node.turn_until(lambda: node.received, "the messages")
    assert ids(node.received) == ["0", "1", "2", "3", "4"]


def test_an_answer_that_is_lost_loses_no_message_and_overwrites_none(node, client, queue):
    client.lpush(queue, message("one"), message("two"))
    first = node.reserve(1)
    node.ask(1)
    time.sleep(0.05)  # the server has answered; nobody has read it
    node.session.lost(node.session.intake, ConnectionError("cut"))
    node.settle()
    # The second message is back, and the first is still reserved.
    assert node.reservations.held == {first[0][0]}
    again = node.reserve(1)
    assert ids(again) == ["two"]
    assert again[0][0] != first[0][0]
    assert unacked(client, node) == 2


def test_an_answer_that_is_lost_while_a_node_stops_keeps_no_message(node, client, queue):
    client.lpush(queue, message("one"))
    node.ask(1)
    time.sleep(0.05)  # the server has answered; nobody has read it
    node.session.reserve_nothing(stops=True)
    node.session.lost(node.session.intake, ConnectionError("cut"))
    node.settle()
    assert node.session.intake.wire is None
    assert client.llen(queue) == 1
    assert unacked(client, node) == 0


def test_a_silent_connection_that_still_waits_at_the_server_takes_nothing(node, client, queue):
    node.ask(1, wait=True)
    silent = node.session.intake.wire
    node.session.intake.wire = None  # the server does not know that it is lost
    node.reservations.intake_lost()
    node.session.open()
    client.lpush(queue, message("one"))
    time.sleep(0.05)  # the old connection's wait ends with this message, and it goes back
    assert ids(node.reserve(1)) == ["one"]
    silent.close()


def test_a_message_is_put_back_as_it_came_and_marked(node, client, queue):
    client.lpush(queue, message("one"), b"no message")
    got = node.reserve()
    node.reservations.give_back([(reservation, b"") for reservation, _ in got])
    node.settle()
    assert unacked(client, node) == 0
    back = list(reversed(client.lrange(queue, 0, -1)))
    assert json.loads(back[0]) == json.loads(message("one", deliveries=0))
    assert back[1] == b"no message"


def test_a_message_with_its_last_chance_is_alone_among_its_kind(node, client, queue):
    client.lpush(queue, message("a", deliveries=2), message("b", deliveries=2), message("c"))
    assert ids(node.reserve()) == ["a", "c"]
    assert node.reservations.has_trial
    node.ask(5, wait=True)
    node.turn_until(lambda: not node.session.intake.is_owed(), "an answer")
    assert client.llen(queue) == 1
    for reservation in list(node.reservations.held):
        node.reservations.acknowledge(reservation)
    assert ids(node.reserve()) == ["b"]


def test_a_dead_letter_its_result_and_the_end_of_its_reservation_are_one_step(node, client, queue):
    client.lpush(queue, message("one"))
    ((reservation, raw),) = node.reserve()
    key = f"celery-task-meta-{uuid4()}".encode()
    its = letter(raw, "no good", at=1.0)
    node.reservations.bury(reservation, its, StoredResult(key, b"refused", 60))
    node.settle()
    assert json.loads(client.hget(node.names.dead, "one"))["reason"] == "no good"
    assert client.hget(node.names.dead_messages, "one") == raw
    assert client.get(key) == b"refused"
    assert unacked(client, node) == 0


def test_what_must_not_run_twice_comes_back_as_interrupted(start, client, queue):
    watcher, node = start(), start()
    client.lpush(queue, message("one"), message("two"))
    got = node.reserve()
    started = []
    node.reservations.start(got[0][0], lambda: started.append(1))
    node.settle()
    assert started == [1]
    watcher.turn_until(lambda: watcher.has_looked_at(2), "a look", node)
    node.die()
    watcher.turn_until(lambda: client.llen(queue) == 2, "the recovery")
    back = [json.loads(each) for each in reversed(client.lrange(queue, 0, -1))]
    assert [each.get("interrupted") for each in back] == [True, None]


def test_it_does_not_start_once_others_have_it(node, client, queue):
    client.lpush(queue, message("one"))
    ((reservation, _),) = node.reserve()
    client.delete(node.names.unacked(node.session.identity))
    started = []
    node.reservations.start(reservation, lambda: started.append(1))
    node.settle()
    assert started == []


def test_it_does_not_start_once_it_was_given_back(node, client, queue):
    client.lpush(queue, message("one"))
    ((reservation, _),) = node.reserve()
    started = []
    node.reservations.start(reservation, lambda: started.append(1))
    node.reservations.give_back([(reservation, b"")])
    node.settle()
    assert started == []
    assert client.llen(queue) == 1


def test_what_runs_once_at_most_is_acknowledged_before_it_starts(node, client, queue):
    client.lpush(queue, message("one"))
    ((reservation, _),) = node.reserve()
    gone = []
    node.reservations.acknowledge_first(reservation, lambda: gone.append(unacked(client, node)))
    node.settle()
    assert gone == [0]
    node.reservations.give_back([(reservation, b"")])
    node.settle()
    assert client.llen(queue) == 0


def test_it_does_not_start_where_the_node_was_taken_for_dead(node, client, queue):
    client.lpush(queue, message("one"))
    ((reservation, _),) = node.reserve()
    client.hset(node.names.index, node.session.identity, "dead")
    started = []
    node.reservations.acknowledge_first(reservation, lambda: started.append(1))
    node.settle()
    assert started == []


def test_an_operation_that_is_not_due_waits_at_the_server(node, client, queue):
    client.lpush(queue, message("one"))
    ((reservation, raw),) = node.reserve()
    seconds, _ = client.time()
    node.reservations.postpone([(reservation, "one", seconds + 60)])
    node.settle()
    assert unacked(client, node) == 0
    assert client.hget(node.names.delayed_messages, "one") == b"0" + raw
    assert not node.reservations.held


def test_a_key_that_is_no_result_is_overwritten_and_its_neighbours_are_stored(node, client):
    keys = [f"celery-task-meta-{uuid4()}".encode() for _ in range(2)]
    client.rpush(keys[0], "a list")
    node.reservations.completion.results += [StoredResult(key, b"value", 60) for key in keys]
    node.settle()
    assert client.mget(keys) == [b"value", b"value"]


def test_a_full_server_finishes_what_it_has_accepted(client, queue, start):
    node = start()
    client.lpush(queue, message("one"))
    ((reservation, _),) = node.reserve()
    before = client.config_get("maxmemory")["maxmemory"]
    key = f"celery-task-meta-{uuid4()}".encode()
    client.config_set("maxmemory", 1)
    try:
        node.reservations.completion.results.append(StoredResult(key, b"value", 60))
        node.reservations.acknowledge(reservation)
        node.settle()
        assert node.reservations.completion.is_empty()
    finally:
        client.config_set("maxmemory", before)
    assert client.get(key) == b"value"
