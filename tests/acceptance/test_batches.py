"""Operations that take a list of calls, with real nodes."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import batch_operations
import pytest
import redis
from celery import chord, group
from celery.exceptions import TaskRevokedError, TimeLimitExceeded, WorkerLostError
from deployment import DEADLINE, Deployment, letter_of, wait_until

from pooltasks import Pool
from pooltasks.errors import CheckoutTimeout, OperationTimeout, PoisonedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pooltasks.embedded import EmbeddedServer

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]

POOLS = """
    broker_transport = "{transport}"
    [pools.code]
    imports = ["batch_operations"]
    pool_size = 1
    slots = {slots}
    max_deliveries = 2
    operation_timeout = 25
    checkout_timeout = 20
"""
KINDS = {
    "one slot": ("pooltasks", 1, ()),
    "slots": ("pooltasks", 3, ()),
    "solo": ("pooltasks", 1, ("-P", "solo")),
    "stock": ("stock", 3, ()),
}
on_every_kind = pytest.mark.parametrize("node", KINDS, indirect=True)
on_processes = pytest.mark.parametrize("node", ["one slot", "slots"], indirect=True)


@pytest.fixture(scope="module")
def node(
    request: pytest.FixtureRequest, valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """One node of each kind, shared by the tests of this module."""
    url = valkey.url.removesuffix("/0") + "/4"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    transport, slots, options = KINDS[request.param]
    deployment = Deployment(tmp_path_factory.mktemp("batches"), url)
    pool = Pool("code", app=deployment.configure(POOLS.format(transport=transport, slots=slots)))
    try:
        deployment.start_node("-Q", "pool.code", *options)
        pool.execute("ping", timeout=DEADLINE)
        yield deployment
    finally:
        deployment.stop()


@pytest.fixture
def pool(node: Deployment) -> Pool:
    node.redis.delete("batches")
    return Pool("code", app=node.app)


@pytest.fixture
def is_ours(request: pytest.FixtureRequest) -> bool:
    """Whether the messages come over our transport, which gathers more than Celery prefetches."""
    return request.node.callspec.params["node"] != "stock"


def of(pool: Pool, operation: Any) -> Any:
    return pool.app.tasks[operation.name]


def ran(deployment: Deployment) -> list[list[Any]]:
    """Return what ran together, in its order."""
    return [json.loads(batch) for batch in deployment.redis.lrange("batches", 0, -1)]


def rows_of(deployment: Deployment) -> list[Any]:
    """Return what ran, one by one."""
    return [row for batch in ran(deployment) for row in batch]


@on_every_kind
def test_each_call_has_a_result_of_its_own(node: Deployment, pool: Pool, is_ours: bool) -> None:
    store = of(pool, batch_operations.store)
    rows = ["bad", "unjson", "reject", 1, 2]
    results = [store.delay(row, table="a") for row in rows]
    late = store.apply_async((3, "b"), countdown=0.05)
    bad, unjson, _, one, two = results
    assert [result.get(timeout=DEADLINE) for result in (one, two, late)] == [
        [1, "a"],
        [2, "a"],
        [3, "b"],
    ]
    with pytest.raises(ValueError, match="it is bad"):
        bad.get(timeout=DEADLINE)
    with pytest.raises(Exception, match="not JSON serializable"):
        unjson.get(timeout=DEADLINE)
    assert sorted(map(str, rows_of(node))) == sorted(map(str, [*rows, 3]))
    assert len(ran(node)) <= 3
    if is_ours:
        letter, _ = letter_of(node, results[2].id)
        assert "rejected by the operation: no" in letter.reason
    with pytest.raises(TypeError):
        store.delay(1)


@on_every_kind
def test_full_batches_do_not_wait_and_all_calls_are_gathered(
    node: Deployment, pool: Pool, is_ours: bool
) -> None:
    store = of(pool, batch_operations.store)
    results = pool.submit_many(store, [(number, "t") for number in range(100)])
    assert [result.get(timeout=DEADLINE)[0] for result in results] == list(range(100))
    sizes = Counter(map(len, ran(node)))
    assert sum(size * count for size, count in sizes.items()) == 100
    assert max(sizes) <= 10
    assert sizes[10] >= 8 or not is_ours


@on_every_kind
def test_canvas_and_others_beside_it(pool: Pool) -> None:
    alone, wait = of(pool, batch_operations.alone), of(pool, batch_operations.wait)
    both = chord(group(wait.s(0.01 * number) for number in range(5)), alone.si(7))
    assert both.delay().get(timeout=DEADLINE) == 7
    chained = wait.s(0.02) | alone.s()
    assert chained.delay().get(timeout=DEADLINE) == 0.02


@on_processes
def test_attempts_are_those_of_each_call(node: Deployment, pool: Pool) -> None:
    try_again, ask_again = (
        of(pool, each) for each in (batch_operations.try_again, batch_operations.ask_again)
    )
    results = {row: try_again.delay(row) for row in ("a", "b")}
    again = ask_again.delay("c")
    assert {row: result.get(timeout=DEADLINE) for row, result in results.items()} == {
        "a": "a",
        "b": "b",
    }
    assert again.get(timeout=DEADLINE) == "c"
    assert Counter(rows_of(node)) == {"a": 3, "b": 3, "c": 2}


@on_processes
def test_what_the_function_raises_is_the_error_of_all(pool: Pool) -> None:
    store = of(pool, batch_operations.store)
    results = [store.delay(row, "t") for row in ("raise", 1)]
    for result in results:
        with pytest.raises(RuntimeError, match="database is away"):
            result.get(timeout=DEADLINE)


@on_processes
@pytest.mark.parametrize("deadly", ["kill", "leave"])
def test_one_that_kills_takes_no_other_with_it(node: Deployment, pool: Pool, deadly: str) -> None:
    store = of(pool, batch_operations.store)
    results = [store.delay(row, "t") for row in (1, deadly, 2, 3)]
    for row, place in ((1, 0), (2, 2), (3, 3)):
        assert results[place].get(timeout=DEADLINE) == [row, "t"]
    with pytest.raises(PoisonedError):
        results[1].get(timeout=DEADLINE)
    first, *rest = ran(node)
    assert deadly in first
    # All others of its batch ran alone, and it killed nobody else.
    assert all(len(batch) == 1 for batch in rest if deadly in batch or batch[0] in first)
    assert sum(deadly in batch for batch in rest) == 2


@on_processes
def test_soft_and_hard_limits_are_those_of_all(pool: Pool) -> None:
    wait, hang = of(pool, batch_operations.wait), of(pool, batch_operations.hang)
    results = [wait.delay(seconds) for seconds in (0.01, 20)]
    for result in results:
        with pytest.raises(OperationTimeout):
            result.get(timeout=DEADLINE)
    hanging = [hang.delay(row) for row in (1, 2)]
    for result in hanging:
        with pytest.raises(TimeLimitExceeded):
            result.get(timeout=DEADLINE)
    assert wait.delay(0.01).get(timeout=DEADLINE) == 0.01


@on_processes
def test_what_may_not_run_twice_does_not(node: Deployment, pool: Pool) -> None:
    once = of(pool, batch_operations.once)
    for result in [once.delay(row) for row in ("a", "b")]:
        with pytest.raises(WorkerLostError):
            result.get(timeout=DEADLINE)
    assert Counter(rows_of(node)) == {"a": 1, "b": 1}


@on_processes
def test_one_that_is_revoked_leaves_the_others_alone(node: Deployment, pool: Pool) -> None:
    store = of(pool, batch_operations.store)
    before, gone = store.delay(1, "t"), store.delay(2, "t")
    gone.revoke()
    assert before.get(timeout=DEADLINE) == [1, "t"]
    with pytest.raises(TaskRevokedError):
        gone.get(timeout=DEADLINE)
    results = [store.delay(row, "t") for row in ("sleep", 3)]
    wait_until(lambda: ["sleep", 3] in ran(node), "the batch runs")
    results[0].revoke(terminate=True, signal="SIGKILL")
    assert results[1].get(timeout=DEADLINE) == [3, "t"]
    with pytest.raises(TaskRevokedError):
        results[0].get(timeout=DEADLINE)


@on_processes
def test_a_call_that_comes_too_late_is_refused_alone(node: Deployment, pool: Pool) -> None:
    store = of(pool, batch_operations.store)
    fine = store.delay(1, "t")
    headers = {"published_at": pool.app.pooltasks.clock.now() - 1000}
    late = pool.app.send_task(store.name, (2, "t"), queue="pool.code", headers=headers)
    with pytest.raises(CheckoutTimeout):
        late.get(timeout=DEADLINE)
    assert fine.get(timeout=DEADLINE) == [1, "t"]
    assert 2 not in rows_of(node)


@on_processes
def test_a_limit_by_key_is_a_limit_of_the_batch(node: Deployment, pool: Pool) -> None:
    limited = of(pool, batch_operations.limited)
    results = [limited.delay("ann", row) for row in range(6)]
    # Three wait in the node for more, which the limit holds back: it goes on after batch_wait.
    assert [result.get(timeout=DEADLINE) for result in results] == list(range(6))
    assert [len(batch) for batch in ran(node)] == [3, 3]


def test_a_batch_outlives_its_node_call_by_call(deployment: Deployment) -> None:
    pool = Pool("code", app=deployment.configure(POOLS.format(transport="pooltasks", slots=1)))
    deployment.start_node("-Q", "pool.code")
    store = of(pool, batch_operations.store)
    results = [store.delay(row, "t") for row in ("sleep", 1, 2)]
    wait_until(lambda: ran(deployment) == [["sleep", 1, 2]], "the batch runs")
    deployment.nodes[0].kill()
    deployment.nodes.pop(0).wait()
    deployment.start_node("-Q", "pool.code")
    rows = [result.get(timeout=DEADLINE)[0] for result in results]
    assert rows == ["sleep", 1, 2]
    assert sorted(map(str, ran(deployment)[1:])) == ["['sleep']", "[1]", "[2]"]


def test_a_stop_gives_back_what_was_gathered(deployment: Deployment) -> None:
    pool = Pool("code", app=deployment.configure(POOLS.format(transport="pooltasks", slots=1)))
    deployment.start_node("-Q", "pool.code")
    limited = of(pool, batch_operations.limited)
    results = [limited.delay("ann", row) for row in range(2)]
    wait_until(lambda: deployment.reserved() == 2, "they are gathered")
    deployment.nodes[0].terminate()
    deployment.nodes.pop(0).wait(DEADLINE)
    assert ran(deployment) == []
    assert deployment.redis.llen("pool.code") == 2
    deployment.start_node("-Q", "pool.code")
    assert [result.get(timeout=DEADLINE) for result in results] == [0, 1]
    letters = deployment.redis.keys("pooltasks:{pool.code}:dead*")
    assert not letters
