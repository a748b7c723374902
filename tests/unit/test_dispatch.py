from __future__ import annotations

import os
import pickle
import time
from collections import Counter
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from billiard.pool import RUN, TERMINATE

from pooltasks.broker.names import Names
from pooltasks.node.worker.outcome import Ending, Fate, How
from pooltasks.node.worker.shortcut import Claim, Claims
from pooltasks.node.worker.turn import Turn
from pooltasks.node.workforce.dispatch import Dispatch
from pooltasks.node.workforce.jobs import Blame, Call, Kind, Lane
from pooltasks.node.workforce.process_pool import ProcessPool
from pooltasks.node.workforce.timeouts import Deadlines, TimeLimits

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


class Pool(Dispatch):
    """The dispatch alone: its workers are lanes, and what is written stays here."""

    def __init__(self, workers: int, strategy: str = "lifo", slots: int = 1) -> None:
        self.processes: list[Any] = [
            SimpleNamespace(pid=100 + index, index=index, inqW_fd=index, lane=Lane(Turn(slots)))
            for index in range(workers)
        ]
        self.open_to = {process.inqW_fd: process for process in self.processes}
        self.writes = Counter[int]()
        self.looks = 0
        self.claims = Claims()
        self.claimed: list[Claim | None] = []
        self.results: list[Any] = []
        self.freed: list[Any] = []
        self._tags = count(1)
        super().__init__(
            self.processes,
            self.open_to.values(),
            {},
            self.writes,
            strategy=strategy,
            slots=slots,
            accepts_first=lambda name: name == "at_most_once",
            claims=self.claims,
            on_written=self._note_look,
            on_result=self.results.append,
            on_end=self.freed.append,
            deadlines=Deadlines(lambda _: None, lambda _: None),
        )
        self.deadlines.start(SimpleNamespace(call_later=lambda *_: SimpleNamespace(cancel=int)))

    def _note_look(self) -> None:
        self.looks += 1

    def open_only(self, *indices: int) -> None:
        """Have only these workers be given operations."""
        self.open_to.clear()
        self.open_to.update({index: self.processes[index] for index in indices})

    def write(self, process: Any) -> None:
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
        return [len(process.lane.jobs) for process in self.processes]

    def knows(self, name: str, seconds: float) -> None:
        self.durations._longest[name] = self.durations._shortest[name] = seconds


def test_an_operation_that_nobody_knows_goes_alone_to_an_idle_worker() -> None:
    pool = Pool(2)
    for _ in range(3):
        pool.submit()
    pool.hand_out()
    assert pool.loads() == [1, 1]
    assert len(pool.waiting) == 1


def test_short_operations_go_several_at_a_time_and_evenly() -> None:
    pool = Pool(4)
    pool.knows("op", 0.0005)
    for _ in range(22):
        pool.submit()
    pool.hand_out()
    assert sorted(pool.loads()) == [5, 5, 6, 6]


def test_a_worker_is_written_no_more_than_some_milliseconds_of_work() -> None:
    pool = Pool(1)
    pool.knows("op", 0.002)
    for _ in range(10):
        pool.submit()
    pool.hand_out()
    assert pool.loads() == [2]


def test_idle_workers_come_before_a_second_operation_anywhere() -> None:
    pool = Pool(3)
    pool.knows("op", 0.002)
    for _ in range(3):
        pool.submit()
    pool.hand_out()
    assert pool.loads() == [1, 1, 1]


def test_very_short_operations_share_a_worker_while_others_are_idle() -> None:
    pool = Pool(4)
    pool.knows("op", 0.0003)
    for _ in range(7):
        pool.submit()
    pool.hand_out()
    assert pool.loads() == [0, 1, 3, 3]
    pool.submit()
    pool.hand_out()
    assert pool.loads() == [0, 2, 3, 3]


def test_what_was_long_lately_shares_no_worker() -> None:
    pool = Pool(4)
    pool.knows("op", 0.0001)
    pool.submit()
    pool.hand_out()
    pool.finish(pool.processes[-1], seconds=0.02)
    for _ in range(3):
        pool.submit()
    pool.hand_out()
    assert sorted(pool.loads()) == [0, 1, 1, 1]


def test_a_single_slow_one_in_a_hundred_keeps_nothing_apart_for_long() -> None:
    pool = Pool(2)
    pool.knows("op", 0.0001)
    for seconds in (0.02, *[0.0001] * 30):
        pool.submit()
        pool.hand_out()
        pool.finish(next(its for its in pool.processes if its.lane.jobs), seconds=seconds)
    for _ in range(3):
        pool.submit()
    pool.hand_out()
    assert sorted(pool.loads()) == [0, 3]


@pytest.mark.parametrize(("strategy", "expected"), [("lifo", 1), ("fifo", 0)])
def test_the_strategy_says_which_idle_worker_is_next(strategy: str, expected: int) -> None:
    pool = Pool(2, strategy)
    for index in (0, 1):  # the second worker is the one used last
        pool.open_only(index)
        pool.submit()
        pool.hand_out()
        pool.finish(pool.processes[index])
    pool.open_only(0, 1)
    pool.submit("new")
    pool.hand_out()
    assert pool.loads().index(1) == expected


def test_one_long_run_makes_its_kind_go_alone_again() -> None:
    pool = Pool(1)
    pool.knows("op", 0.0001)
    pool.submit()
    pool.hand_out()
    pool.finish(pool.processes[0], seconds=0.5)
    assert pool.depth() == 1
    for _ in range(3):
        pool.submit()
    pool.hand_out()
    assert pool.loads() == [1]


def test_what_waits_behind_a_long_run_is_taken_back() -> None:
    pool = Pool(1)
    pool.knows("op", 0.0001)
    jobs = [pool.submit() for _ in range(3)]
    pool.hand_out()
    process = pool.processes[0]
    process.lane.turn.begin(1)
    long_after = time.monotonic() + 1
    pool.look(long_after)
    assert pool.loads() == [3], "the worker may be about to begin the next"
    pool.look(long_after)
    assert pool.loads() == [1]
    assert set(pool.waiting) == set(jobs[1:])
    assert not process.lane.turn.begin(2)


def test_a_worker_whose_short_operation_takes_long_gets_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Pool(2)
    pool.knows("op", 0.0001)
    pool.submit()
    pool.hand_out()
    (held_up,) = (its for its in pool.processes if its.lane.jobs)
    begun = time.monotonic_ns() - 1_000_000_000
    with monkeypatch.context() as patched:
        patched.setattr("pooltasks.node.worker.turn.time.monotonic_ns", lambda: begun)
        held_up.lane.turn.begin(1)
    for _ in range(3):
        pool.submit()
    pool.hand_out()
    assert sorted(pool.loads()) == [1, 3]
    assert len(held_up.lane.jobs) == 1


def test_what_was_taken_back_from_a_worker_does_not_go_there_again() -> None:
    pool = Pool(2)
    pool.knows("op", 0.0001)
    for _ in range(3):
        pool.submit()
    pool.hand_out()
    (held_up,) = (its for its in pool.processes if its.lane.jobs)
    held_up.lane.turn.begin(1)
    for _ in range(2):
        pool.look(time.monotonic() + 1)
    assert len(pool.waiting) == 2
    pool.hand_out()
    assert sorted(pool.loads()) == [1, 2]


def test_what_the_worker_left_out_before_the_node_took_it_back_is_not_lost() -> None:
    pool = Pool(1)
    pool.knows("op", 0.0001)
    jobs = [pool.submit() for _ in range(2)]
    pool.hand_out()
    process = pool.processes[0]
    process.lane.turn.begin(1)
    pool.look(time.monotonic() + 1)
    assert not process.lane.turn.begin(2)
    pool.look(time.monotonic() + 1)
    assert pool.loads() == [2], "the number was begun, so the worker's word decides"
    pool.on_skipped(process, 2)
    assert list(pool.waiting) == jobs[1:]


def test_begin_end_and_result_are_told_once_and_in_their_order() -> None:
    pool = Pool(1)
    owner = Owner()
    job = pool.submit(owner=owner)
    pool.hand_out()
    process = pool.processes[0]
    process.lane.turn.begin(1)
    pool.accept_begun(process)
    pool.accept_begun(process)
    pool.on_done(process, 1, ENDED, None, 0.1, False)
    pool.on_done(process, 1, ENDED, None, 0.1, False)
    assert owner.told == ["begins", "ends"]
    assert job.ready()
    assert not pool.jobs


def test_what_had_ended_before_its_worker_died_has_begun() -> None:
    pool = Pool(1)
    jobs = [pool.submit() for _ in range(2)]
    pool.hand_out()
    process = pool.processes[0]
    process.lane.turn.begin(1)
    process.lane.turn.end()  # the worker is killed before it tells its node
    pool.accept_begun(process)
    assert [job.accepted() for job in jobs] == [True, False]


def test_the_result_of_what_was_given_up_is_not_stored() -> None:
    pool = Pool(1)
    job = pool.submit()
    pool.hand_out()
    job.discard()
    stored: Any = ("key", b"value", 0)
    pool.on_done(pool.processes[0], 1, ENDED, stored, 0.1, False)
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
    pool.claims.intake = intake
    return intake


def test_a_worker_completes_itself_what_nothing_waits_behind() -> None:
    pool = Pool(2)
    claiming(pool)
    pool.submit()
    assert pool.claimed == [Claim("pooltasks:{pool.code}:unacked:me", "tag-1")]


def test_its_node_completes_what_goes_in_a_batch_and_what_others_wait_behind() -> None:
    pool = Pool(2)
    claiming(pool)
    pool.knows("op", 0.0011)
    for _ in range(12):
        pool.submit()
    pool.hand_out()
    assert [claim is None for claim in pool.claimed] == [False, False, *[True] * 6]


@pytest.mark.parametrize(("name", "slots"), [("at_most_once", 1), ("op", 2)])
def test_what_is_acknowledged_first_or_shares_its_worker_is_not_claimed(
    name: str, slots: int
) -> None:
    pool = Pool(1, slots=slots)
    claiming(pool)
    pool.submit(name)
    pool.hand_out()
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
    pool.on_done(pool.processes[0], 1, ENDED, None, 0.1, True)
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
    pool.hand_out()
    assert sorted(pool.loads()) == [2, 2, 3]
    for _ in range(20):
        pool.submit()
    pool.hand_out()
    assert pool.loads() == [4, 4, 4]
    assert pool.depth() == 1


@pytest.mark.parametrize(("strategy", "expected"), [("lifo", 1), ("fifo", 0)])
def test_of_workers_that_are_as_busy_the_strategy_says_which_is_next(
    strategy: str, expected: int
) -> None:
    pool = Pool(2, strategy, slots=2)
    for index in (0, 1):
        pool.open_only(index)
        pool.submit()
        pool.hand_out()
    pool.open_only(0, 1)
    pool.submit()
    pool.hand_out()
    assert pool.loads().index(2) == expected


def test_a_suspect_runs_alone_and_gets_a_worker_although_others_come() -> None:
    pool = Pool(2, slots=2)
    for _ in range(3):
        pool.submit()
    pool.hand_out()
    assert sorted(pool.loads()) == [1, 2]
    lighter = pool.processes[pool.loads().index(1)]
    suspect = pool.submit(suspect=True)
    pool.submit()
    pool.hand_out()
    assert sorted(pool.loads()) == [1, 2], "the worker that has fewer is kept free for it"
    pool.finish(lighter)
    pool.hand_out()
    assert [*lighter.lane.jobs.values()] == [suspect]
    for _ in range(3):
        pool.submit()
    pool.hand_out()
    assert [*lighter.lane.jobs.values()] == [suspect]


def test_a_worker_that_begins_nothing_is_given_nothing_more_until_it_does() -> None:
    pool = Pool(2, slots=2)
    stuck, other = pool.processes
    pool.open_only(0)
    job = pool.submit()
    pool.hand_out()
    later = time.monotonic() + 1
    pool.look(later)
    pool.look(later)
    assert pool.loads() == [0, 0]
    pool.open_only(0, 1)
    pool.submit()
    pool.hand_out()
    assert pool.loads() == [0, 2]
    assert job in other.lane.jobs.values()
    assert not stuck.lane.turn.begin(1)
    pool.submit()
    pool.hand_out()
    assert pool.loads() == [1, 2]


def test_a_worker_that_a_time_limit_ends_is_not_to_tell_of_it() -> None:
    """A failure that it began to tell of would be lost with it, and nobody would hear."""

    class Telling(Owner):
        def on_timeout(self, *_: Any) -> None:
            self.failure = pool.submit(kind=Kind.FAILURE)

    pool = Pool(1, slots=2)
    process, owner = pool.processes[0], Telling()
    process.timed_out = set()
    job = pool.submit(owner=owner)
    begin(process)
    pool.accept_begun(process)
    limits = TimeLimits(pool.processes, pool.jobs, None, None)
    limits._trywaitkill = lambda _worker: None
    limits.on_hard_timeout(job)
    pool.hand_out()
    assert process.lane.jobs == {1: job}
    assert [*pool.waiting] == [owner.failure]
    other = pool.processes[0] = SimpleNamespace(pid=1, index=0, inqW_fd=0, lane=Lane(Turn(2)))
    pool.open_only(0)
    pool.hand_out()
    assert [*other.lane.jobs.values()] == [owner.failure]


def test_what_a_worker_runs_in_its_slots_is_not_taken_back() -> None:
    pool = Pool(1, slots=2)
    pool.submit()
    pool.submit()
    pool.hand_out()
    begin(pool.processes[0])
    for _ in range(2):
        pool.look(time.monotonic() + 60)
    assert pool.loads() == [2]


def lose(pool: Pool, state: int = RUN) -> list[Blame]:
    """Have the only worker die; return what that says about each operation."""
    process = pool.processes[0]
    pool.accept_begun(process)
    jobs = list(process.lane.jobs.values())
    reaper = ProcessPool.__new__(ProcessPool)  # __init__ would fork
    reaper.dispatch, reaper._state = pool, state
    for job in jobs:
        if job.accepted() and not job.ready():
            reaper.on_job_process_lost(job, process.pid, -9)
    return [job.blame for job in jobs]


def test_who_died_alone_is_to_blame() -> None:
    pool = Pool(1, slots=3)
    pool.submit()
    pool.hand_out()
    begin(pool.processes[0])
    assert lose(pool) == [Blame.CERTAIN]


def test_who_died_in_company_is_a_suspect() -> None:
    pool = Pool(1, slots=3)
    for _ in range(3):
        pool.submit()
    pool.hand_out()
    begin(pool.processes[0])
    assert lose(pool) == [Blame.SUSPECT] * 3


def test_the_neighbours_of_one_because_of_which_a_worker_is_ended_are_innocent() -> None:
    pool = Pool(1, slots=3)
    for _ in range(3):
        pool.submit()
    pool.hand_out()
    begin(pool.processes[0])
    pool.processes[0].lane.jobs[2].ended_its_worker = True
    assert [lose(pool)[place] for place in (0, 2)] == [Blame.INNOCENT] * 2


def test_only_the_one_that_is_revoked_ends_as_revoked() -> None:
    pool = Pool(1, slots=2)
    owner = Owner()
    for _ in range(2):
        pool.submit(owner=owner)
    pool.hand_out()
    begin(pool.processes[0])
    pool.processes[0].lane.jobs[1].terminate(15)
    lose(pool)
    assert owner.told[-2:] == ["terminated", "lost"]


def test_a_failure_is_told_before_operations_and_never_completed_by_its_worker() -> None:
    pool = Pool(1)
    claiming(pool)
    pool.processes[0].lane.unsent = memoryview(b"x")  # it has no room
    pool.submit()
    failure = pool.submit(kind=Kind.FAILURE)
    assert pool.waiting[0] is failure


def test_who_ran_beside_a_failure_may_be_the_reason() -> None:
    """Taken for innocent, an operation that kills its worker came back beside the next failure."""
    pool = Pool(1, slots=2)
    pool.submit(kind=Kind.FAILURE)
    pool.submit()
    pool.hand_out()
    begin(pool.processes[0])
    assert lose(pool)[1] is Blame.SUSPECT


def test_a_new_connection_forgets_operations_and_keeps_failures() -> None:
    pool = Pool(1)
    pool.processes[0].lane.unsent = memoryview(b"x")
    pool.submit()
    failure = pool.submit(kind=Kind.FAILURE)
    pool.forget_what_has_not_begun()
    assert [*pool.waiting] == [*pool.jobs.values()] == [failure]


def test_a_node_that_stops_keeps_what_a_worker_has_begun_until_that_says_how_it_went() -> None:
    pool = Pool(1)
    ended, left_out = pool.submit(), pool.submit()
    pool.hand_out()
    turn = pool.processes[0].lane.turn
    # The worker has ended the first, and its answer is still in the pipe.
    assert turn.begin(1)
    turn.end()
    turn.told()
    pool.forget_what_has_not_begun()
    assert [*pool.jobs.values()] == [ended]
    assert not pool.is_decided()
    assert left_out not in pool.jobs.values()
    pool.on_done(pool.processes[0], 1, ENDED, None, 0.001, False)
    assert pool.is_decided()
    assert not pool.jobs


def test_a_result_that_is_buried_with_its_message_is_not_stored_twice() -> None:
    pool = Pool(1)
    pool.submit()
    buried: Any = (int(How.FAILED), int(Fate.BURY))
    stored: Any = ("key", b"value", 0)
    pool.on_done(pool.processes[0], 1, buried, stored, 0.1, False)
    assert not pool.results


def test_what_a_node_loses_with_its_own_end_is_innocent() -> None:
    pool = Pool(1)
    pool.submit()
    pool.hand_out()
    begin(pool.processes[0])
    assert lose(pool, TERMINATE) == [Blame.INNOCENT]


def test_a_pool_that_stops_takes_nothing_more_and_writes_what_it_has() -> None:
    pool = Pool(1)
    pool.open_only()
    pool.submit()
    pool.stop()
    assert pool.submit() is None
    pool.open_only(0)
    pool.hand_out()
    assert pool.loads() == [1]


def test_a_failure_that_no_worker_can_tell_of_is_the_nodes_when_the_pool_closes() -> None:
    pool = Pool(1)
    pool.open_only()
    owner = Owner()
    pool.submit()
    pool.submit(kind=Kind.FAILURE, owner=owner)
    pool.close()
    assert owner.told == ["ends"]
    assert [job.name for job in pool.waiting] == ["op"]


def test_what_was_revoked_meanwhile_goes_to_no_other_worker() -> None:
    pool = Pool(1)
    owner = Owner()
    job = pool.submit(owner=owner)
    job.terminate(15)
    pool.on_skipped(pool.processes[0], 1)
    assert not pool.waiting
    assert owner.told == ["begins", "terminated"]


def test_the_sizing_hears_of_a_worker_that_is_done_once_the_end_is_told() -> None:
    pool = Pool(1)
    told: list[int] = []
    pool.submit(owner=Owner(lambda: told.append(len(pool.freed))))
    assert (pool.looks, pool.writes) == (1, {0: 1})
    pool.finish(pool.processes[0])
    assert told == [0]
    assert pool.freed == pool.processes


class Loop:
    """What the dispatch uses of an event loop."""

    def __init__(self) -> None:
        self.writers: dict[int, tuple[Any, ...]] = {}

    def add_writer(self, fd: int, *call: Any) -> None:
        self.writers[fd] = call

    def remove_writer(self, fd: int) -> None:
        del self.writers[fd]


def test_a_write_that_the_pipe_has_no_room_for_goes_on_when_it_has() -> None:
    pool, loop = Pool(1), Loop()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = pool.processes[0]
    process.inqW_fd = writer
    payload = b"x" * 200_000
    pool.write = partial(Dispatch.write, pool)  # type: ignore[method-assign]
    pool.start(loop)
    owner = Owner()
    Dispatch.submit(
        pool,
        Call(Kind.OPERATION, "op", payload),
        owner,
        limits=(None, None),
        correlation_id=None,
    )
    received = b""
    Dispatch.submit(
        pool, Call(Kind.OPERATION, "op", b""), owner, limits=(None, None), correlation_id=None
    )
    pool.hand_out()
    assert pool.loads() == [1], "nothing is written behind it meanwhile"
    while loop.writers:
        received += os.read(reader, 1_000_000)
        write, *arguments = loop.writers[writer]
        write(*arguments)
    received += os.read(reader, 1_000_000)
    _, ((number, *_, sent),) = pickle.loads(received[4:])  # noqa: S301  our own
    assert (number, sent, process.lane.unsent) == (1, payload, None)
    os.close(reader)
    os.close(writer)
