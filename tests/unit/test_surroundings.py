"""What is wrong around a pool: the server's memory, full hosts, the optimizer, who floods it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import fakeredis
import pytest

from pooltasks import keys
from pooltasks.broker.dead_letters import DeadLetter
from pooltasks.broker.limiting import marked
from pooltasks.dashboard.circumstances import circumstances, full_server, last_reason
from pooltasks.metrics.decisions import PoolDecision
from pooltasks.metrics.flood import Flood, flooding
from pooltasks.metrics.sample import Sample
from pooltasks.metrics.samples import QueueState, StoredSample
from pooltasks.metrics.surroundings import ServerMemory, Surroundings, look_around
from pooltasks.metrics.view import Load
from pooltasks.pool_settings import PoolSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 2**20
NODE = "shop@host/1"


@pytest.fixture
def client() -> Iterator[fakeredis.FakeRedis]:
    with fakeredis.FakeRedis() as client:
        yield client


def decision(at: float, **changes: Any) -> PoolDecision:
    its: dict[str, Any] = {
        "at": at,
        "policy": "objective",
        "target": 2,
        "before": 2,
        "wanted": 2,
        "hosts": 1,
        "nodes": {},
        "told": [],
        "reason": "",
    }
    return PoolDecision(**{**its, **changes})


def look(
    client: fakeredis.FakeRedis, last: PoolDecision | None, *, room: int = 2, **settings: Any
) -> Surroundings:
    """Look around at second 100: a node of two workers has written each second."""
    samples = [
        StoredSample(Sample(n, 1.0, 2, 2, 1, 0, 0.0, room=room), QueueState(float(n), 0, None))
        for n in range(80, 101)
    ]
    return look_around(
        client,
        ["pool.shop"],
        "shop",
        PoolSettings(**settings),
        now=100.5,
        load=Load(**dict.fromkeys(Load.__dataclass_fields__, 0)),
        samples={NODE: samples},
        decision=last,
    )


def test_an_optimizer_that_decides_nothing_about_what_nodes_wrote_has_stopped(
    client: fakeredis.FakeRedis,
) -> None:
    assert look(client, decision(99.0)).undecided is None
    assert look(client, decision(90.0)).undecided == 10.5
    assert look(client, decision(90.0), optimization_interval=10).undecided is None
    assert look(client, decision(90.0), enable_optimizer=False).undecided is None
    assert look(client, None).undecided is None  # there never was one


def test_an_optimizer_that_takes_no_turn_has_stopped_whatever_nodes_write(
    client: fakeredis.FakeRedis,
) -> None:
    client.hset(keys.optimizer("shop"), "token", "98000")
    assert look(client, decision(97.6)).undecided is None
    client.hset(keys.optimizer("shop"), "token", "97400")
    assert look(client, decision(98.0)).undecided == 2.5
    assert look(client, decision(98.0), optimization_interval=2).undecided is None
    assert look(client, decision(98.0), enable_optimizer=False).undecided is None


def test_hosts_are_full_if_the_optimizer_wants_more_than_they_have_room_for(
    client: fakeredis.FakeRedis,
) -> None:
    its = look(client, decision(100.0, wanted=6))
    assert (its.wanted, its.full) == (6, {NODE: 2})
    assert look(client, decision(100.0, wanted=6), slots=4).wanted == 2
    assert look(client, decision(100.0)).wanted is None
    # A pool at its max_pool_size is no matter of the host.
    assert look(client, decision(100.0, wanted=6), max_pool_size=2, pool_size=2).wanted is None
    assert look(client, decision(100.0, wanted=6), room=9).wanted is None


def test_what_is_around_a_pool_is_said_with_what_to_do() -> None:
    its = Surroundings(
        wanted=6, full={NODE: 2}, undecided=5.2, flood=Flood("shop.serve", "a b", 900, 1000)
    )
    assert dict(circumstances("proj", "shop", its)) == {
        "the optimizer wants 6 workers, and the hosts are full: shop@host has memory and "
        "processors for 2": "Start a node on another host: celery -A proj worker -Q pool.shop",
        "the optimizer has stopped: it has decided nothing for 5 s, and the pool keeps its size": (
            "Start beat (celery -A proj beat), or the control node (celery -A proj worker -Q "
            "pool.control)"
        ),
        "900 of the 1,000 operations that wait are shop.serve of 'a b'": (
            "Hold it back: pooltasks limit shop shop.serve key='a b' --concurrency 1"
        ),
    }
    assert not list(circumstances("proj", "shop", Surroundings()))


def test_a_flood_that_its_limit_holds_back_needs_no_other_limit() -> None:
    its = Surroundings(flood=Flood("shop.serve", "acme", 900, 1000, held=880))
    assert list(circumstances("proj", "shop", its)) == [
        (
            (
                "900 of the 1,000 operations that wait are shop.serve of 'acme'; their limit "
                "holds them back, and nobody waits for them"
            ),
            "Look at the limit: pooltasks limit shop",
        )
    ]


def test_a_server_is_full_before_it_refuses_everything() -> None:
    assert not ServerMemory(500 * MIB, 0).is_full  # no limit
    assert not ServerMemory(980 * MIB, 1000 * MIB).is_full
    full = ServerMemory(995 * MIB, 1000 * MIB)
    assert full.is_full
    assert full_server(full).startswith("the server's memory is full (995.0 MiB of 1,000.0 MiB)")


def test_a_user_who_may_not_ask_for_the_memory_knows_nothing_of_it(
    client: fakeredis.FakeRedis,
) -> None:
    memory = ServerMemory.read(client)  # it knows no INFO, as one who may not use it
    assert (memory.ratio, memory.is_full) == (None, False)


def publish(client: fakeredis.FakeRedis, tenant: str, times: int) -> None:
    message = json.dumps({"headers": {"task": "shop.serve"}, "body": "x" * 1000}).encode()
    for _ in range(times):
        client.lpush("pool.shop", marked(message, f"shop.serve/{tenant}") if tenant else message)


def test_who_sends_most_of_what_waits_is_known(client: fakeredis.FakeRedis) -> None:
    def found() -> Flood | None:
        return flooding(client, ["pool.shop"], "shop", int(client.llen("pool.shop")))

    assert found() is None
    publish(client, "acme", 40)
    assert found() is None  # few
    publish(client, "acme", 200)
    publish(client, "calm", 10)
    publish(client, "", 10)
    flood = found()
    assert flood is not None
    assert (flood.operation, flood.key, flood.of) == ("shop.serve", "acme", 260)
    assert 180 <= flood.waiting <= 260  # some stand for all of them
    publish(client, "calm", 150)  # those that came last are not the most
    assert found() is not None
    client.delete("pool.shop")
    for _ in range(60):
        for tenant in ("acme", "bolt", "calm"):
            publish(client, tenant, 1)
    assert found() is None  # nobody has half of it


def test_what_limits_hold_back_counts_too(client: fakeredis.FakeRedis) -> None:
    held = keys.flow("pool.shop", "held")
    client.zadd(held, {f"shop.serve/acme\0{n:05d}": 0 for n in range(80)})
    assert flooding(client, ["pool.shop"], "shop", 0) == Flood(
        "shop.serve", "acme", 80, 80, held=80
    )


def test_why_the_last_dead_letter_became_one_is_said() -> None:
    def letter(at: float, reason: str, operation: str | None = "shop.parse") -> DeadLetter:
        return DeadLetter(f"{at}", reason, at, operation, 1)

    assert last_reason([]) is None
    letters = [letter(2, "shop.parse killed its worker"), letter(1, "other")]
    assert last_reason(letters) == "shop.parse killed its worker"
    assert last_reason([letter(1, "rejected:\n too old")]) == "shop.parse: rejected: too old"
    assert last_reason([letter(1, "no JSON", None)]) == "no JSON"
    assert len(last_reason([letter(1, "x" * 5000)]) or "") < 300
