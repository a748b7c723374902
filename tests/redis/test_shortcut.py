"""A worker completes an operation itself: in one step, or not at all as far as it knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis

from pooltasks import keys
from pooltasks.app import Extension, PoolApp
from pooltasks.broker.results import StoredResult
from pooltasks.node.worker.shortcut import Claim, Shortcut
from pooltasks.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

CLAIM = Claim(keys.unacked("pool.code", "me"), "1")
SUCCESS = b'{"status": "SUCCESS", "result": 1}'
STORED = StoredResult(b"result", SUCCESS, 60)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        client.script_flush()
        client.hset(CLAIM.unacked, mapping={"1": "message", "2": "another"})
        yield client


@pytest.fixture
def shortcut(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shortcut]:
    monkeypatch.setenv("POOLTASKS_REDIS_URL", redis_url)
    app = PoolApp("test", set_as_current=False)
    app._extension = Extension(Settings.load(), pool="code")
    shortcut = Shortcut(app)
    yield shortcut
    shortcut.close()


def test_it_is_stored_told_and_acknowledged_on_a_server_that_does_not_know_the_script(
    shortcut: Shortcut, client: redis.Redis
) -> None:
    with client.pubsub() as waiting:
        waiting.subscribe("result")
        assert waiting.get_message(timeout=5)
        assert shortcut.complete(CLAIM, STORED)
        told = waiting.get_message(timeout=5)
    assert told is not None
    assert told["data"] == SUCCESS
    assert client.get("result") == SUCCESS
    assert client.hkeys(CLAIM.unacked) == [b"2"]


def test_after_its_connection_is_lost_the_node_has_to_and_the_next_one_connects(
    shortcut: Shortcut, client: redis.Redis
) -> None:
    assert shortcut.complete(CLAIM, STORED)
    client.client_kill_filter(_type="normal", skipme=True)
    assert not shortcut.complete(CLAIM._replace(reservation="2"), STORED)
    assert client.hkeys(CLAIM.unacked) == [b"2"]
    assert shortcut.complete(CLAIM._replace(reservation="2"), STORED)
    assert not client.exists(CLAIM.unacked)


def test_what_the_server_refuses_is_left_to_the_node(
    shortcut: Shortcut, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    client.delete(CLAIM.unacked)
    client.set(CLAIM.unacked, "no hash")
    with caplog.at_level("INFO", "pooltasks.node.worker.shortcut"):
        assert not shortcut.complete(CLAIM, STORED)
        assert not shortcut.complete(CLAIM, STORED)
    assert len(caplog.records) == 1  # an outage is said once
    client.delete(CLAIM.unacked)
    assert shortcut.complete(CLAIM, STORED)


def test_without_a_server_the_node_has_to(
    shortcut: Shortcut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POOLTASKS_REDIS_URL", "redis://127.0.0.1:1")
    shortcut._app._extension = Extension(Settings.load(), pool="code")
    assert not shortcut.complete(CLAIM, STORED)
