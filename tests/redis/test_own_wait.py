"""A worker waits at the server itself: each message is run, or handed over, or goes back."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis
from node_session import DEADLINE, Node

from pooltasks.app import Extension, PoolApp
from pooltasks.broker.loan import NUMBERS, Loan
from pooltasks.broker.results import StoredResult
from pooltasks.node.worker.outcome import Ending, How, Run
from pooltasks.node.worker.own_wait import LONG, OwnWait, Why
from pooltasks.node.worker.shortcut import Shortcut
from pooltasks.node.worker.turn import Turn
from pooltasks.node.workforce.replies import DONE, FETCHED, HANDED, RETURNED
from pooltasks.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

QUEUE = "pool.code"
SUCCEEDED = Run(Ending().plain())
FAILED = Run(Ending(How.FAILED, text="so").plain(), ValueError("so"))


class Plain:
    """Reads messages whose text says how they end."""

    @staticmethod
    def read(raw: bytes, _: str) -> tuple[Any, ...] | None:
        text = json.loads(raw)
        return None if text == "rare" else ("op", text)


class Worker:
    """A worker's wait, in a thread, under a real session."""

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("POOLTASKS_REDIS_URL", url)
        self.app = PoolApp("test", set_as_current=False)
        self.app._extension = Extension(Settings.load(), pool="code")
        self.node = Node(url, QUEUE)
        self.names = self.node.names
        self.turn = Turn()
        self.told: list[tuple[int, tuple[Any, ...]]] = []
        self.ran: list[str] = []
        self.seconds = 0.001
        self.shortcut = Shortcut(self.app)
        self.wait = OwnWait(
            self.shortcut,
            Plain(),  # type: ignore[arg-type]
            self.turn,
            operate=self._operate,
            is_worn=lambda: False,
            reply=lambda kind, arguments: self.told.append((kind, arguments)),
        )
        self.most = NUMBERS
        self.crowd = 1000
        self._thread: threading.Thread | None = None

    def _operate(
        self, _: int, arguments: tuple[Any, ...]
    ) -> tuple[Run, StoredResult | None, float]:
        text = arguments[1]
        self.ran.append(text)
        time.sleep(self.seconds)
        self.turn.end()
        stored = StoredResult(f"result:{text}".encode(), b'{"status": "SUCCESS"}', 60)
        return (FAILED if text == "fails" else SUCCEEDED), stored, self.seconds

    def loan(self) -> Loan:
        session = self.node.session
        self.turn.leave_out(100)
        return Loan(
            identity=session.identity,
            epoch=session.epoch,
            channels=(self.names.alive, self.names.alive_of(session.identity)),
            queue=self.names.lists[0],
            unacked=self.unacked,
            epochs=self.names.index,
            incoming=self.names.incoming(session.identity),
            last_chance=2,
            reservation=self.node.reservations.set_aside(NUMBERS),
            operation=101,
            crowd=self.crowd,
        )

    @property
    def unacked(self) -> str:
        return self.names.unacked(self.node.session.identity)

    def start(self) -> Loan:
        loan = self.loan()
        self._thread = threading.Thread(target=self.wait.serve, args=(loan, self.most))
        self._thread.start()
        return loan

    def returned(self) -> Why:
        """Return why it has returned its loan, once it has."""
        assert self._thread is not None
        deadline = time.monotonic() + DEADLINE
        while self._thread.is_alive():
            assert time.monotonic() < deadline, "it keeps its loan"
            self.node.turn()
            self._thread.join(0.01)
        kind, (why, *_) = self.told[-1]
        assert kind == RETURNED
        return Why(why)

    def kinds(self) -> list[int]:
        return [kind for kind, _ in self.told]


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def worker(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    worker = Worker(redis_url, monkeypatch)
    yield worker
    worker.shortcut.close()
    worker.node.session.leave(1.0)


def publish(client: redis.Redis, *texts: str) -> None:
    client.lpush(QUEUE, *(json.dumps(text) for text in texts))


def wait_until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)  # between looks


def is_waiting(client: redis.Redis) -> bool:
    return any(each["cmd"] == "blmove" for each in client.client_list())


def test_what_comes_is_run_and_completed_without_a_word_to_the_node(
    worker: Worker, client: redis.Redis
) -> None:
    loan = worker.start()
    wait_until(lambda: is_waiting(client), "a wait")
    for text in ("one", "two"):
        publish(client, text)
        wait_until(lambda text=text: client.exists(f"result:{text}"), "its result")
    wait_until(lambda: not client.exists(worker.unacked), "its acknowledgement")
    assert worker.told == []
    worker.turn.recall(loan.end - 1)
    assert worker.returned() is Why.ENDED
    assert worker.ran == ["one", "two"]
    ((_, (_, done, ran)),) = worker.told
    assert done == 2
    assert ran["op"][0] == 2
    assert worker.turn.last() == loan.end - 1


def test_where_nothing_comes_the_loan_goes_back(worker: Worker) -> None:
    worker.start()
    assert worker.returned() is Why.IDLE


def test_as_many_are_run_as_the_worker_may(worker: Worker, client: redis.Redis) -> None:
    worker.most = 2
    publish(client, "one", "two", "three")
    worker.start()
    assert worker.returned() is Why.LEAVING
    assert worker.ran == ["one", "two"]
    assert client.llen(QUEUE) == 1
    assert not client.exists(worker.unacked)


def test_a_message_that_is_the_nodes_is_handed_over_with_its_reservation(
    worker: Worker, client: redis.Redis
) -> None:
    publish(client, "rare")
    loan = worker.start()
    assert worker.returned() is Why.HANDED_OVER
    reservation = loan.reservation_of(loan.operation)
    assert worker.told[0] == (HANDED, (reservation, b'"rare"'))
    assert client.hkeys(worker.unacked) == [reservation.encode()]


def test_a_message_that_comes_after_the_recall_is_handed_over(
    worker: Worker, client: redis.Redis
) -> None:
    loan = worker.start()
    wait_until(lambda: is_waiting(client), "a wait")
    worker.turn.recall(loan.end - 1)
    publish(client, "one")
    assert worker.returned() in (Why.HANDED_OVER, Why.ENDED)
    assert worker.ran == []
    assert client.llen(QUEUE) + client.hlen(worker.unacked) == 1


def test_the_node_hears_of_a_failure_and_the_loan_goes_on(
    worker: Worker, client: redis.Redis
) -> None:
    publish(client, "fails")
    loan = worker.start()
    wait_until(lambda: len(worker.told) == 2, "its end")
    publish(client, "one")
    wait_until(lambda: client.exists("result:one"), "the next one's result")
    assert worker.kinds() == [FETCHED, DONE]
    number, reservation, raw = worker.told[0][1]
    assert (number, reservation, raw) == (101, loan.reservation_of(101), b'"fails"')
    *_, is_completed = worker.told[1][1]
    assert not is_completed
    assert client.hkeys(worker.unacked) == [reservation.encode()], "the node completes it"
    worker.turn.recall(loan.end - 1)
    worker.returned()


def test_the_node_hears_of_the_end_of_a_long_operation(worker: Worker, client: redis.Redis) -> None:
    worker.seconds = 2 * LONG
    publish(client, "one")
    loan = worker.start()
    wait_until(lambda: worker.told, "its end")
    ((kind, (number, _, _, _, is_completed)),) = worker.told
    assert (kind, number, is_completed) == (DONE, 101, True)
    assert client.exists("result:one")
    worker.turn.recall(loan.end - 1)
    worker.returned()


def test_a_completion_that_is_refused_is_the_nodes(worker: Worker, client: redis.Redis) -> None:
    worker.seconds = 0.3
    publish(client, "one")
    worker.start()
    wait_until(lambda: worker.ran, "its run")
    (entry,) = client.hgetall(worker.unacked).items()
    client.delete(worker.unacked)
    client.set(worker.unacked, "no hash")
    worker.returned()
    assert worker.kinds()[:2] == [FETCHED, DONE]
    assert worker.told[1][1][2] is not None, "with its result"
    client.delete(worker.unacked)
    client.hset(worker.unacked, *entry)


def test_an_epoch_that_is_over_gives_nothing_and_the_message_stays_in_its_list(
    worker: Worker, client: redis.Redis
) -> None:
    worker.start()
    wait_until(lambda: is_waiting(client), "a wait")
    worker.node.session.join_again()
    publish(client, "one")
    assert worker.returned() is Why.REFUSED
    assert worker.ran == []
    assert client.lrange(QUEUE, 0, -1) == [b'"one"']
    assert not client.exists(worker.unacked)


def test_a_lost_connection_is_told_and_what_it_reserved_goes_back(
    worker: Worker, client: redis.Redis
) -> None:
    worker.seconds = 0.3
    loan = worker.start()
    worker.node.reservations.is_lent = loan.covers
    wait_until(lambda: is_waiting(client), "a wait")
    publish(client, "one")
    wait_until(lambda: worker.ran, "its run")
    client.client_kill_filter(_type="pubsub")
    assert worker.returned() is Why.BROKEN
    assert worker.kinds()[:2] == [FETCHED, DONE], "it may not be completed"
    # A message that was reserved, and of which nobody heard.
    lost = loan.reservation_of(loan.operation + 1)
    client.hset(worker.unacked, lost, '0r"lost"')
    worker.node.session.join_again()
    worker.node.settle()
    assert client.llen(QUEUE) == 0, "not while the loan is out"
    worker.node.reservations.held.add(loan.reservation_of(loan.operation))
    worker.node.reservations.is_lent = lambda _: False
    worker.node.session.join_again()
    worker.node.turn_until(lambda: client.llen(QUEUE) == 1, "the message in its list")
    assert client.lrange(QUEUE, 0, -1) == [b'"lost"']


def test_a_crowd_is_left_to_the_node(worker: Worker, client: redis.Redis) -> None:
    worker.crowd = 20
    publish(client, *map(str, range(100)))
    worker.start()
    assert worker.returned() is Why.CROWDED
    assert len(worker.ran) < 20
    assert client.llen(QUEUE) == 100 - len(worker.ran)
    assert not client.exists(worker.unacked)


def test_a_message_with_its_last_chance_stays_for_the_node(
    worker: Worker, client: redis.Redis
) -> None:
    publish(client, "one")
    client.lpush(QUEUE, '{"deliveries": 2, "body": ""}')
    publish(client, "two")
    worker.start()
    assert worker.returned() is Why.REFUSED, "so that the node takes it"
    assert worker.ran == ["one"]
    assert client.llen(QUEUE) == 2
    assert not client.exists(worker.unacked)


def test_without_a_server_nothing_was_asked(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    loan = worker.loan()
    monkeypatch.setenv("POOLTASKS_REDIS_URL", "redis://127.0.0.1:1")
    worker.app._extension = Extension(Settings.load())
    assert worker.wait.serve(loan, worker.most) == (0, None)
    assert worker.told[-1][1][0] == Why.REFUSED
