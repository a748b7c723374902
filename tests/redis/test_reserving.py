"""Reserving: what comes while a channel waits, and what it no longer wants then."""

from __future__ import annotations

import json
import time

import pytest
import redis
from kombu import Consumer, Exchange, Queue
from kombu.asynchronous import Hub
from kombu.utils.uuid import uuid

from pooltasks import keys
from pooltasks.broker.connection import NodeConnection
from pooltasks.broker.results import StoredResult

DEADLINE = 20.0  # seconds
QUEUE = Queue("pool.waits", Exchange("pool"), "pool.waits")


@pytest.fixture
def server(valkey_url):
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        client.delete(QUEUE.name)
        yield client


class Node:
    """A connection that consumes in an event loop, as a node's does."""

    def __init__(self, url):
        self.connection = NodeConnection(url, transport_options={"priority_steps": [0]})
        self.hub = Hub()
        self.channel = self.connection.default_channel
        self.connection.transport.register_with_event_loop(self.connection.connection, self.hub)
        self.received = []
        self.consumer = Consumer(
            self.channel, QUEUE(self.channel), on_message=self.received.append, accept=["json"]
        )
        self.consumer.qos(prefetch_count=10)
        self.consumer.consume()

    def turn_until(self, condition, what):
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, what
            self.hub.run_once()

    def close(self):
        self.connection.close()
        self.hub.close()


@pytest.fixture
def node(valkey_url):
    node = Node(valkey_url)
    yield node
    node.close()


def waits(server):
    return any(client["cmd"] == "blmove" for client in server.client_list())


def publish(node, body):
    with node.connection.clone() as connection:
        connection.Producer().publish(
            [[body], {}, {}],
            routing_key=QUEUE.name,
            declare=[QUEUE],
            headers={"task": "jobs.run", "id": uuid()},
        )


def test_what_comes_while_it_waits_is_reserved_at_once(node, server):
    node.turn_until(lambda: waits(server), "the node waits")
    publish(node, 1)
    deadline = time.monotonic() + DEADLINE
    while not server.hlen(node.channel.unacked_key):
        assert time.monotonic() < deadline, "the server reserved it, without a turn of the loop"
    assert not server.llen(QUEUE.name)
    node.turn_until(lambda: node.received, "it is delivered")
    node.received[0].ack()


@pytest.mark.parametrize("reason", ["closed", "cancelled"])
def test_what_comes_when_nobody_wants_it_any_more_goes_back(node, server, reason):
    node.turn_until(lambda: waits(server), "the node waits")
    if reason == "closed":
        node.channel.qos.gate = lambda _: 0
    else:
        node.consumer.cancel()
    for number in range(3):
        publish(node, number)
    reserved = node.channel.unacked_key
    node.turn_until(
        lambda: server.llen(QUEUE.name) == 3 and not server.hlen(reserved), "all are in their queue"
    )
    assert not node.received
    for message in map(json.loads, server.lrange(QUEUE.name, 0, -1)):
        assert "deliveries" not in message | message["headers"]
        assert "redelivered" not in message["headers"]


def test_a_server_whose_memory_is_full_is_served_from_and_waited_for(node, server):
    """It takes nothing new; what it has accepted runs, is acknowledged, and its node lives."""
    publish(node, 1)
    server.config_set("maxmemory-policy", "noeviction")
    server.config_set("maxmemory", 1)
    try:
        node.turn_until(lambda: node.received, "what was accepted is delivered")
        node.received[0].ack()
        node.turn_until(lambda: not server.hlen(node.channel.unacked_key), "it is acknowledged")
        node.turn_until(lambda: not node.channel.pause.is_over(), "the server refuses to wait")
    finally:
        server.config_set("maxmemory", 0)
    publish(node, 2)
    node.turn_until(lambda: len(node.received) == 2, "what is published afterwards is delivered")
    node.received[1].ack()


def test_what_is_no_message_is_set_aside_on_a_server_whose_memory_is_full(node, server):
    server.lpush(QUEUE.name, b"no message")
    server.config_set("maxmemory-policy", "noeviction")
    server.config_set("maxmemory", 1)
    try:
        node.turn_until(lambda: server.hvals(keys.dead_messages(QUEUE.name)), "it is set aside")
        assert not server.exists(node.channel.unacked_key)
    finally:
        server.config_set("maxmemory", 0)
    assert server.hvals(keys.dead_messages(QUEUE.name)) == ["no message"]


def test_results_are_stored_by_a_server_whose_memory_is_full(node, server):
    node.turn_until(lambda: waits(server), "the node waits")
    server.hset(node.channel.unacked_key, "1", "message")
    node.channel.completion.results.append(StoredResult(b"result", b'{"status": "SUCCESS"}', 60))
    node.channel.completion.reservations.append("1")
    server.config_set("maxmemory-policy", "noeviction")
    server.config_set("maxmemory", 1)
    try:
        node.turn_until(lambda: server.exists("result"), "the result is stored")
        assert not server.exists(node.channel.unacked_key)
    finally:
        server.config_set("maxmemory", 0)
