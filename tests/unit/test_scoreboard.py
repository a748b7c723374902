"""The scoreboard counts exactly, whatever happens to the workers."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from pooltasks import telemetry
from pooltasks.errors import Category
from pooltasks.metrics.counts import Counts
from pooltasks.node import scoreboard
from pooltasks.node.scoreboard import Reading, Row, Scoreboard
from pooltasks.telemetry import Outcome


def counts(board: Scoreboard) -> Counts:
    return board.collect()[0].since(Reading.zero())


def is_consistent(row: Row) -> tuple[bool, int]:
    """Whether the counters agree with each other, and how many operations are finished."""
    words = row.read()
    section = {
        "outcomes": sum(words[scoreboard._OUTCOME : scoreboard._CATEGORY]),
        "wait": sum(words[scoreboard._WAIT : scoreboard._RUN]),
        "run": sum(words[scoreboard._RUN :]),
    }
    running = bool(words[scoreboard._STARTED])
    finished = section["outcomes"]
    return section["run"] == finished and section["wait"] == finished + running, finished


def test_operations_are_counted_by_outcome_category_wait_and_run() -> None:
    board = Scoreboard()
    row = board.row(0)
    board.serves(0)
    for outcome, category, wait, run in [
        (Outcome.SUCCESS, None, 0.01, 0.1),
        (Outcome.SUCCESS, None, 0.02, 0.2),
        (Outcome.RETRY, Category.CONNECTION, 0.03, 0.3),
        (Outcome.FAILURE, Category.PYTHON, None, 0.4),
        (Outcome.FAILURE, Category.RESOURCE, 80.0, None),
    ]:
        row.start(wait)
        row.finish(outcome, category, run)
    its = counts(board)
    assert its.outcomes == {Outcome.SUCCESS: 2, Outcome.RETRY: 1, Outcome.FAILURE: 2}
    assert its.categories == {
        Category.CONNECTION: 1,
        Category.PYTHON: 1,
        Category.RESOURCE: 1,
    }
    assert (its.wait.count, its.run.count) == (4, 4)
    assert its.wait.total == pytest.approx(80.06)
    assert its.run.quantile(1) == pytest.approx(0.4, rel=0.02)
    assert its.finished == 4
    assert its.error_rate == 0.5


def test_utilization_counts_the_present_operation_up_to_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [1_000_000_000]
    monkeypatch.setattr(time, "monotonic_ns", lambda: clock[0])
    board = Scoreboard()
    row = board.row(0)
    board.serves(0)
    clock[0] += 1_000_000_000
    row.start(0.0)
    clock[0] += 2_000_000_000
    first, busy = board.collect()
    assert busy == 1
    assert first.since(Reading.zero()).busy == 2.0
    assert first.since(Reading.zero()).process == 3.0
    clock[0] += 1_000_000_000
    row.finish(Outcome.SUCCESS, None, 3.0)
    clock[0] += 4_000_000_000
    second, busy = board.collect()
    assert busy == 0
    assert second.since(first).busy == 1.0
    assert second.since(first).process == 5.0
    assert second.since(Reading.zero()).utilization == pytest.approx(3 / 8)


def test_a_cold_worker_has_no_process_seconds() -> None:
    board = Scoreboard()
    board.row(0)
    assert counts(board).process == 0
    assert counts(board).utilization is None


def test_two_readings_give_what_went_on_between_them() -> None:
    board = Scoreboard()
    rows = [board.row(0), board.row(1)]
    for row in rows:
        row.start(0.1)
        row.finish(Outcome.SUCCESS, None, 0.1)
    first, _ = board.collect()
    rows[1].start(0.1)
    rows[1].finish(Outcome.FAILURE, Category.PYTHON, 0.1)
    second, _ = board.collect()
    assert second.since(first).outcomes == {Outcome.FAILURE: 1}
    parts = [first.since(Reading.zero()), second.since(first)]
    whole = second.since(Reading.zero())
    assert Counts.merged(parts).outcomes == whole.outcomes
    assert Counts.merged(parts).run == whole.run


@pytest.mark.parametrize(
    ("timed_out", "outcome", "category"),
    [
        (False, Outcome.LOST, Category.COMMUNICATION),
        (True, Outcome.FAILURE, Category.TIMEOUT),
    ],
)
def test_a_row_is_used_again_and_what_its_dead_worker_did_is_kept(
    timed_out: bool, outcome: Outcome, category: Category
) -> None:
    board = Scoreboard()
    row = board.row(0)
    board.serves(0)
    row.start(0.1)
    row.finish(Outcome.SUCCESS, None, 0.1)
    row.start(0.1)
    assert board.died(0, timed_out=timed_out)
    after_death = counts(board)
    assert after_death.outcomes == {Outcome.SUCCESS: 1, outcome: 1}
    assert after_death.categories == {category: 1}
    assert after_death.process == counts(board).process  # nobody serves

    assert board.row(0) is row
    board.serves(0)
    row.start(0.1)
    row.finish(Outcome.SUCCESS, None, 0.1)
    assert not board.died(0)
    assert counts(board).outcomes == {Outcome.SUCCESS: 2, outcome: 1}
    assert counts(board).run.count == 2


class Dying:
    """Memory whose writer ends after so many stores."""

    def __init__(self, words: memoryview, stores: int) -> None:
        self.words, self.left = words, stores

    def __getitem__(self, place: int) -> int:
        return self.words[place]

    def __setitem__(self, place: int, value: int) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.words[place] = value


@pytest.mark.parametrize("stores", range(12))
def test_a_change_is_made_wholly_or_not_at_all_wherever_it_ends(stores: int) -> None:
    row = Row()
    row.start(0.5)
    row.finish(Outcome.SUCCESS, None, 0.5)
    whole = row._words
    row._words = Dying(whole, stores)
    try:
        row.start(0.5)
        row.finish(Outcome.FAILURE, Category.PYTHON, 0.5)
    except KeyboardInterrupt:
        pass
    row._words = whole
    consistent, finished = is_consistent(row)
    assert consistent
    assert finished in (1, 2)
    # The same process may go on, as after a time limit.
    row.start(0.5)
    row.finish(Outcome.SUCCESS, None, None)
    assert sum(row.read()[scoreboard._OUTCOME : scoreboard._CATEGORY]) >= 2
    assert not row.read()[scoreboard._STARTED]


def test_a_worker_killed_at_any_moment_leaves_a_consistent_row() -> None:
    board = Scoreboard()
    source = random.Random(4)
    finished_in_all = 0
    lost = 0
    for _ in range(40):
        row = board.row(0)
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            row.start(0.001)
            os.write(tell, b"x")
            while True:
                row.finish(Outcome.SUCCESS, None, 0.002)
                row.start(0.001)
        os.read(ready, 1)
        time.sleep(source.uniform(0, 0.003))  # the moment of the kill
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(tell)
        consistent, finished = is_consistent(row)
        assert consistent
        finished_in_all += finished
        lost += board.died(0)
    its = counts(board)
    assert its.outcomes[Outcome.SUCCESS] == finished_in_all > 1000
    assert its.outcomes[Outcome.LOST] == lost > 0
    assert its.run.count == finished_in_all
    assert its.wait.count == finished_in_all + lost


def test_the_node_reads_while_the_worker_writes_and_loses_nothing() -> None:
    board = Scoreboard()
    row = board.row(0)
    board.serves(0)
    pid = os.fork()
    if pid == 0:
        for _ in range(20_000):
            row.start(0.001)
            row.finish(Outcome.SUCCESS, None, 0.002)
        os._exit(0)
    before = Reading.zero()  # The worker counts from the moment of the fork.
    parts = []
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        reading, _ = board.collect()
        parts.append(reading.since(before))
        before = reading
    reading, _ = board.collect()
    parts.append(reading.since(before))
    whole = Counts.merged(parts)
    assert whole.outcomes == {Outcome.SUCCESS: 20_000}
    assert whole.run.count == whole.wait.count == 20_000
    assert len(parts) > 3
    assert all(part.busy >= 0 for part in parts)


def test_the_row_listens_to_the_telemetry_of_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_handlers", {})
    board = Scoreboard()
    board.row(0).attach()
    telemetry.execute("worker.checkout", {"wait": 0.1}, {})
    telemetry.execute(
        "worker.checkin",
        {"wait": 0.1, "run": 0.2, "busy": 0.3},
        {"outcome": Outcome.FAILURE, "category": Category.SESSION},
    )
    its = counts(board)
    assert its.outcomes == {Outcome.FAILURE: 1}
    assert its.categories == {Category.SESSION: 1}
