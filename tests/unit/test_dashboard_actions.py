"""What operators can do to a pool, and what is written down of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from kombu.exceptions import OperationalError
from pydantic import ValidationError
from redis import exceptions as redis_errors

from pooltasks import keys, remote
from pooltasks.broker.dead_letters import DeadLetters
from pooltasks.dashboard import letters
from pooltasks.dashboard.actions import ACTIONS, carry_out
from pooltasks.dashboard.audit import AuditLog

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from pooltasks.app import PoolApp
    from pooltasks.dashboard.audit import Done

WHO = ("alice", "192.0.2.7")


class Nodes:
    """Nodes that answer control commands as real ones do."""

    def __init__(self) -> None:
        self.sizes = {"code@a": 2, "code@b": 2}
        self.draining: set[str] = set()
        self.away = False

    def ask(self, _: Any, command: str, nodes: Any = None, **arguments: Any) -> dict[str, Any]:
        if self.away:
            raise OperationalError("connection refused")
        names = list(self.sizes) if nodes is None else nodes
        return {name: getattr(self, command)(name, **arguments) for name in names}

    def pool_status(self, name: str) -> dict[str, Any]:
        return {"pool": "code", "size": self.sizes[name], "floor": 1, "ceiling": 4}

    def pool_resize(self, name: str, size: int) -> dict[str, Any]:
        self.sizes[name] = size
        return {"size": size}

    def pool_warm(self, _: str) -> dict[str, Any]:
        return {"round": 1}

    def pool_drain(self, name: str, *, undo: bool) -> dict[str, Any]:
        (self.draining.discard if undo else self.draining.add)(name)
        return {"reserved": 1}


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    nodes = Nodes()
    monkeypatch.setattr(remote, "ask", nodes.ask)
    return nodes


@pytest.fixture
def client() -> redis.Redis:
    return pytest.importorskip("fakeredis").FakeRedis()


@pytest.fixture
def app(make_app: Callable[..., PoolApp], client: redis.Redis) -> PoolApp:
    app = make_app(pools={"code": {}})
    app.pooltasks.client = client
    return app


def act(app: PoolApp, name: str, **arguments: Any) -> Done:
    return carry_out(app, "code", ACTIONS[name](**arguments), *WHO)


def test_a_size_is_split_over_the_nodes_within_their_bounds(app: PoolApp, nodes: Nodes) -> None:
    done = act(app, "resize", size=5)
    assert done.succeeded
    assert done.outcome == "The pool has 5 workers."
    assert sorted(nodes.sizes.values()) == [2, 3]
    done = act(app, "resize", size=20)
    assert not done.succeeded
    assert done.outcome.startswith("Nothing was changed: 2 nodes allow 2 to 8 workers")
    assert sum(nodes.sizes.values()) == 5


def test_nodes_are_drained_and_take_work_again(app: PoolApp, nodes: Nodes) -> None:
    assert act(app, "drain", node="code@b").outcome == (
        "code@b takes no more operations; it still has 1 operation to finish."
    )
    assert nodes.draining == {"code@b"}
    assert act(app, "drain", node="code@b", undo=True).succeeded
    assert nodes.draining == set()
    assert not act(app, "drain", node="mail@a").succeeded


def test_workers_warm_up_again(app: PoolApp, nodes: Nodes) -> None:
    assert act(app, "warm").outcome.startswith("The workers of 2 nodes warm up again")
    nodes.sizes.clear()
    assert act(app, "warm").outcome == "No node of this pool answers."


def bury(client: redis.Redis, number: int) -> list[str]:
    store = DeadLetters(client, "pool.code")
    return [
        store.add(b'{"headers": {"id": "%d", "task": "shop.charge"}}' % one, f"reason {one}")
        for one in range(number)
    ]


def test_dead_letters_are_retried_and_deleted(app: PoolApp, client: redis.Redis) -> None:
    ids = bury(client, 3)
    assert act(app, "retry", letters=ids[:2]).outcome == "2 sent again."
    assert client.llen("pool.code") == 2
    done = act(app, "retry", letters=ids)
    assert not done.succeeded
    assert done.outcome == "1 of 3 sent again; the others are gone already."
    assert act(app, "drop", letters=bury(client, 2)).outcome == "2 deleted."
    assert client.hlen(keys.dead_letters("pool.code")) == 0


def test_every_action_is_audited_the_failed_ones_too(
    app: PoolApp, nodes: Nodes, client: redis.Redis
) -> None:
    act(app, "resize", size=3)
    nodes.away = True
    done = act(app, "warm")
    assert (done.outcome, done.succeeded) == (
        "The server redis://127.0.0.1:6379/0 does not answer.",
        False,
    )
    warm, resize = AuditLog(client, "code").latest(10)
    assert (
        resize.items()
        >= {
            "user": "alice",
            "address": "192.0.2.7",
            "action": "resize",
            "arguments": {"size": 3},
            "succeeded": True,
        }.items()
    )
    assert warm["action"] == "warm"
    assert warm["at"] >= resize["at"]
    assert client.ttl(keys.pool_audit("code")) > 0


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resize", {"size": -1}),
        ("resize", {"size": "3"}),
        ("resize", {"size": True}),
        ("resize", {"size": 3, "token": 1}),
        ("resize", {}),
        ("drain", {"node": ""}),
        ("retry", {"letters": []}),
        ("drop", {"letters": ["x"] * 1001}),
    ],
)
def test_wrong_arguments_are_refused(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ACTIONS[name](**arguments)


def test_letters_are_found_cut_and_shown_whole(app: PoolApp, client: redis.Redis) -> None:
    store = DeadLetters(client, "pool.code")
    bury(client, 3)
    body = "W1sxXSwgeyJhIjogIjxiPiJ9LCB7fV0="  # [[1], {"a": "<b>"}, {}]
    headers = {"id": "x/<y>", "task": "shop.mail"}
    message = json.dumps({"headers": headers, "body": body})
    store.add(message.encode(), "<script>" + "r" * 10_000)
    found = letters.listed(store, "SCRIPT", "MAIL")
    (letter,) = found["letters"]
    assert found["matching"] == 1
    assert letter["reason"].endswith("r… (10,008 characters)")
    assert len(letter["reason"]) < 400
    whole = letters.shown(app, store, "x/<y>")
    assert len(whole["reason"]) == 10_008
    assert whole["arguments"] == "…, a='<b>'"
    assert json.loads(whole["message"]) == {"headers": headers, "body": "(32 characters)"}
    assert letters.listed(store, "", "")["matching"] == 4
    unreadable = letters.shown(app, store, store.add(b"\xff{", "unreadable"))
    assert (unreadable["arguments"], unreadable["message"]) == (None, "\\xff{")


def test_the_optimizer_is_paused_and_acts_again(app: PoolApp, client: redis.Redis) -> None:
    assert act(app, "resume").outcome == "The optimizer was not paused."
    assert act(app, "pause", seconds=300).succeeded
    assert 0 < client.ttl(keys.optimizer_paused("code")) <= 300
    assert act(app, "resume").outcome == "The optimizer acts again."
    assert not client.exists(keys.optimizer_paused("code"))


def test_what_was_done_before_the_server_went_is_told_and_audited(
    app: PoolApp, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = bury(client, 3)
    retry, asked = DeadLetters.retry, iter(range(3))

    def going(store: DeadLetters, identifier: str) -> bool:
        if next(asked) == 2:
            raise redis_errors.ConnectionError("gone")
        return retry(store, identifier)

    monkeypatch.setattr(DeadLetters, "retry", going)
    done = act(app, "retry", letters=ids)
    assert not done.succeeded
    assert done.outcome == (
        f"2 of 3 sent again; then the server {remote.server_name(app)} did not answer, "
        f"and {ids[2]} may be, too."
    )
    assert AuditLog(client, "code").latest(1)[0]["outcome"] == done.outcome


def test_nodes_that_were_told_their_size_before_the_server_went_are_counted(
    app: PoolApp, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, told = nodes.ask, iter(range(9))

    def going(app: Any, command: str, *args: Any, **arguments: Any) -> Any:
        if command == "pool_resize" and next(told) == 1:
            raise OperationalError("gone")
        return ask(app, command, *args, **arguments)

    monkeypatch.setattr(remote, "ask", going)
    outcome = act(app, "resize", size=5).outcome
    assert outcome.startswith(
        f"1 of 2 nodes were told their size; then the server {remote.server_name(app)} did not "
        "answer"
    )
