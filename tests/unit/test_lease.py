from __future__ import annotations

import json
import time
from typing import Any

import fakeredis
import hiredis
import pytest
from redis.exceptions import TimeoutError as TimedOutError

from pooltasks import keys
from pooltasks.broker import recovery
from pooltasks.broker.recovery import Lease, reservation_end
from pooltasks.broker.tenure import Tenure
from pooltasks.broker.wire import Wire


@pytest.fixture
def server() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis()


class FakeWire(Wire):
    """Has a fake server execute what is sent, at once, and keeps the answers."""

    def __init__(self, server: fakeredis.FakeRedis) -> None:
        super().__init__(None)
        self._server = server
        self._answers: list[Any] = []
        self.is_silent = False

    def send(self, packed: bytes) -> None:
        reader = hiredis.Reader()
        reader.feed(packed)
        self._answers.append(self._server.execute_command(*reader.gets()))

    def receive(self) -> Any:
        return self._answers.pop(0)

    def wait(self, timeout: float) -> bool:  # noqa: ARG002  a wire's
        return not self.is_silent

    def close(self) -> None:
        self._answers.clear()


def lease_of(identity: str, server: fakeredis.FakeRedis, patience: float = 0.0) -> Lease:
    return Lease(server, FakeWire(server), identity, patience)


def look(lease: Lease) -> bool:
    """Have a lease look, and act on what it saw."""
    lease.renew()
    return lease.renew()


def reserve(server: fakeredis.FakeRedis, identity: str, message: bytes, name: str) -> None:
    entry = b"[" + message + reservation_end(name).encode()
    server.hset(keys.unacked(identity), str(time.monotonic_ns()), entry)


def let_the_lease_run_out(server: fakeredis.FakeRedis, identity: str) -> None:
    server.zadd(keys.LEASES, {identity: 1})


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b"\xff", b'a,"","b"]', b'{"headers": 3}'])
def test_what_a_dead_node_had_not_read_goes_back_as_it_was(
    server: fakeredis.FakeRedis, junk: bytes
) -> None:
    lease = lease_of("me", server)
    lease.take()
    reserve(server, "dead", junk, "pool.code")
    let_the_lease_run_out(server, "dead")
    assert look(lease)
    assert server.lrange("pool.code", 0, -1) == [junk]
    assert not server.exists(keys.unacked("dead"))
    assert server.zscore(keys.LEASES, "dead") is None


def test_a_message_goes_back_to_the_head_of_its_list_marked_as_redelivered(
    server: fakeredis.FakeRedis,
) -> None:
    lease = lease_of("me", server)
    lease.take()
    server.lpush("pool.code", b"waiting")
    message = {"headers": {"id": "1"}, "properties": {"delivery_info": {}}, "body": ""}
    reserve(server, "dead", json.dumps(message).encode(), "pool.code")
    let_the_lease_run_out(server, "dead")
    look(lease)
    payload = json.loads(server.rpop("pool.code"))
    assert next(iter(payload)) == "deliveries"
    assert payload["headers"] == {"id": "1", "redelivered": True, "deliveries": 1}
    assert payload["properties"]["delivery_info"] == {"redelivered": True}
    assert server.rpop("pool.code") == b"waiting"


def test_what_was_not_due_yet_had_not_begun_when_its_node_died(
    server: fakeredis.FakeRedis,
) -> None:
    lease = lease_of("me", server)
    lease.take()
    message = {
        "headers": {"id": "1", "eta": "2999-01-01T00:00:00+00:00"},
        "properties": {"delivery_info": {}},
        "body": "",
    }
    reserve(server, "dead", json.dumps(message).encode(), "pool.code")
    let_the_lease_run_out(server, "dead")
    look(lease)
    assert "deliveries" not in json.loads(server.rpop("pool.code"))["headers"]


def test_a_node_whose_lease_was_taken_is_told_so(server: fakeredis.FakeRedis) -> None:
    lease, other = lease_of("me", server), lease_of("other", server)
    lease.take()
    other.take()
    let_the_lease_run_out(server, "me")
    look(other)
    assert not look(lease)
    assert server.zscore(keys.LEASES, "me") is None


def test_a_node_that_was_never_seen_alive_keeps_its_lease(server: fakeredis.FakeRedis) -> None:
    lease = lease_of("me", server)
    lease.take()
    server.zadd(keys.LEASES, {"unseen": (time.time() + 60) * 1000})
    reserve(server, "unseen", b"{}", "pool.code")
    assert look(lease)
    assert server.exists(keys.unacked("unseen"))


def test_a_node_that_comes_back_in_time_keeps_what_runs_and_puts_the_rest_back(
    server: fakeredis.FakeRedis,
) -> None:
    before = lease_of("me", server)
    before.take()
    message = {"headers": {"id": "1"}, "properties": {"delivery_info": {}}, "body": ""}
    reserve(server, "me", b"running", "pool.code")
    (running,) = server.hkeys(keys.unacked("me"))
    reserve(server, "me", json.dumps(message).encode(), "pool.code")
    let_the_lease_run_out(server, "me")

    assert lease_of("me", server).resume({running.decode()})

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
    lease = lease_of("me", server, patience=3600)
    lease.take()
    server.zadd(keys.LEASES, {"late": 1})
    look(lease)
    assert server.zscore(keys.LEASES, "late") == 1
    look(lease_of("me", server))
    assert server.zscore(keys.LEASES, "late") is None


def test_nothing_is_waited_for_until_a_lease_would_have_run_out(
    server: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = FakeWire(server)
    lease = Lease(server, wire, "me")
    lease.take()
    wire.is_silent = True
    assert look(lease)
    monkeypatch.setattr(recovery, "LEASE_SECONDS", 0.0)
    with pytest.raises(TimedOutError, match="renewal of a lease"):
        lease.renew()


def test_an_answer_from_before_a_freeze_says_nothing_of_the_others(
    server: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = lease_of("me", server)
    lease.take()
    let_the_lease_run_out(server, "other")
    now = time.monotonic()
    lease.renew()
    with monkeypatch.context() as frozen:
        frozen.setattr(time, "monotonic", lambda: now + 10)
        assert lease.renew()
    assert server.zscore(keys.LEASES, "other") == 1
    lease.renew()
    assert server.zscore(keys.LEASES, "other") is None
