"""Commands past redis-py's layers: its answers, its errors, its timeouts."""

from __future__ import annotations

import time

import pytest
import redis

from pooltasks.broker.wire import Wire, pack


@pytest.fixture
def wire(client):
    wire = Wire(client.connection_pool.get_connection())
    yield wire
    wire.close()


def test_answers_are_those_of_redis_py(wire):
    assert wire.ask(pack(("SET", "text", "ä"))) == b"OK"
    assert wire.ask(pack(("GET", b"text"))) == "ä".encode()
    assert wire.ask(pack(("RPUSH", "list", 1, 2.5))) == 2
    assert wire.ask(pack(("LRANGE", "list", 0, -1))) == [b"1", b"2.5"]
    assert wire.ask(pack(("GET", "nothing"))) is None


def test_errors_are_those_of_redis_py_and_the_next_command_is_answered(wire):
    with pytest.raises(redis.exceptions.NoScriptError):
        wire.ask(pack(("EVALSHA", "0" * 40, 0)))
    wire.ask(pack(("SET", "text", "a")))
    with pytest.raises(redis.ResponseError, match="wrong kind"):
        wire.ask(pack(("LPUSH", "text", "a")))
    assert wire.ask(pack(("PING",))) == b"PONG"


def test_an_answer_of_many_pieces_is_put_together(wire):
    value = b"x" * 1_000_000
    wire.ask(pack(("SET", "large", value)))
    assert wire.ask(pack(("GET", "large"))) == value


def test_what_is_pushed_is_no_answer(wire, client):
    wire.ask(pack(("CLIENT", "TRACKING", "ON")))
    wire.ask(pack(("GET", "watched")))
    client.set("watched", "1")
    assert wire.wait(5)  # that it changed
    assert wire.ask(pack(("PING",))) == b"PONG"


def test_a_connection_that_was_closed_is_seen_and_made_anew(wire, client):
    number = wire.ask(pack(("CLIENT", "ID")))
    client.client_kill_filter(_id=number)
    assert wire.wait(5)
    with pytest.raises(redis.ConnectionError):
        wire.ask(pack(("PING",)))
    assert wire.ask(pack(("PING",))) == b"PONG"


@pytest.mark.timing
def test_a_server_that_says_nothing_is_waited_for_as_long_as_the_connection_allows(
    redis_url, client
):
    with redis.Redis.from_url(redis_url, socket_timeout=0.2) as impatient:
        wire = Wire(impatient.connection_pool.get_connection())
        assert wire.ask(pack(("PING",))) == b"PONG"
        client.client_pause(5000)
        try:
            started = time.monotonic()
            with pytest.raises(redis.TimeoutError):
                wire.ask(pack(("PING",)))
            assert 0.15 < time.monotonic() - started < 1.0
        finally:
            client.client_unpause()
        assert wire.ask(pack(("PING",))) == b"PONG"  # on a new connection
