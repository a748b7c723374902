from __future__ import annotations

import json
import time

import fakeredis
import pytest

from pooltasks import keys
from pooltasks.broker.recovery import Lease, reservation_end
from pooltasks.broker.tenure import Tenure


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


def test_a_node_that_comes_back_in_time_keeps_what_runs_and_puts_the_rest_back(
    server: fakeredis.FakeRedis,
) -> None:
    before = Lease(server, "me")
    before.take()
    message = {"headers": {"id": "1"}, "properties": {"delivery_info": {}}, "body": ""}
    reserve(server, "me", b"running", "pool.code")
    (running,) = server.hkeys(keys.unacked("me"))
    reserve(server, "me", json.dumps(message).encode(), "pool.code")
    let_the_lease_run_out(server, "me")

    assert Lease(server, "me").resume({running.decode()})

    assert server.hkeys(keys.unacked("me")) == [running]
    payload = json.loads(server.rpop("pool.code"))
    assert payload["headers"] == {"id": "1", "redelivered": True}
    assert server.zscore(keys.LEASES, "me") > time.time() * 1000


def test_a_node_that_comes_back_too_late_is_another_one(server: fakeredis.FakeRedis) -> None:
    tenure = Tenure()
    assert tenure.lease(server).identity == tenure.identity
    first = tenure.identity
    tenure.lease(server)
    assert tenure.identity == first
    server.delete(keys.LEASES)
    assert tenure.lease(server).identity == tenure.identity != first
    assert server.zscore(keys.LEASES, tenure.identity)


def test_whoever_was_cut_off_itself_gives_the_others_time_to_come_back(
    server: fakeredis.FakeRedis,
) -> None:
    lease = Lease(server, "me", patience=3600)
    lease.take()
    server.zadd(keys.LEASES, {"late": 1})
    lease.renew()
    assert server.zscore(keys.LEASES, "late") == 1
    Lease(server, "me").renew()
    assert server.zscore(keys.LEASES, "late") is None
