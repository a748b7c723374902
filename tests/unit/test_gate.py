"""The gate between a node's event loop and its queue."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from celery.worker.consumer.tasks import Tasks

from pooltasks.node.intake.gate import Gate


class Channel:
    """As much of kombu's Redis channel as the gate touches."""

    connection_errors = (ConnectionError,)

    def __init__(self):
        self.qos = SimpleNamespace(prefetch_count=4, _delivered={}, _dirty=set())
        self.handlers = {"BRPOP": lambda: "delivered"}
        self.client = SimpleNamespace(
            connection=SimpleNamespace(disconnect=self._disconnect), parse_response=self._parse
        )
        self._in_poll = None
        self.answer = None
        self.connected = True
        self.put_back = []

    def _disconnect(self):
        self.connected = False

    def _parse(self, connection, command):
        assert connection is self.client.connection
        assert command == "BRPOP"
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    @contextmanager
    def conn_or_acquire(self):
        yield SimpleNamespace(rpush=lambda queue, message: self.put_back.append((queue, message)))


@pytest.fixture
def pool():
    pool = SimpleNamespace(warm=4, cold=0, overflow=0, slots=1, draining=False)
    pool.warm_and_cold = lambda: (pool.warm, pool.cold)
    pool.gatherer = SimpleNamespace(room=lambda: 0)
    return pool


@pytest.fixture
def channel(pool):
    channel = Channel()
    consumer = SimpleNamespace(
        pool=pool, prefetch_multiplier=1, task_consumer=SimpleNamespace(channel=channel)
    )
    Gate(consumer).start(consumer)
    return channel


def reserve(channel, number, acknowledged=0):
    channel.qos._delivered = {str(tag): None for tag in range(number)}
    channel.qos._dirty = {str(tag) for tag in range(acknowledged)}


def test_it_stands_behind_the_consumer_of_operations():
    assert Gate.requires == (Tasks,)


def test_it_is_closed_while_no_worker_is_warm(pool, channel):
    pool.warm, pool.cold = 0, 4
    assert not channel.qos.can_consume()
    pool.warm, pool.cold = 1, 3
    assert channel.qos.can_consume()


def test_it_lets_through_as_many_as_kombu_may_prefetch(channel):
    reserve(channel, 3)
    assert channel.qos.can_consume()
    reserve(channel, 4)
    assert not channel.qos.can_consume()


def test_what_is_acknowledged_makes_room(channel):
    reserve(channel, 5, acknowledged=2)
    assert channel.qos.can_consume()


@pytest.mark.parametrize(("warm", "reserved"), [(3, 3), (2, 2), (1, 1)])
def test_it_is_as_wide_as_the_warm_workers(pool, channel, warm, reserved):
    pool.warm, pool.cold = warm, 4 - warm
    reserve(channel, reserved - 1)
    assert channel.qos.can_consume()
    reserve(channel, reserved)
    assert not channel.qos.can_consume()


def test_a_warm_worker_has_room_however_many_are_cold(pool, channel):
    pool.warm, pool.cold = 1, 9
    assert channel.qos.can_consume()
    reserve(channel, 1)
    assert not channel.qos.can_consume()


def test_temporary_workers_widen_it(pool, channel):
    pool.warm, pool.overflow = 6, 2
    reserve(channel, 5)
    assert channel.qos.can_consume()
    reserve(channel, 6)
    assert not channel.qos.can_consume()


def test_batches_widen_it_but_not_while_no_worker_is_warm(pool, channel):
    pool.gatherer.room = lambda: 2
    reserve(channel, 5)
    assert channel.qos.can_consume()
    reserve(channel, 6)
    assert not channel.qos.can_consume()
    pool.warm = 0
    reserve(channel, 0)
    assert not channel.qos.can_consume()


def test_an_answer_that_is_owed_is_read_also_at_a_closed_gate(pool, channel):
    pool.warm = 0
    channel._in_poll = channel.client.connection
    assert channel.qos.can_consume()


def test_an_open_gate_delivers(channel):
    assert channel.handlers["BRPOP"]() == "delivered"


def test_a_closed_gate_puts_a_message_back_where_it_was(pool, channel):
    pool.warm = 0
    channel._in_poll = channel.client.connection
    channel.answer = (b"pool.code", b"message")
    assert channel.handlers["BRPOP"]() is None
    assert channel.put_back == [(b"pool.code", b"message")]
    assert channel._in_poll is None
    assert not channel.qos.can_consume()


def test_a_closed_gate_has_nothing_to_put_back_after_an_empty_answer(pool, channel):
    pool.warm = 0
    assert channel.handlers["BRPOP"]() is None
    assert channel.put_back == []


def test_a_connection_that_breaks_at_a_closed_gate_is_given_up(pool, channel):
    pool.warm = 0
    channel._in_poll = channel.client.connection
    channel.answer = ConnectionError("gone")
    with pytest.raises(ConnectionError, match="gone"):
        channel.handlers["BRPOP"]()
    assert not channel.connected
    assert channel._in_poll is None


def test_it_is_closed_while_the_node_is_drained(pool, channel):
    pool.draining = True
    assert not channel.qos.can_consume()
    pool.draining = False
    assert channel.qos.can_consume()
