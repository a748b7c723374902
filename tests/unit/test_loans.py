"""When a node lends its wait to its workers, and what becomes of operations it has not seen."""

from __future__ import annotations

import pickle
import time
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pooltasks.broker.loan import NUMBERS, Loan
from pooltasks.node.worker.outcome import Ending
from pooltasks.node.worker.own_wait import LONG, Why
from pooltasks.node.worker.shortcut import Claims
from pooltasks.node.worker.turn import Turn
from pooltasks.node.workforce import loans as module
from pooltasks.node.workforce.dispatch import Dispatch
from pooltasks.node.workforce.frames import JOBS, LOAN
from pooltasks.node.workforce.jobs import Call, Kind, Lane
from pooltasks.node.workforce.loans import Loans
from pooltasks.node.workforce.timeouts import Deadlines

if TYPE_CHECKING:
    from collections.abc import Callable

SUCCEEDED = Ending().plain()


class Owner:
    """Hears what becomes of an operation."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def buries(self, _: Any) -> bool:
        return False

    def on_accepted(self, *_: Any) -> None:
        self.told.append("begins")

    def on_ended(self, *_: Any) -> None:
        self.told.append("ends")

    def on_lost(self, *_: Any) -> None:
        self.told.append("lost")


class Node:
    """The loans of a node: its workers are lanes, its intake and its loop a test."""

    def __init__(self, workers: int = 2) -> None:
        self.workers: list[Any] = [
            SimpleNamespace(pid=100 + index, index=index, inqW_fd=index, lane=Lane(Turn()))
            for index in range(workers)
        ]
        self.open_to = list(self.workers)
        self.written: list[tuple[int, Any]] = []
        self.later: list[Callable[[], None]] = []
        self.lost: list[Any] = []
        self.free: list[Any] = []
        self.looks: list[float] = []
        self.taken: list[str] = []
        self.known: dict[str, Owner] = {}
        self.at_server: dict[str, bytes] = {}
        self.asked: list[Callable[[], None]] = []
        self.joined = 0
        self.may = True
        self.hears = True
        self.identity = "me"
        self._next = 1
        self.dispatch = Dispatch(
            self.workers,
            self.open_to,
            {},
            Counter[int](),
            strategy="lifo",
            slots=1,
            accepts_first=lambda _: False,
            claims=Claims(),
            on_written=lambda: None,
            on_result=lambda _: None,
            on_end=lambda _: None,
            deadlines=Deadlines(lambda _: None, lambda _: None),
        )
        self.dispatch.deadlines.start(  # type: ignore[attr-defined]
            SimpleNamespace(call_later=lambda *_: SimpleNamespace(cancel=int))
        )
        self.dispatch.write = self._write  # type: ignore[method-assign]
        self.loans = Loans(
            self.workers,
            self.open_to,
            self.dispatch,
            on_lost=lambda job, worker: self.lost.append((job, worker)),
            on_end=self.free.append,
            on_look=self.looks.append,
        )
        self.loans.intake = self
        self.loans.start(SimpleNamespace(call_later=lambda _, look: self.later.append(look)))
        self.dispatch.durations.note("op", 0.005)

    def _write(self, worker: Any) -> None:
        self.written.append(pickle.loads(worker.lane.unsent[4:]))  # noqa: S301  our own
        worker.lane.unsent = None

    # The intake's part.

    def may_lend(self) -> bool:
        return self.may

    def lend(self, operation: int, workers: int) -> Loan:
        first, self._next = self._next, self._next + NUMBERS
        return Loan(
            *(self.identity, 1, ("pool", "node"), "queue", "unacked", "epochs", "incoming", 2),
            *(first, operation, 4 * workers),
        )

    def is_of(self, loan: Loan) -> bool:
        return loan.identity == self.identity

    def take(self, reservation: str, _: bytes) -> None:
        self.taken.append(reservation)

    def make_known(self, reservation: str, _: bytes) -> bool:
        if self.hears:
            self.known[reservation] = Owner()
            self.submit(reservation, self.known[reservation])
        return self.hears

    def find(self, reservation: str, found: Callable[[bytes | None], None]) -> None:
        self.asked.append(lambda: found(self.at_server.get(reservation)))

    def join_again(self) -> None:
        self.joined += 1

    # The test's part.

    def submit(self, reservation: str = "mine", owner: Any = None) -> Any:
        call = Call(Kind.OPERATION, "op", b"", reservation=reservation)
        limits = (None, None)
        return self.dispatch.submit(call, owner or Owner(), limits=limits, correlation_id=None)

    def work(self) -> None:
        """Have operations come as often as they have to for a loan."""
        self.loans.begin(is_crowded=False)
        self.workers[0].lane.done += 1000

    def lending(self, monkeypatch: pytest.MonkeyPatch) -> Node:
        self.work()
        pass_time(monkeypatch, 1.0)
        assert self.loans.begin(is_crowded=False)
        return self

    def loan(self, worker: int = 0) -> Loan:
        lent = self.workers[worker].lane.lent
        assert lent is not None
        return lent.loan  # type: ignore[no-any-return]

    def begin(self, worker: int = 0, nth: int = 0) -> int:
        """Have a worker begin the nth operation of its loan; return its number."""
        number = self.loan(worker).operation + nth
        assert self.workers[worker].lane.turn.begin(number)
        return number

    def begin_at_server(self, worker: int = 0) -> tuple[int, str]:
        """Do so with a message that the server still has; return its reservation too."""
        number = self.begin(worker)
        reservation = self.loan(worker).reservation_of(number)
        self.at_server[reservation] = b"message"
        return number, reservation

    def look(self) -> None:
        looks, self.later = self.later, []
        for each in looks:
            each()

    def answer(self) -> None:
        asked, self.asked = self.asked, []
        for each in asked:
            each()

    def give_back(self, worker: int = 0, why: Why = Why.ENDED, done: int = 0) -> None:
        its = self.workers[worker]
        its.lane.turn.leave_out(self.loan(worker).end - 1)
        self.loans.on_returned(its, int(why), done, {"op": (done, 0.005)} if done else {})


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = time.monotonic() + seconds
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node().lending(monkeypatch)


def test_a_node_whose_operations_come_often_lends_to_each_idle_worker(node: Node) -> None:
    assert [kind for kind, _ in node.written] == [LOAN, LOAN]
    first, second = node.loan(0), node.loan(1)
    assert Loan(*node.written[0][1]) == first
    assert second.reservation >= first.reservation + NUMBERS
    assert node.loans.may_cover(str(first.reservation))
    assert not node.loans.may_cover(str(second.reservation + NUMBERS))


def test_a_node_whose_operations_come_rarely_waits_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node()
    node.loans.begin(is_crowded=False)
    pass_time(monkeypatch, 1.0)
    node.workers[0].lane.done += 3
    assert not node.loans.begin(is_crowded=False)


@pytest.mark.parametrize("seconds", [0.05, 10.0])
def test_a_node_whose_operations_take_long_waits_itself(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node()
    for _ in range(100):
        node.dispatch.durations.note("op", seconds)
    node.work()
    pass_time(monkeypatch, 1.0)
    assert not node.loans.begin(is_crowded=False)


@pytest.mark.parametrize(("seconds", "lends"), [(0.0005, False), (0.005, True)])
def test_where_messages_wait_a_node_lends_unless_many_go_to_a_worker_at_once(
    seconds: float, lends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node()
    for _ in range(200):
        node.dispatch.durations.note("op", seconds)
    node.work()
    pass_time(monkeypatch, 1.0)
    assert node.loans.begin(is_crowded=True) is lends


def test_a_worker_that_has_an_operation_gets_its_loan_when_that_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = Node()
    node.submit()
    node.dispatch.hand_out()
    node.lending(monkeypatch)
    assert [each.lane.lent is not None for each in node.workers].count(True) == 1
    busy = next(each for each in node.workers if each.lane.lent is None)
    node.dispatch.on_done(busy, 1, SUCCEEDED, None, 0.001, False)
    assert node.loans.goes_on()
    assert busy.lane.lent is not None


def test_what_waits_in_the_node_takes_the_wait_back_and_goes_to_the_first_that_returns(
    node: Node,
) -> None:
    owner = Owner()
    node.submit(owner=owner)
    assert not node.loans.goes_on()
    node.dispatch.hand_out()
    assert [kind for kind, _ in node.written] == [LOAN, LOAN], "nothing goes to who has a loan"
    assert not node.workers[1].lane.turn.begin(node.loan(1).operation), "it begins nothing more"
    node.give_back(1)
    node.dispatch.hand_out()
    kind, ((number, *_),) = node.written[-1]
    assert kind == JOBS
    assert node.workers[1].lane.turn.begin(number)


def test_a_wait_that_was_taken_back_is_not_lent_at_once(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.loans.recall()
    for worker in (0, 1):
        node.give_back(worker)
    node.work()
    assert not node.loans.begin(is_crowded=False)
    pass_time(monkeypatch, 60.0)
    assert node.loans.begin(is_crowded=False)


def test_numbers_that_are_used_up_are_followed_by_others(node: Node) -> None:
    before = node.loan(0)
    node.give_back(0, done=NUMBERS)
    assert node.workers[0].lane.done >= NUMBERS
    assert node.free == [node.workers[0]]
    assert node.loans.goes_on()
    assert node.loan(0).operation == before.end
    assert node.begin(0) == before.end


def test_a_short_operation_costs_the_node_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    pass_time(monkeypatch, 0.0)
    node.begin()
    node.look()
    node.workers[0].lane.turn.end()
    pass_time(monkeypatch, 1.0)
    node.look()
    assert node.asked == []
    assert node.known == {}


def test_a_long_operation_is_made_the_nodes_own_and_ends_as_others(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, reservation = node.begin_at_server()
    pass_time(monkeypatch, 5.0)
    node.look()
    node.look()
    assert len(node.asked) == 1, "it is asked for once"
    node.answer()
    assert node.known[reservation].told == ["begins"]
    assert node.dispatch.jobs
    node.workers[0].lane.turn.end()
    node.dispatch.on_done(node.workers[0], number, SUCCEEDED, None, LONG, True)
    assert node.known[reservation].told == ["begins", "ends"]
    assert not node.dispatch.jobs
    node.look()
    assert node.asked == []


def test_a_worker_with_a_long_operation_does_not_keep_its_node_from_lending(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.begin_at_server()
    pass_time(monkeypatch, 5.0)
    node.look()
    node.answer()
    node.loans.recall()
    node.give_back(1)
    before = node.loan(0)
    node.loans.begin(is_crowded=False)
    node.workers[1].lane.done += 1000
    pass_time(monkeypatch, 10.0)
    assert node.loans.begin(is_crowded=False)
    assert node.loan(0) == before
    assert node.loan(1).operation > 0


def test_an_operation_that_ends_meanwhile_stays_the_workers(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, _ = node.begin_at_server()
    pass_time(monkeypatch, 5.0)
    node.look()
    node.dispatch.on_done(node.workers[0], number, SUCCEEDED, None, LONG, True)
    node.answer()
    assert node.known == {}
    assert not node.dispatch.jobs


def test_an_operation_that_the_consumer_cannot_take_yet_is_asked_for_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, reservation = node.begin_at_server()
    node.hears = False
    pass_time(monkeypatch, 5.0)
    node.look()
    node.answer()
    node.hears = True
    node.look()
    node.answer()
    assert list(node.known) == [reservation]


def test_an_operation_that_failed_is_known_before_its_end(node: Node) -> None:
    number = node.begin()
    reservation = node.loan().reservation_of(number)
    node.loans.on_fetched(node.workers[0], number, reservation, b"message")
    node.dispatch.on_done(node.workers[0], number, SUCCEEDED, None, 0.001, False)
    assert node.known[reservation].told == ["begins", "ends"]
    assert node.loans.goes_on(), "the loan goes on"


def test_a_message_that_was_handed_over_is_the_nodes(node: Node) -> None:
    node.loans.on_handed(node.workers[0], "1", b"message")
    node.give_back(0, Why.HANDED_OVER)
    assert node.taken == ["1"]
    assert not node.loans.goes_on()


def test_a_node_with_another_identity_leaves_the_messages_to_those_that_have_them_now(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, reservation = node.begin_at_server()
    node.identity = "another"
    node.loans.on_handed(node.workers[1], "501", b"message")
    node.loans.on_fetched(node.workers[0], number, reservation, b"message")
    pass_time(monkeypatch, 5.0)
    node.look()
    node.answer()
    assert (node.taken, node.known) == ([], {})


def test_an_operation_of_a_dead_worker_is_lost_and_its_reservation_nobody_elses(
    node: Node,
) -> None:
    _, reservation = node.begin_at_server()
    dead = node.workers.pop(0)
    node.open_to.remove(dead)
    node.loans.on_gone(dead)
    assert node.loans.may_cover(reservation), "it is not given back meanwhile"
    node.give_back(0)
    assert node.joined == 0
    node.answer()
    ((job, worker),) = node.lost
    assert (job.call.reservation, worker) == (reservation, dead)
    assert node.joined == 1
    assert not node.loans.is_out()


def test_what_a_dead_worker_had_completed_is_not_lost(node: Node) -> None:
    node.begin()
    node.loans.on_gone(node.workers.pop(0))
    node.give_back(0)
    node.answer()
    assert node.lost == []
    assert node.joined == 1


def test_after_a_lost_connection_the_node_joins_again_when_all_loans_are_back(node: Node) -> None:
    node.give_back(0, Why.BROKEN)
    assert node.joined == 0
    node.give_back(1)
    assert node.joined == 1


def test_a_long_operation_delays_that_only_until_it_is_known(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.begin_at_server(1)
    node.give_back(0, Why.BROKEN)
    pass_time(monkeypatch, 5.0)
    node.look()
    assert node.joined == 0
    node.answer()
    assert node.joined == 1


def test_a_worker_that_hangs_while_it_waits_begins_nothing_and_its_messages_go_back(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    loan = node.loan(0)
    node.look()
    pass_time(monkeypatch, 10.0)
    node.begin(1)
    node.look()
    assert not node.workers[0].lane.turn.begin(loan.operation)
    node.give_back(1, done=1)
    assert node.joined == 1
    assert not node.loans.may_cover(str(loan.reservation + 1))
    node.loans.on_handed(node.workers[0], str(loan.reservation), b"message")
    assert node.taken == [], "others have it"
    node.give_back(0)
    assert not node.loans.is_out()
    assert node.joined == 1


def test_nothing_goes_back_before_all_deaths_that_were_seen_together_are_known(node: Node) -> None:
    node.begin(1)
    node.at_server[node.loan(1).reservation_of(node.loan(1).operation)] = b"message"
    dead = [node.workers.pop(), node.workers.pop()]
    with node.loans.deaths():
        for worker in reversed(dead):
            node.loans.on_gone(worker)
    assert node.joined == 0
    node.answer()
    assert len(node.lost) == 1
    assert node.joined == 1


def test_an_end_that_came_before_its_message_was_found_is_the_end(node: Node) -> None:
    number, reservation = node.begin_at_server()
    dead = node.workers.pop(0)
    node.loans.on_fetched(dead, number, reservation, b"message")
    node.dispatch.on_done(dead, number, SUCCEEDED, None, 0.001, False)
    node.loans.on_gone(dead)
    node.answer()
    assert node.lost == []
    assert node.known[reservation].told == ["begins", "ends"]


def test_another_operation_that_is_submitted_meanwhile_is_not_taken_for_it(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = node.begin()
    reservation = node.loan().reservation_of(number)

    def submit_another(_: str, __: bytes) -> bool:
        node.submit("another")
        return True

    monkeypatch.setattr(node, "make_known", submit_another)
    node.loans.on_fetched(node.workers[0], number, reservation, b"message")
    assert node.workers[0].lane.jobs == {}
    assert len(node.dispatch.waiting) == 1


def test_a_worker_that_hangs_after_an_operation_is_given_up_too(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.begin()
    node.workers[0].lane.turn.end()  # the server's word is not read
    node.look()
    pass_time(monkeypatch, 10.0)
    node.begin(1)
    node.look()
    assert not node.workers[0].lane.turn.begin(node.loan(0).operation + 1)
    node.give_back(1, done=1)
    assert node.joined == 1


def test_a_worker_that_ends_gets_no_other_loan(node: Node) -> None:
    node.give_back(0, Why.LEAVING, done=3)
    assert node.loans.goes_on()
    assert node.workers[0].lane.lent is None
    assert node.workers[1].lane.lent is not None


def test_an_operation_that_a_silent_worker_has_just_begun_stays_its_own(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    loan, turn = node.loan(0), node.workers[0].lane.turn
    node.look()
    recall = turn.recall

    def begin_and_recall(number: int) -> None:
        turn.begin(loan.operation)  # at the first call
        turn.end()
        turn.told()
        recall(number)

    monkeypatch.setattr(turn, "recall", begin_and_recall)
    pass_time(monkeypatch, 10.0)
    node.begin(1)
    node.look()
    assert node.loans.may_cover(loan.reservation_of(loan.operation))
    assert not node.loans.may_cover(loan.reservation_of(loan.operation + 1))
