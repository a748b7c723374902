"""A deployment of the version before is taken over without losing what waits or is reserved."""

from __future__ import annotations

import json
import time

import pytest
import redis

from pooltasks import keys
from pooltasks.broker.adoption import Adoption
from pooltasks.broker.client import PrefixedClient

QUEUE = "pool.before"
MESSAGE = b'{"body": "b", "headers": {"id": "%s"}, "properties": {}}'


@pytest.fixture(params=["", "acme:"])
def prefix(request):
    return request.param


@pytest.fixture
def client(redis_url, prefix):
    with PrefixedClient.from_url(redis_url) as client:
        client.prefix = prefix
        yield client
        for key in redis.Redis.from_url(redis_url).keys(f"{prefix}pool*"):
            redis.Redis.from_url(redis_url).delete(key)


def reserved_by(client, identity, name, *, lease=None, queue=QUEUE):
    """Have a message be reserved as the version before did it."""
    entry = b"[" + MESSAGE % name.encode() + b',"",' + json.dumps(queue).encode() + b"]"
    client.hset(f"pooltasks:unacked:{identity}", f"{identity}-1", entry)
    if lease is not None:
        client.zadd("pooltasks:leases", {identity: (time.time() + lease) * 1000})


def waiting(client):
    return [json.loads(message) for message in client.lrange(QUEUE, 0, -1)]


def test_what_dead_nodes_had_reserved_goes_back_with_one_delivery_more(client, prefix):
    reserved_by(client, "dead", "one", lease=-60)
    reserved_by(client, "forgotten", "two")  # for a day nobody lived, and the leases expired
    client.lpush(QUEUE, MESSAGE % b"waits")
    assert Adoption(client, QUEUE, prefix).run()
    back = {each["headers"]["id"]: each.get("deliveries") for each in waiting(client)}
    assert back == {"one": 1, "two": 1, "waits": None}
    assert client.ttl(keys.adopted(QUEUE)) > 0


def test_a_living_node_of_that_version_keeps_its_own(client, prefix):
    reserved_by(client, "alive", "one", lease=5)
    assert not Adoption(client, QUEUE, prefix).run()
    assert waiting(client) == []
    assert client.hlen("pooltasks:unacked:alive") == 1
    client.zadd("pooltasks:leases", {"alive": (time.time() - 20) * 1000})
    assert Adoption(client, QUEUE, prefix).run()
    assert [each["deliveries"] for each in waiting(client)] == [1]


def test_what_is_another_pools_stays_for_that_pool(client, prefix):
    reserved_by(client, "dead", "one", queue="pool.other")
    Adoption(client, QUEUE, prefix).run()
    assert client.hlen("pooltasks:unacked:dead") == 1
    client.delete("pooltasks:unacked:dead")


def test_a_message_with_a_priority_goes_back_to_its_own_list(client, prefix):
    reserved_by(client, "dead", "one", queue=f"{QUEUE}\x06\x163")
    Adoption(client, QUEUE, prefix).run()
    assert client.llen(f"{QUEUE}\x06\x163") == 1


def test_dead_letters_come_along_also_where_there_are_some_already(client, prefix):
    client.hset(f"pooltasks:dead:{QUEUE}", "old", "letter")
    client.hset(f"pooltasks:dead:{QUEUE}:messages", "old", "message")
    client.hset(keys.dead_letters(QUEUE), "new", "letter")
    Adoption(client, QUEUE, prefix).run()
    assert client.hgetall(keys.dead_letters(QUEUE)) == {b"new": b"letter", b"old": b"letter"}
    assert client.hgetall(keys.dead_messages(QUEUE)) == {b"old": b"message"}
    assert not client.exists(f"pooltasks:dead:{QUEUE}")
