"""The scoreboard counts exactly, whatever happens to the workers."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pooltasks.errors import Category
from pooltasks.metrics.counts import OTHER, Counts
from pooltasks.metrics.histogram import HIGHEST
from pooltasks.node.scoreboard.notes import ended
from pooltasks.node.scoreboard.row import MOST_OPERATIONS, NOTES, Row
from pooltasks.node.scoreboard.scoreboard import Scoreboard
from pooltasks.telemetry import Outcome


def start(row: Row, wait: float | None = 0.001, name: str = "echo") -> None:
    row.start(name, wait, time.monotonic())


def finish(
    row: Row,
    outcome: Outcome = Outcome.SUCCESS,
    category: Category | None = None,
    run: float | None = 0.002,
    name: str = "echo",
) -> None:
    latency = None if run is None else run + 0.001
    row.finish(name, ended(outcome, category), run, latency, time.monotonic())


def counts(board: Scoreboard) -> Counts:
    """What was done since the last call."""
    return board.collect()[0].counts


def is_consistent(row: Row) -> tuple[bool, int]:
    """Whether the counters agree with each other, and how many operations are finished."""
    reading = row.read()
    its = Counts()
    reading.add_to(lambda _: its)
    finished = sum(its.outcomes.values())
    return (
        its.run.count == its.latency.count <= finished
        and its.wait.count == finished + (reading.started is not None),
        finished,
    )


def test_operations_are_counted_by_outcome_category_wait_run_and_latency() -> None:
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
        start(row, wait)
        finish(row, outcome, category, run)
    its = counts(board)
    assert its.outcomes == {Outcome.SUCCESS: 2, Outcome.RETRY: 1, Outcome.FAILURE: 2}
    assert its.categories == {
        Category.CONNECTION: 1,
        Category.PYTHON: 1,
        Category.RESOURCE: 1,
    }
    assert (its.wait.count, its.run.count, its.latency.count) == (4, 4, 4)
    assert its.wait.total == pytest.approx(80.06)
    assert its.latency.total == pytest.approx(1.004)
    assert its.run.quantile(1) == pytest.approx(0.4, rel=0.02)
    assert its.finished == 4
    assert its.error_rate == 0.5


def test_each_operation_is_counted_by_its_name() -> None:
    board = Scoreboard()
    rows = [board.row(0), board.row(1)]
    for number, row in enumerate(rows):
        for name, run in [("echo", 0.001), ("work", 0.1), ("work", 0.1)]:
            start(row, name=name)
            finish(row, run=run, name=name)
        start(row, name="only one" if number else "echo")
        finish(row, Outcome.FAILURE, Category.PYTHON, name="only one" if number else "echo")
    activity, *_ = board.collect()
    its = activity.operations
    assert {name: dict(counts.outcomes) for name, counts in its.items()} == {
        "echo": {Outcome.SUCCESS: 2, Outcome.FAILURE: 1},
        "work": {Outcome.SUCCESS: 4},
        "only one": {Outcome.FAILURE: 1},
    }
    assert its["work"].run.quantile(0.5) == pytest.approx(0.1, rel=0.02)
    assert its["work"].latency.quantile(0.5) == pytest.approx(0.101, rel=0.02)
    assert its["echo"].busy > 0
    assert Counts.merged(its.values()).run == activity.counts.run
    assert board.collect()[0].operations == {}


def test_more_operations_than_have_a_name_are_counted_together() -> None:
    board = Scoreboard()
    rows = [board.row(0), board.row(1)]
    for number in range(MOST_OPERATIONS + 8):
        for worker, row in enumerate(rows):
            name = f"worker{worker}.operation{number}"
            start(row, name=name)
            finish(row, name=name)
    long = "long" * 100
    start(rows[0], name=long)
    finish(rows[0], name=long)
    activity, *_ = board.collect()
    its = activity.operations
    assert len(its) == MOST_OPERATIONS + 1
    assert its[OTHER].finished == 2 * 8 + 1 + MOST_OPERATIONS
    assert activity.counts.finished == 2 * (MOST_OPERATIONS + 8) + 1


def test_utilization_counts_the_present_operation_up_to_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [1.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    board = Scoreboard()
    row = board.row(0)
    board.serves(0)
    clock[0] += 1.0
    start(row, 0.0)
    clock[0] += 2.0
    first, busy, _ = board.collect()
    assert busy == 1
    assert first.counts.busy == 2.0
    assert first.counts.process == 3.0
    assert not first.operations["echo"].busy
    clock[0] += 1.0
    finish(row, run=3.0)
    clock[0] += 4.0
    second, busy, _ = board.collect()
    assert busy == 0
    assert second.counts.busy == 1.0
    assert second.counts.process == 5.0
    assert second.operations["echo"].busy == 3.0
    whole = Counts.merged([first.counts, second.counts])
    assert whole.utilization == pytest.approx(3 / 8)


def test_a_cold_worker_has_no_process_seconds() -> None:
    board = Scoreboard()
    board.row(0)
    its = counts(board)
    assert its.process == 0
    assert its.utilization is None


def test_each_look_gives_what_went_on_since_the_last() -> None:
    board = Scoreboard()
    rows = [board.row(0), board.row(1)]
    for row in rows:
        start(row)
        finish(row)
    first = counts(board)
    start(rows[1])
    finish(rows[1], Outcome.FAILURE, Category.PYTHON)
    second = counts(board)
    assert first.outcomes == {Outcome.SUCCESS: 2}
    assert second.outcomes == {Outcome.FAILURE: 1}
    assert second.run.count == second.wait.count == 1
    assert counts(board) == Counts()


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
    start(row)
    finish(row)
    start(row, name="deadly")
    slots = {0} if timed_out else set()
    assert board.died(0, timed_out=slots) == (not timed_out, timed_out)
    after_death, *_ = board.collect()
    assert after_death.counts.outcomes == {Outcome.SUCCESS: 1, outcome: 1}
    assert after_death.counts.categories == {category: 1}
    assert after_death.operations["deadly"].outcomes == {outcome: 1}
    assert counts(board).process == 0  # nobody serves

    assert board.row(0) is row
    board.serves(0)
    start(row, name="another")
    finish(row, name="another")
    assert board.died(0) == (0, 0)
    activity, *_ = board.collect()
    assert activity.counts.outcomes == {Outcome.SUCCESS: 1}
    assert activity.operations.keys() == {"another"}


class Dying:
    """Memory whose writer ends after so many stores."""

    def __init__(self, words: memoryview, stores: int) -> None:
        self.words, self.left = words, stores

    def __getitem__(self, place: int) -> int:
        return self.words[place]

    def __setitem__(self, place: int | slice, value: int | memoryview) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.words[place] = value  # type: ignore[index, assignment]  # as it comes


@pytest.mark.parametrize("stores", range(22))
def test_a_change_is_made_wholly_or_not_at_all_wherever_it_ends(stores: int) -> None:
    row = Row()
    for _ in range(NOTES - 1):
        start(row, 0.5)
        finish(row, Outcome.SUCCESS, None, 0.5)
    whole = row._words
    dying = Dying(whole, stores)
    row._words = dying  # type: ignore[assignment]
    with suppress(KeyboardInterrupt):
        start(row, 0.5)
        finish(row, Outcome.FAILURE, Category.PYTHON, 0.5)
        start(row, 0.5)  # which adds up first
        finish(row, Outcome.SUCCESS, None, 0.5)
    row._words = whole
    consistent, finished = is_consistent(row)
    assert consistent
    assert finished in range(NOTES - 1, NOTES + 2)
    # The same process may go on, as after a time limit.
    for _ in range(NOTES):
        start(row, 0.5)
        finish(row, Outcome.SUCCESS, None, None)
    assert is_consistent(row)[1] >= finished + NOTES
    assert row.read().started is None


@pytest.mark.parametrize("stores", range(3, 12))
def test_looks_at_a_worker_that_died_while_it_added_up_count_once(stores: int) -> None:
    board = Scoreboard()
    row = board.row(0)
    for number in range(NOTES):
        if number == NOTES // 2:
            assert counts(board).finished == number
        start(row, 0.5)
        finish(row)
    dying = Dying(row._words, stores)
    row._words = dying  # type: ignore[assignment]
    with suppress(KeyboardInterrupt):
        start(row)
    row._words = dying.words
    looks = [counts(board) for _ in range(3)]
    assert board.died(0) == (0, 0)
    its = Counts.merged([*looks, counts(board)])
    assert its.outcomes == {Outcome.SUCCESS: NOTES - NOTES // 2}
    assert its.run.count == its.wait.count == its.finished


def test_all_stores_of_a_change_were_tried() -> None:
    row = Row()
    for _ in range(NOTES):
        start(row)
        finish(row)
    counting = Dying(row._words, 1000)
    row._words = counting  # type: ignore[assignment]
    start(row)
    finish(row)
    assert 1000 - counting.left <= 18


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
            start(row, 0.001)
            os.write(tell, b"x")
            while True:
                finish(row, Outcome.SUCCESS, None, 0.002)
                start(row, 0.001)
        os.read(ready, 1)
        time.sleep(source.uniform(0, 0.003))  # the moment of the kill
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(tell)
        consistent, finished = is_consistent(row)
        assert consistent
        finished_in_all += finished
        lost += board.died(0)[0]
    its = counts(board)
    assert its.outcomes[Outcome.SUCCESS] == finished_in_all > 1000
    assert its.outcomes[Outcome.LOST] == lost > 0
    assert its.run.count == finished_in_all
    assert its.wait.count == finished_in_all + lost


def test_nothing_is_lost_or_doubled_however_often_notes_were_added_up_between_two_looks() -> None:
    board = Scoreboard()
    row = board.row(0)
    source = random.Random(5)
    for _ in range(60):
        number = source.choice([0, 1, source.randrange(NOTES), source.randrange(4 * NOTES)])
        waits = []
        for _ in range(number):
            name = source.choice(["echo", "work"])
            waits.append(source.uniform(0, 1))
            start(row, waits[-1], name)
            finish(row, run=0.25, name=name)
        running = source.random() < 0.5
        if running:
            waits.append(source.uniform(0, 1))
            start(row, waits[-1], "work")
        activity, busy, _ = board.collect()
        its = activity.counts
        assert busy == running
        assert (its.finished, its.run.count, its.latency.count) == (number, number, number)
        assert its.wait.count == len(waits)
        assert its.wait.total == pytest.approx(sum(waits), abs=1e-5)
        assert its.run.total == pytest.approx(number / 4, abs=1e-5)
        if not waits:
            assert activity.operations == {}
        if running:
            finish(row, Outcome.IGNORED, None, None, "work")
            assert counts(board).outcomes == {Outcome.IGNORED: 1}


def test_the_node_reads_while_the_worker_writes_and_loses_nothing() -> None:
    board = Scoreboard()
    row = board.row(0)
    board.serves(0)
    pid = os.fork()
    if pid == 0:
        for _ in range(20_000):
            start(row, 0.001)
            finish(row, Outcome.SUCCESS, None, 0.002)
        os._exit(0)
    parts = []
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        parts.append(counts(board))
    parts.append(counts(board))
    whole = Counts.merged(parts)
    assert whole.outcomes == {Outcome.SUCCESS: 20_000}
    assert whole.run.count == whole.wait.count == 20_000
    assert len(parts) > 3
    assert all(part.busy >= 0 for part in parts)


@pytest.mark.parametrize("number", [3, 20 * NOTES])
def test_what_says_that_it_waited_for_centuries_counts_as_the_longest_wait(number: int) -> None:
    board = Scoreboard()
    row = board.row(0)
    assert counts(board) == Counts()
    for _ in range(number):
        start(row, 1e10)
        finish(row)
    its = counts(board)
    assert its.wait.count == its.finished == number
    assert its.wait.total == pytest.approx(number * HIGHEST)


def test_slots_are_counted_each_and_their_worker_once() -> None:
    board = Scoreboard()
    slots = [board.row(0, slot) for slot in range(3)]
    other = board.row(1, 0)
    board.serves(0)
    board.serves(1)
    for row in (*slots, other):
        start(row)
    time.sleep(0.05)
    finish(slots[0])
    activity, busy, running = board.collect()
    assert (busy, running) == (2, 3)
    assert 0.2 <= activity.counts.busy == pytest.approx(activity.counts.process, rel=0.1)
    assert board.died(0, timed_out={2}) == (1, 1)
    its = counts(board)
    assert its.outcomes == {Outcome.LOST: 1, Outcome.FAILURE: 1}
    assert its.categories == {Category.COMMUNICATION: 1, Category.TIMEOUT: 1}
    assert board.collect()[1:] == (1, 1)


def test_a_row_that_was_never_added_up_takes_little_memory_of_worker_and_node() -> None:
    def resident() -> int:
        pages = Path("/proc/self/statm").read_text("ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    board = Scoreboard()
    rows = [board.row(0, slot) for slot in range(500)]
    before = resident()
    for row in rows:
        start(row)
        finish(row)
    assert board.collect()[0].counts.outcomes[Outcome.SUCCESS] == 500
    assert (resident() - before) / len(rows) < 16_000  # two pages of the row, and a reading


def test_the_node_keeps_little_of_a_row_that_was_added_up() -> None:
    row = Row()
    for _ in range(NOTES + 1):
        start(row)
        finish(row)
    reading = row.read()
    assert 0 < sum(map(len, reading.compressed)) < 1000
    for _ in range(3 * NOTES):
        start(row)
        finish(row)
    its = Counts()
    row.read(reading).add_to(lambda _: its)
    assert its.outcomes[Outcome.SUCCESS] == 3 * NOTES
