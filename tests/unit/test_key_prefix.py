"""Clients of a deployment with a key prefix put it before every key, and before nothing else."""

from __future__ import annotations

import fakeredis
import pytest

from pooltasks.broker.client import PrefixedClient, client_on, with_prefix


@pytest.mark.parametrize(
    ("command", "prefixed"),
    [
        (["TIME"], ["TIME"]),
        (["SCRIPT LOAD", "return 1"], ["SCRIPT LOAD", "return 1"]),
        (["HSET", "key", "field", "value"], ["HSET", "a:key", "field", "value"]),
        (["RPUSH", b"key", b"\xff"], ["RPUSH", b"a:key", b"\xff"]),
        (["MGET", "one", b"two"], ["MGET", "a:one", b"a:two"]),
        (
            ["EVALSHA", "0", 2, "one", "two", "three"],
            ["EVALSHA", "0", 2, "a:one", "a:two", "three"],
        ),
        # A pool's key has the prefix in its hash tag too: it lies in the slot of the queue.
        (["GET", "pooltasks:{pool.x}:lock"], ["GET", "a:pooltasks:{a:pool.x}:lock"]),
        (["GET", b"pooltasks:{pool.x}:lock"], ["GET", b"a:pooltasks:{a:pool.x}:lock"]),
        (["XADD", "key", "MAXLEN", "~", 5, "*"], ["XADD", "a:key", "MAXLEN", "~", 5, "*"]),
    ],
)
def test_the_prefix_is_before_each_key(command, prefixed):
    assert with_prefix("a:", command) == prefixed


def test_a_command_whose_keys_nobody_knows_is_refused():
    with pytest.raises(NotImplementedError, match=r"SORT .* key prefix"):
        with_prefix("a:", ["SORT", "key", "STORE", "other"])


def test_what_a_client_a_pipeline_and_a_script_write_is_in_one_key_space():
    server = fakeredis.FakeServer()
    plain = fakeredis.FakeRedis(server=server)
    client = client_on(plain.connection_pool, "a:")
    assert isinstance(client, PrefixedClient)
    client.set("one", 1)
    with client.pipeline() as pipe:
        pipe.watch("two")
        assert pipe.get("one") == b"1"
        pipe.multi()
        pipe.set("two", 2)
        pipe.execute()
    client.register_script("return redis.call('SET', KEYS[1], ARGV[1])")(keys=["three"], args=[3])
    assert sorted(plain.keys()) == [b"a:one", b"a:three", b"a:two"]


def test_without_a_prefix_commands_are_not_looked_at():
    client = client_on(fakeredis.FakeRedis().connection_pool, "")
    assert not isinstance(client, PrefixedClient)
