"""What a worker keeps of the programs it built."""

from __future__ import annotations

import os
import threading

import pytest

from pooltasks.operations.program_cache import ProgramCache, process_cache

DEADLINE = 10.0


@pytest.fixture
def cache() -> ProgramCache[str]:
    return ProgramCache(capacity=2)


def refuse() -> str:
    pytest.fail("built again")


def test_a_program_is_built_once(cache):
    assert cache.get("s", "p", "r1", lambda: "built") == "built"
    assert cache.get("s", "p", "r1", refuse) == "built"


def test_another_revision_is_built_and_takes_the_place(cache):
    cache.get("s", "p", "r1", lambda: "old")
    assert cache.get("s", "p", "r2", lambda: "new") == "new"
    assert cache.get("s", "p", "r2", refuse) == "new"
    assert len(cache) == 1


def test_the_same_id_in_another_session_is_another_program(cache):
    cache.get("s", "p", "r1", lambda: "one")
    assert cache.get("t", "p", "r2", lambda: "other") == "other"
    assert cache.get("s", "p", "r1", refuse) == "one"


def test_the_program_used_longest_ago_goes_first(cache):
    cache.get("s", "a", "r", lambda: "a")
    cache.get("s", "b", "r", lambda: "b")
    cache.get("s", "a", "r", refuse)
    cache.get("s", "c", "r", lambda: "c")
    assert len(cache) == 2
    assert cache.get("s", "a", "r", refuse) == "a"
    assert cache.get("s", "b", "r", lambda: "b again") == "b again"


def test_nothing_is_kept_of_a_program_that_cannot_be_built(cache):
    with pytest.raises(ZeroDivisionError):
        cache.get("s", "p", "r", lambda: str(1 / 0))
    assert len(cache) == 0
    assert cache.get("s", "p", "r", lambda: "built") == "built"


def test_programs_are_discarded_singly_or_by_session():
    cache: ProgramCache[str] = ProgramCache()
    for session_id, program_id in (("s", "a"), ("s", "b"), ("t", "a")):
        cache.get(session_id, program_id, "r", lambda: "built")
    cache.discard("t", "a")
    cache.discard("t", "never there")
    assert len(cache) == 2
    cache.discard_session("s")
    assert len(cache) == 0


def test_a_slow_build_holds_up_no_other_thread(cache):
    started, finish = threading.Event(), threading.Event()

    def slowly() -> str:
        started.set()
        assert finish.wait(DEADLINE)
        return "slow"

    thread = threading.Thread(target=cache.get, args=("s", "slow", "r", slowly))
    thread.start()
    try:
        assert started.wait(DEADLINE)
        assert cache.get("s", "quick", "r", lambda: "quick") == "quick"
    finally:
        finish.set()
        thread.join(DEADLINE)
    assert not thread.is_alive()
    assert cache.get("s", "slow", "r", refuse) == "slow"


def test_threads_share_a_bounded_cache():
    cache: ProgramCache[int] = ProgramCache(capacity=8)
    wrong: list[tuple[int, int]] = []

    def use(seed: int) -> None:
        for step in range(2000):
            number = (step * (seed + 3)) % 16
            got = cache.get("s", str(number), "r", lambda number=number: number)
            if got != number:
                wrong.append((got, number))

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert wrong == []
    assert len(cache) == 8


# Other tests' libraries may have left threads behind, of which Python 3.12 warns at a fork.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_begins_with_an_empty_cache_and_a_free_lock():
    parents = process_cache()
    parents.get("s", "p", "r", lambda: "the parent's")
    reader, writer = os.pipe()
    with parents._lock:  # as if another thread of the parent used it just now
        pid = os.fork()
        if pid == 0:
            try:
                seen = process_cache().get("s", "p", "r", lambda: "the child's")
                os.write(writer, seen.encode())
            finally:
                os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == "the child's"
    os.waitpid(pid, 0)
    assert process_cache() is parents
    parents.discard("s", "p")
