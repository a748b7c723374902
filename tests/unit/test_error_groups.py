"""What fails in a pool, by kind: what belongs together, what is kept, what nobody is to read."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import fakeredis
import pytest

from pooltasks import keys
from pooltasks.broker.dead_letters import DeadLetter
from pooltasks.errors import ErrorGroupNotFoundError, MessageRefusedError
from pooltasks.metrics.error_groups import (
    LIFE,
    MOST,
    MOST_COUNTED,
    RECORD,
    ErrorGroups,
    Example,
    Head,
    failures_by_class,
    record_call,
    worst,
)
from pooltasks.metrics.error_text import folded, masked, told_arguments
from pooltasks.node.scoreboard.error_log import ErrorLog, sent_by
from pooltasks.node.worker.error_reports import ErrorReport

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

NOW = 1_800_000_000.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The server's clock, which the test moves."""
    its = Clock()
    monkeypatch.setattr(time, "time", its)
    return its


@pytest.fixture
def client(clock: Clock) -> redis.Redis:  # noqa: ARG001  the server's clock
    return fakeredis.FakeRedis()


@pytest.fixture
def groups(client: redis.Redis) -> ErrorGroups:
    return ErrorGroups(client, "shop")


def head(message: str = "no stock for #", operation: str = "shop.charge", **changes: Any) -> Head:
    its = {
        "error": "ValueError",
        "place": "/srv/shop.py, line 12 in charge",
        "category": "python",
        "text": f"ValueError('{message}')",
        **changes,
    }
    return Head(operation=operation, message=message, **its)


def example(**changes: Any) -> Example:
    its: dict[str, Any] = {
        "id": "op-1",
        "at": NOW,
        "arguments": "order=5",
        "traceback": "Traceback …",
        "attempts": [],
        "attempt": 1,
        "node": "shop@host",
        "worker": 17,
        **changes,
    }
    return Example(**its)


Batch = list[tuple[Head, int, int, Example | None]]


def record(client: redis.Redis, batch: Batch, number: int = 1, node: str = "a") -> int:
    names, arguments = record_call("shop", node, number, batch)
    added: int = client.eval(RECORD.text, len(names), *names, *arguments)
    return added


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("no stock for order 4711", "no stock for order 12"),
        ("took 1.5 s", "took 0.003 s"),
        ("at 0x7f2a10bc", "at 0x7f00aa10"),
        ("2026-11-29T02:14:55", "2025-01-02T12:00:00"),
        (
            "no user 7b1c0d9e-3f20-4e54-9df1-1fd2a9c1b0aa",
            "no user 11111111-2222-4333-8444-555555555555",
        ),
        ("id 507f1f77bcf86cd799439011", "id 507f191e810c19729de860ea"),
        ("a\n  b", "a b"),
    ],
)
def test_numbers_and_identifiers_do_not_tell_messages_apart(one: str, other: str) -> None:
    assert folded(one) == folded(other)


def test_words_tell_messages_apart() -> None:
    assert folded("no stock") != folded("no credit")
    assert folded("KeyError: 'price'") != folded("KeyError: 'name'")


@pytest.mark.parametrize(
    "secret",
    [
        "redis://user:hunter2@host/0",
        "password=hunter2",
        "'api_key': 'hunter2'",
        '{"access_token": "hunter2"}',
        "Authorization: Bearer hunter2hunter2",
        "client_secret: hunter2, next",
    ],
)
def test_a_secret_in_a_text_is_masked(secret: str) -> None:
    assert "hunter2" not in masked(f"it failed: {secret} and so on")
    assert "***" in masked(secret)


def charge(order: int, password: str = "", *, notes: Any = None, **more: Any) -> None:
    """An operation."""


def test_arguments_are_named_and_their_secrets_masked() -> None:
    told = told_arguments(
        charge, (5, "hunter2"), {"notes": {"token": "hunter2", "text": "x"}, "api_key": "hunter2"}
    )
    assert told == "order=5, password=***, notes={'token': ***, 'text': 'x'}, api_key=***"


def test_arguments_that_do_not_fit_are_told_by_their_place() -> None:
    assert told_arguments(charge, (1, 2, 3), {"order": 4}) == "#0=1, #1=2, #2=3, order=4"


def test_long_and_deep_arguments_are_cut() -> None:
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    told = told_arguments(charge, (), {"order": "x" * 10_000, "notes": deep, "z": list(range(999))})
    assert len(told) < 1100
    assert "[…]" in told


@pytest.mark.parametrize(
    "unit", ["x", "a-", "password", "1.", "://", "://a:", "eyJ", "' ", "secret="]
)
def test_no_text_takes_long(unit: str) -> None:
    text = unit * (20_000 // len(unit))
    begun = time.process_time()
    masked(text)
    folded(text)
    told_arguments(charge, ([[[[text] * 50] * 50] * 50] * 50, text), {})
    assert time.process_time() - begun < 0.5


def test_errors_of_one_kind_are_counted_together(
    client: redis.Redis, groups: ErrorGroups, clock: Clock
) -> None:
    record(client, [(head(), 2, 1, example())])
    clock.now += 30
    record(client, [(head(), 3, 0, None)], number=2)
    (its,) = groups.latest()
    assert (its.failed, its.retried, its.recent) == (5, 1, 6)
    assert (its.first, its.last) == (NOW, NOW + 30)
    assert its.title == (
        "shop.charge: ValueError: no stock for # (/srv/shop.py, line 12 in charge)"
    )
    assert groups.show(its.id) == (its, example())


def test_a_line_that_moves_is_the_same_kind() -> None:
    moved = head(place="/srv/shop.py, line 99 in charge")
    assert moved.group == head().group
    assert head(place="/srv/shop.py, line 12 in refund").group != head().group


def test_a_batch_counts_once(client: redis.Redis, groups: ErrorGroups) -> None:
    assert record(client, [(head(), 1, 0, None)]) == 1
    assert record(client, [(head(), 1, 0, None)]) == 0
    assert record(client, [(head(), 1, 0, None)], node="b") == 1
    assert [its.failed for its in groups.latest()] == [2]


def test_what_happened_lately_is_forgotten_by_the_minute(
    client: redis.Redis, groups: ErrorGroups, clock: Clock
) -> None:
    record(client, [(head(), 4, 0, None)])
    for seconds, recent in ((60, 4), (120, 0)):
        clock.now = NOW + seconds
        assert [its.recent for its in groups.latest()] == [recent]
    record(client, [(head(), 1, 0, None)], number=2)
    assert [(its.recent, its.failed) for its in groups.latest()] == [(1, 5)]


def test_what_is_kept_of_a_pool_is_bounded(
    client: redis.Redis, groups: ErrorGroups, clock: Clock
) -> None:
    for number in range(MOST + 20):
        clock.now += 1
        record(client, [(head(f"kind {'x' * number}"), 1, 0, example())], number=number)
    kept = groups.latest()
    assert len(kept) == MOST
    assert len(kept[0].message) > len(kept[-1].message)  # the oldest are gone
    assert client.hlen(keys.error_heads("shop")) == MOST
    assert client.hlen(keys.error_examples("shop")) == MOST
    assert client.hlen(keys.error_counts("shop")) == 4 * MOST
    with pytest.raises(ErrorGroupNotFoundError, match="no errors"):
        groups.show(head("kind ").group)


def test_what_was_not_seen_for_a_week_is_forgotten(
    client: redis.Redis, groups: ErrorGroups, clock: Clock
) -> None:
    record(client, [(head("old"), 1, 0, None)])
    clock.now += LIFE + 1
    record(client, [(head("new"), 1, 0, None)], number=2)
    assert [its.message for its in groups.latest()] == ["new"]


def test_every_key_has_a_time_to_live(client: redis.Redis) -> None:
    record(client, [(head(), 1, 0, example())])
    assert len(client.keys("*")) == 6
    assert all(0 < client.ttl(key) <= LIFE for key in client.keys("*"))


def test_counters_by_class_are_bounded(client: redis.Redis) -> None:
    for number in range(MOST_COUNTED + 10):
        record(client, [(head(operation=f"shop.op{number}"), 1, 0, None)], number=number)
    record(client, [(head(), 0, 5, None)], number=100)  # retried: no failure
    found = failures_by_class(client.hgetall(keys.error_classes("shop")))
    assert len(found) == MOST_COUNTED + 1
    assert found["other", "other"] == 10
    assert sum(found.values()) == MOST_COUNTED + 10


def test_the_worst_is_what_fails_most_now_and_is_not_its_callers_fault(
    client: redis.Redis, groups: ErrorGroups, clock: Clock
) -> None:
    assert worst(groups.latest()) is None
    record(client, [(head("long ago"), 1000, 0, None)])
    clock.now += 600
    batch: Batch = [
        (head("some"), 2, 0, None),
        (head("most"), 5, 0, None),
        (head("bad input", category="client"), 50, 0, None),
        (head("only retried"), 0, 60, None),
    ]
    record(client, batch, number=2)
    its = worst(groups.latest())
    assert its is not None
    assert its.message == "most"


def letter(reason: str, *errors: str, operation: str | None = "shop.charge") -> DeadLetter:
    history: Any = [{"at": NOW, "error": error} for error in errors]
    return DeadLetter("x", reason, NOW, operation, 1, history)


def test_a_dead_letter_is_found_by_its_last_error(client: redis.Redis, groups: ErrorGroups) -> None:
    its_head = head(text=folded("ValueError('no stock for order 4711')"))
    record(client, [(its_head, 1, 0, None)])
    (its,) = groups.latest()
    assert its.has(letter("failed after 2 retries: …", "x", "ValueError('no stock for order 5')"))
    assert not its.has(letter("failed after 2 retries: …", "ValueError('no credit')"))
    assert not its.has(letter("", "ValueError('no stock for order 5')", operation="shop.refund"))


def test_a_node_tells_what_it_found_itself(client: redis.Redis, groups: ErrorGroups) -> None:
    log = ErrorLog("shop", "shop@host", now=lambda: NOW, send=sent_by(client))
    reason = "shop.charge killed its worker or node at each of 3 deliveries"
    headers = {"task": "shop.charge", "id": "op-9", "retries": 0}
    log.found(MessageRefusedError("…"), headers, reason=reason, arguments="order=5")
    log.flush()
    (its,) = groups.latest()
    assert its.failed == 1
    assert its.has(letter("shop.charge killed its worker or node at each of 5 deliveries", "x"))
    _, found = groups.show(its.id)
    assert found is not None
    assert (found.id, found.arguments, found.node, found.worker) == (
        "op-9",
        "order=5",
        "shop@host",
        None,
    )


def test_a_batch_that_is_not_answered_is_sent_again_as_it_was(
    client: redis.Redis, groups: ErrorGroups
) -> None:
    sent: list[Any] = []
    through = sent_by(client)

    def send(names: Any, arguments: Any, on_answer: Callable[[Any], None], *_: Any) -> None:
        sent.append(arguments)
        if len(sent) != 1:  # the answer to the first gets lost
            through(names, arguments, on_answer, lambda _: None)
        else:
            through(names, arguments, lambda _: None, lambda _: None)

    log = ErrorLog("shop", "shop@host", now=lambda: NOW, send=send)
    plain = (tuple(head()), True, ("op-1", "order=5", "Traceback", [], 1, 17))
    log.add(ErrorReport.of(*plain))
    log.flush()
    log.add(ErrorReport.of(*plain))
    log.flush()
    assert sent[0] == sent[1]
    log.flush()
    assert [its.failed for its in groups.latest()] == [2]
    log.flush()
    assert len(sent) == 3  # nothing more to tell


def test_a_node_tells_of_a_bounded_number_of_kinds(
    client: redis.Redis, groups: ErrorGroups
) -> None:
    log = ErrorLog("shop", "shop@host", now=lambda: NOW, send=sent_by(client))
    for number in range(500):
        log.add(ErrorReport(head("x" * number), is_final=True))
    log.flush()
    found = groups.latest()
    assert len(found) == MOST
    assert sum(int(count) for count in client.hgetall(keys.error_classes("shop")).values()) == 500


def test_what_is_told_is_json_of_a_bounded_size(client: redis.Redis) -> None:
    record(client, [(head(), 1, 0, example(traceback="x" * 8000))])
    (stored,) = client.hgetall(keys.error_examples("shop")).values()
    assert json.loads(stored)["worker"] == 17
    assert len(stored) < 10_000
