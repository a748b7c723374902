from __future__ import annotations

import json
import time

import fakeredis
import pytest

from pooltasks import keys
from pooltasks.broker.recovery import Lease, reservation_end


@pytest.fixture
def server() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis()


def reserve(server: fakeredis.FakeRedis, identity: str, message: bytes, name: str) -> None:
    entry = b"[" + message + reservation_end(name).encode()
    server.hset(keys.unacked(identity), str(time.monotonic_ns()), entry)


def let_the_lease_run_out(server: fakeredis.FakeRedis, identity: str) -> None:
    server.zadd(keys.LEASES, {identity: 1})


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b"\xff", b'a,"","b"]', b'{"headers": 3}'])
def test_what_a_dead_node_had_not_read_goes_back_as_it_was(
    server: fakeredis.FakeRedis, junk: bytes
) -> None:
    lease = Lease(server, "me")
    lease.take()
    reserve(server, "dead", junk, "pool.code")
    let_the_lease_run_out(server, "dead")
    assert lease.renew()
    assert server.lrange("pool.code", 0, -1) == [junk]
    assert not server.exists(keys.unacked("dead"))
    assert server.zscore(keys.LEASES, "dead") is None


def test_a_message_goes_back_to_the_head_of_its_list_marked_as_redelivered(
    server: fakeredis.FakeRedis,
) -> None:
    lease = Lease(server, "me")
    lease.take()
    server.lpush("pool.code", b"waiting")
    message = {"headers": {"id": "1"}, "properties": {"delivery_info": {}}, "body": ""}
    reserve(server, "dead", json.dumps(message).encode(), "pool.code")
    let_the_lease_run_out(server, "dead")
    lease.renew()
    payload = json.loads(server.rpop("pool.code"))
    assert next(iter(payload)) == "deliveries"
    assert payload["headers"] == {"id": "1", "redelivered": True, "deliveries": 1}
    assert payload["properties"]["delivery_info"] == {"redelivered": True}
    assert server.rpop("pool.code") == b"waiting"


def test_what_was_not_due_yet_had_not_begun_when_its_node_died(
    server: fakeredis.FakeRedis,
) -> None:
    lease = Lease(server, "me")
    lease.take()
    message = {
        "headers": {"id": "1", "eta": "2999-01-01T00:00:00+00:00"},
        "properties": {"delivery_info": {}},
        "body": "",
    }
    reserve(server, "dead", json.dumps(message).encode(), "pool.code")
    let_the_lease_run_out(server, "dead")
    lease.renew()
    assert "deliveries" not in json.loads(server.rpop("pool.code"))["headers"]


def test_a_node_whose_lease_was_taken_is_told_so(server: fakeredis.FakeRedis) -> None:
    lease, other = Lease(server, "me"), Lease(server, "other")
    lease.take()
    other.take()
    let_the_lease_run_out(server, "me")
    other.renew()
    assert not lease.renew()
    assert server.zscore(keys.LEASES, "me") is None


def test_a_node_that_was_never_seen_alive_keeps_its_lease(server: fakeredis.FakeRedis) -> None:
    lease = Lease(server, "me")
    lease.take()
    server.zadd(keys.LEASES, {"unseen": (time.time() + 60) * 1000})
    reserve(server, "unseen", b"{}", "pool.code")
    assert lease.renew()
    assert server.exists(keys.unacked("unseen"))
