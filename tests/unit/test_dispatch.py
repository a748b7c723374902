from __future__ import annotations

import pickle
import time
from collections import deque
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from billiard.pool import RUN

from pooltasks.broker.names import Names
from pooltasks.node.dispatch import DispatchPool
from pooltasks.node.jobs import Blame, Call, Kind, Lane
from pooltasks.node.outcome import Ending, Fate, How
from pooltasks.node.process_pool import TimeLimits
from pooltasks.node.shortcut import Claim, Claims
from pooltasks.node.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Callable


ENDED = Ending().plain()


class Owner:
    """Notes what it hears of its jobs."""

    def __init__(self, at_its_end: Callable[[], None] = lambda: None) -> None:
        self.told: list[str] = []
        self._at_its_end = at_its_end

    def buries(self, ending: Ending) -> bool:
        return ending.fate == Fate.BURY

    def on_accepted(self, *_: Any) -> None:
        self.told.append("begins")

    def on_ended(self, *_: Any) -> None:
        self._at_its_end()
        self.told.append("ends")

    def on_lost(self, *_: Any) -> None:
        self.told.append("lost")

    def on_terminated(self, *_: Any) -> None:
        self.told.append("terminated")


class Pool(DispatchPool):
    """The dispatch alone: its workers are lanes, and what is written stays here."""

    def __init__(  # super() would fork
        self, workers: int, strategy: str = "lifo", slots: int = 1
    ) -> None:
        self._state = RUN
        self._cache: dict[int, Any] = {}
        self.outbound_buffer: deque[Any] = deque()
        self.written: list[tuple[int, list[int]]] = []
        self.claimed: list[Claim | None] = []
        self.results: list[Any] = []
        self.restart_state = SimpleNamespace(R=0)
        self.write_stats = dict.fromkeys(range(workers), 0)
        self.soft_timeout = self.timeout = None
        self._busy_workers: set[int] = set()
        self._mark_worker_as_available = self._busy_workers.discard
        self._strategy = strategy
        self.slots = slots
        self._accepts_first = lambda name: name == "at_most_once"
        self._claims = Claims()
        self._on_result = self.results.append
        self._tags = count(1)
        self._uses = 0
        self._looks = True  # no loop: the tests look themselves
        self._durations: dict[str, float] = {}
        self._recent = float("inf")
        self.on_timeout_set = self.on_timeout_cancel = lambda *_: None
        self._pool = [
            SimpleNamespace(pid=100 + index, index=index, inqW_fd=index, lane=Lane(Turn(slots)))
            for index in range(workers)
        ]
        self._fileno_to_inq = {process.inqW_fd: process for process in self._pool}

    def _write(self, process: Any) -> None:
        _, operations = pickle.loads(process.lane.unsent[4:])  # noqa: S301  our own
        self.claimed += [claim and Claim(*claim) for _, _, _, claim, *_ in operations]
        process.lane.unsent = None

    def submit(  # type: ignore[override]  # the tests name what matters to them
        self,
        name: str = "op",
        *,
        suspect: bool = False,
        kind: Kind = Kind.OPERATION,
        owner: Any = None,
    ) -> Any:
        call = Call(kind, name, b"", reservation=f"tag-{next(self._tags)}", suspect=suspect)
        owner = owner or Owner()
        return super().submit(call, owner, limits=(None, None), correlation_id=None)

    def finish(self, process: Any, seconds: float = 0.0001) -> None:
        number = next(iter(process.lane.jobs))
        process.lane.turn.begin(number)
        process.lane.turn.end()
        self.on_done(process, number, ENDED, None, seconds, False)

    def loads(self) -> list[int]:
        return [len(process.lane.jobs) for process in self._pool]

    def knows(self, name: str, seconds: float) -> None:
        self._durations[name] = seconds


def test_an_operation_that_nobody_knows_goes_alone_to_an_idle_worker() -> None:
    pool = Pool(2)
    for _ in range(3):
        pool.submit()
    pool.on_poll_start()
    assert pool.loads() == [1, 1]
    assert len(pool.outbound_buffer) == 1


def test_short_operations_go_several_at_a_time_and_evenly() -> None:
    pool = Pool(4)
    pool.knows("op", 0.0005)
    for _ in range(22):
        pool.submit()
    pool.on_poll_start()
    assert sorted(pool.loads()) == [5, 5, 6, 6]


def test_a_worker_is_written_no_more_than_some_milliseconds_of_work() -> None:
    pool = Pool(1)
    pool.knows("op", 0.002)
    for _ in range(10):
        pool.submit()
    pool.on_poll_start()
    assert pool.loads() == [2]


def test_idle_workers_come_before_a_second_operation_anywhere() -> None:
    pool = Pool(3)
    pool.knows("op", 0.0001)
    for _ in range(3):
        pool.submit()
    pool.on_poll_start()
    assert pool.loads() == [1, 1, 1]


@pytest.mark.parametrize(("strategy", "expected"), [("lifo", 1), ("fifo", 0)])
def test_the_strategy_says_which_idle_worker_is_next(strategy: str, expected: int) -> None:
    pool = Pool(2, strategy)
    for index in (0, 1):  # the second worker is the one used last
        pool._fileno_to_inq = {index: pool._pool[index]}
        pool.submit()
        pool.on_poll_start()
        pool.finish(pool._pool[index])
    pool._fileno_to_inq = {process.inqW_fd: process for process in pool._pool}
    pool.submit("new")
    pool.on_poll_start()
    assert pool.loads().index(1) == expected


def test_one_long_run_makes_its_kind_go_alone_again() -> None:
    pool = Pool(1)
    pool.knows("op", 0.0001)
    pool.submit()
    pool.on_poll_start()
    pool.finish(pool._pool[0], seconds=0.5)
    assert pool.depth() == 1
    for _ in range(3):
        pool.submit()
    pool.on_poll_start()
    assert pool.loads() == [1]


def test_what_waits_behind_a_long_run_is_taken_back() -> None:
    pool = Pool(1)
    pool.knows("op", 0.0001)
    jobs = [pool.submit() for _ in range(3)]
    pool.on_poll_start()
    process = pool._pool[0]
    process.lane.turn.begin(1)
    long_after = time.monotonic() + 1
    pool._take_back(process.lane, long_after)
    assert pool.loads() == [3], "the worker may be about to begin the next"
    pool._take_back(process.lane, long_after)
    assert pool.loads() == [1]
    assert set(pool.outbound_buffer) == set(jobs[1:])
    assert not process.lane.turn.begin(2)


def test_what_the_worker_left_out_before_the_node_took_it_back_is_not_lost() -> None:
    pool = Pool(1)
    pool.knows("op", 0.0001)
    jobs = [pool.submit() for _ in range(2)]
    pool.on_poll_start()
    process = pool._pool[0]
    process.lane.turn.begin(1)
    pool._take_back(process.lane, time.monotonic() + 1)
    assert not process.lane.turn.begin(2)
    pool._take_back(process.lane, time.monotonic() + 1)
    assert pool.loads() == [2], "the number was begun, so the worker's word decides"
    pool.on_skipped(process, 2)
    assert list(pool.outbound_buffer) == jobs[1:]


def test_begin_end_and_result_are_told_once_and_in_their_order() -> None:
    pool = Pool(1)
    owner = Owner()
    job = pool.submit(owner=owner)
    pool.on_poll_start()
    process = pool._pool[0]
    process.lane.turn.begin(1)
    pool.accept_begun(process)
    pool.accept_begun(process)
    pool.on_done(process, 1, ENDED, None, 0.1, False)
    pool.on_done(process, 1, ENDED, None, 0.1, False)
    assert owner.told == ["begins", "ends"]
    assert job.ready()
    assert not pool._cache


def test_what_had_ended_before_its_worker_died_has_begun() -> None:
    pool = Pool(1)
    jobs = [pool.submit() for _ in range(2)]
    pool.on_poll_start()
    process = pool._pool[0]
    process.lane.turn.begin(1)
    process.lane.turn.end()  # the worker is killed before it tells its node
    pool.accept_begun(process)
    assert [job.accepted() for job in jobs] == [True, False]


def test_the_result_of_what_was_given_up_is_not_stored() -> None:
    pool = Pool(1)
    job = pool.submit()
    pool.on_poll_start()
    job.discard()
    stored: Any = ("key", b"value", 0)
    pool.on_done(pool._pool[0], 1, ENDED, stored, 0.1, False)
    assert not pool.results


class Intake:
    """What claims know of an intake."""

    def __init__(self) -> None:
        self.is_caught_up = True
        self.session = SimpleNamespace(names=Names("pool.code"), identity="me")
        self.reservations = SimpleNamespace(held={"tag-1", "tag-2"}, controlled={})


def claiming(pool: Pool) -> Intake:
    """Give the pool an intake from which its operations come."""
    intake: Any = Intake()
    pool._claims.intake = intake
    return intake


def test_a_worker_completes_itself_what_nothing_waits_behind() -> None:
    pool = Pool(2)
    claiming(pool)
    pool.submit()
    assert pool.claimed == [Claim("pooltasks:{pool.code}:unacked:me", "tag-1")]


def test_its_node_completes_what_goes_in_a_batch_and_what_others_wait_behind() -> None:
    pool = Pool(2)
    claiming(pool)
    pool.knows("op", 0.0005)
    for _ in range(12):
        pool.submit()
    pool.on_poll_start()
    assert [claim is None for claim in pool.claimed] == [False, False, *[True] * 10]


@pytest.mark.parametrize(("name", "slots"), [("at_most_once", 1), ("op", 2)])
def test_what_is_acknowledged_first_or_shares_its_worker_is_not_claimed(
    name: str, slots: int
) -> None:
    pool = Pool(1, slots=slots)
    claiming(pool)
    pool.submit(name)
    pool.on_poll_start()
    assert pool.claimed == [None]


def test_while_the_queue_is_not_empty_the_node_completes_everything() -> None:
    pool = Pool(1)
    claiming(pool).is_caught_up = False
    pool.submit()
    assert pool.claimed == [None]


def test_with_kombus_own_transport_nothing_is_claimed() -> None:
    pool = Pool(1)
    pool.submit()
    assert pool.claimed == [None]


def test_what_its_worker_has_completed_is_not_acknowledged_again() -> None:
    pool = Pool(1)
    intake = claiming(pool)
    owner = Owner(lambda: None)
    pool.submit(owner=owner)
    pool.on_done(pool._pool[0], 1, ENDED, None, 0.1, True)
    assert owner.told == ["begins", "ends"]
    # So it is acknowledged no more: Reservations.acknowledge passes over what is not held.
    assert intake.reservations.held == {"tag-2"}


def begin(process: Any) -> None:
    """Have a worker begin everything that it was written."""
    for slot, number in enumerate(process.lane.jobs):
        process.lane.turn.begin(number, slot)


def test_slots_are_filled_where_the_fewest_are_busy_and_nothing_is_written_ahead() -> None:
    pool = Pool(3, slots=4)
    pool.knows("op", 0.0001)
    for _ in range(7):
        pool.submit()
    pool.on_poll_start()
    assert sorted(pool.loads()) == [2, 2, 3]
    for _ in range(20):
        pool.submit()
    pool.on_poll_start()
    assert pool.loads() == [4, 4, 4]
    assert pool.depth() == 1


@pytest.mark.parametrize(("strategy", "expected"), [("lifo", 1), ("fifo", 0)])
def test_of_workers_that_are_as_busy_the_strategy_says_which_is_next(
    strategy: str, expected: int
) -> None:
    pool = Pool(2, strategy, slots=2)
    for index in (0, 1):
        pool._fileno_to_inq = {index: pool._pool[index]}
        pool.submit()
        pool.on_poll_start()
    pool._fileno_to_inq = {process.inqW_fd: process for process in pool._pool}
    pool.submit()
    pool.on_poll_start()
    assert pool.loads().index(2) == expected


def test_a_suspect_runs_alone_and_gets_a_worker_although_others_come() -> None:
    pool = Pool(2, slots=2)
    for _ in range(3):
        pool.submit()
    pool.on_poll_start()
    assert sorted(pool.loads()) == [1, 2]
    lighter = pool._pool[pool.loads().index(1)]
    suspect = pool.submit(suspect=True)
    pool.submit()
    pool.on_poll_start()
    assert sorted(pool.loads()) == [1, 2], "the worker that has fewer is kept free for it"
    pool.finish(lighter)
    pool.on_poll_start()
    assert [*lighter.lane.jobs.values()] == [suspect]
    for _ in range(3):
        pool.submit()
    pool.on_poll_start()
    assert [*lighter.lane.jobs.values()] == [suspect]


def test_a_worker_that_begins_nothing_is_given_nothing_more_until_it_does() -> None:
    pool = Pool(2, slots=2)
    stuck, other = pool._pool
    pool._fileno_to_inq = {0: stuck}
    job = pool.submit()
    pool.on_poll_start()
    later = time.monotonic() + 1
    pool._take_back(stuck.lane, later)
    pool._take_back(stuck.lane, later)
    assert pool.loads() == [0, 0]
    pool._fileno_to_inq = {0: stuck, 1: other}
    pool.submit()
    pool.on_poll_start()
    assert pool.loads() == [0, 2]
    assert job in other.lane.jobs.values()
    assert not stuck.lane.turn.begin(1)
    pool.submit()
    pool.on_poll_start()
    assert pool.loads() == [1, 2]


def test_a_worker_that_a_time_limit_ends_is_not_to_tell_of_it() -> None:
    """A failure that it began to tell of would be lost with it, and nobody would hear."""

    class Telling(Owner):
        def on_timeout(self, *_: Any) -> None:
            self.failure = pool.submit(kind=Kind.FAILURE)

    pool = Pool(1, slots=2)
    process, owner = pool._pool[0], Telling()
    process.timed_out = set()
    job = pool.submit(owner=owner)
    begin(process)
    pool.accept_begun(process)
    limits = TimeLimits(pool._pool, pool.jobs, None, None)
    limits._trywaitkill = lambda _worker: None
    limits.on_hard_timeout(job)
    pool.on_poll_start()
    assert process.lane.jobs == {1: job}
    assert [*pool.outbound_buffer] == [owner.failure]
    other = pool._pool[0] = SimpleNamespace(pid=1, index=0, inqW_fd=0, lane=Lane(Turn(2)))
    pool._fileno_to_inq = {0: other}
    pool.on_poll_start()
    assert [*other.lane.jobs.values()] == [owner.failure]


def test_what_a_worker_runs_in_its_slots_is_not_taken_back() -> None:
    pool = Pool(1, slots=2)
    pool.submit()
    pool.submit()
    pool.on_poll_start()
    begin(pool._pool[0])
    for _ in range(2):
        pool._take_back(pool._pool[0].lane, time.monotonic() + 60)
    assert pool.loads() == [2]


def lose(pool: Pool) -> list[Blame]:
    """Have the only worker die; return what that says about each operation."""
    process = pool._pool[0]
    pool.accept_begun(process)
    jobs = list(process.lane.jobs.values())
    for job in jobs:
        if job.accepted() and not job.ready():
            pool.on_job_process_lost(job, process.pid, -9)
    return [job.blame for job in jobs]


def test_who_died_alone_is_to_blame() -> None:
    pool = Pool(1, slots=3)
    pool.submit()
    pool.on_poll_start()
    begin(pool._pool[0])
    assert lose(pool) == [Blame.CERTAIN]


def test_who_died_in_company_is_a_suspect() -> None:
    pool = Pool(1, slots=3)
    for _ in range(3):
        pool.submit()
    pool.on_poll_start()
    begin(pool._pool[0])
    assert lose(pool) == [Blame.SUSPECT] * 3


def test_the_neighbours_of_one_because_of_which_a_worker_is_ended_are_innocent() -> None:
    pool = Pool(1, slots=3)
    for _ in range(3):
        pool.submit()
    pool.on_poll_start()
    begin(pool._pool[0])
    pool._pool[0].lane.jobs[2].ended_its_worker = True
    assert [lose(pool)[place] for place in (0, 2)] == [Blame.INNOCENT] * 2


def test_only_the_one_that_is_revoked_ends_as_revoked() -> None:
    pool = Pool(1, slots=2)
    owner = Owner()
    for _ in range(2):
        pool.submit(owner=owner)
    pool.on_poll_start()
    begin(pool._pool[0])
    pool._pool[0].lane.jobs[1].terminate(15)
    lose(pool)
    assert owner.told[-2:] == ["terminated", "lost"]


def test_a_failure_is_told_before_operations_and_never_completed_by_its_worker() -> None:
    pool = Pool(1)
    claiming(pool)
    pool._pool[0].lane.unsent = memoryview(b"x")  # it has no room
    pool.submit()
    failure = pool.submit(kind=Kind.FAILURE)
    assert pool.outbound_buffer[0] is failure


def test_who_ran_beside_a_failure_that_killed_the_worker_is_innocent() -> None:
    pool = Pool(1, slots=2)
    pool.submit(kind=Kind.FAILURE)
    pool.submit()
    pool.on_poll_start()
    begin(pool._pool[0])
    assert lose(pool)[1] is Blame.INNOCENT


def test_a_new_connection_forgets_operations_and_keeps_failures() -> None:
    pool = Pool(1)
    pool.maintain_pool = lambda: None
    pool._pool[0].lane.unsent = memoryview(b"x")
    pool.submit()
    failure = pool.submit(kind=Kind.FAILURE)
    pool.flush()
    assert [*pool.outbound_buffer] == [*pool.jobs.values()] == [failure]


def test_a_node_that_stops_keeps_what_a_worker_has_begun_until_that_says_how_it_went() -> None:
    pool = Pool(1)
    pool.maintain_pool = lambda: None
    ended, left_out = pool.submit(), pool.submit()
    pool.on_poll_start()
    turn = pool._pool[0].lane.turn
    # The worker has ended the first, and its answer is still in the pipe.
    assert turn.begin(1)
    turn.end()
    turn.told()
    pool.flush()
    assert [*pool.jobs.values()] == [ended]
    assert not pool.is_decided()
    assert left_out not in pool.jobs.values()
    pool.on_done(pool._pool[0], 1, ENDED, None, 0.001, False)
    assert pool.is_decided()
    assert not pool.jobs


def test_a_result_that_is_buried_with_its_message_is_not_stored_twice() -> None:
    pool = Pool(1)
    pool.submit()
    buried: Any = (int(How.FAILED), int(Fate.BURY))
    stored: Any = ("key", b"value", 0)
    pool.on_done(pool._pool[0], 1, buried, stored, 0.1, False)
    assert not pool.results
