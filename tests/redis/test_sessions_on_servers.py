"""What sessions promise, on real servers, and what only those can show: time and races."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from session_promises import *  # noqa: F403  its tests and fixtures are this module's

from pooltasks import keys
from pooltasks.errors import ProgramNotFoundError, SessionNotFoundError
from pooltasks.programs import ProgramStore
from pooltasks.sessions import SessionStore

DEADLINE = 10.0  # seconds
THREADS = 4
ROUNDS = 50


def in_threads(function):
    """Call ``function`` with 0 to THREADS - 1, all at once; return the results in order."""
    with ThreadPoolExecutor(THREADS) as executor:
        return list(executor.map(function, range(THREADS)))


def wait_until_empty(client):
    deadline = time.monotonic() + DEADLINE
    while client.dbsize():
        assert time.monotonic() < deadline, client.keys()


def test_a_session_that_is_not_used_expires_with_all_of_its_keys(client):
    store = SessionStore(client, ttl=0.05)
    programs = ProgramStore(store)
    store.put("s", "x", 1)
    programs.put("s", "p", {})
    programs.record_execution("s", "p", 0.1, ok=True)
    wait_until_empty(client)
    assert not store.exists("s")
    with pytest.raises(SessionNotFoundError, match=r"lives 0\.05 s after its last use"):
        programs.get("s", "p")


def test_a_session_lives_as_long_as_it_is_used(client):
    ttl = 0.5
    store = SessionStore(client, ttl=ttl)
    store.put("s", "x", 1)
    ends = time.monotonic() + 2 * ttl
    while time.monotonic() < ends:
        assert store.get("s", "x") == 1


def test_an_execution_that_ends_after_its_session_expired_is_not_counted(client):
    programs = ProgramStore(SessionStore(client, ttl=0.02))
    programs.put("s", "p", {})
    wait_until_empty(client)
    assert not programs.record_execution("s", "p", 0.1, ok=True)
    assert client.dbsize() == 0


def test_no_use_that_meets_an_expiry_leaves_a_key_without_a_time_to_live(client):
    # Each use takes about as long as the session lives: expiry falls everywhere.
    store = SessionStore(client, ttl=0.001)
    programs = ProgramStore(store)

    def use(number):
        for _ in range(ROUNDS):
            with suppress(SessionNotFoundError, ProgramNotFoundError):
                store.put("s", "x", number)
                programs.put("s", "p", {})
                programs.record_execution("s", "p", 0.1, ok=True)
                programs.get("s", "p")
                store.stats("s")
                programs.delete("s", "p")
                store.create("s")

    in_threads(use)
    wait_until_empty(client)


def test_definitions_at_the_same_time_get_versions_of_their_own(client):
    programs = ProgramStore(SessionStore(client))

    def define(number):
        return [programs.put("s", f"p{number % 2}", {})[0].version for _ in range(ROUNDS)]

    versions = in_threads(define)
    assert all(own == sorted(own) for own in versions)
    assert sorted(version for own in versions for version in own) == [
        *range(1, THREADS * ROUNDS + 1)
    ]


def test_executions_at_the_same_time_are_all_counted(client):
    store = SessionStore(client)
    programs = ProgramStore(store)
    programs.put("s", "p", {})

    def execute(number):
        for _ in range(ROUNDS):
            assert programs.record_execution("s", "p", 0.5, ok=number > 0)

    in_threads(execute)
    statistics = programs.statistics("s", "p")
    assert statistics.executions == THREADS * ROUNDS
    assert statistics.failures == ROUNDS
    assert statistics.seconds == pytest.approx(0.5 * THREADS * ROUNDS)


def test_deleting_a_session_under_its_users_leaves_no_count_without_its_program(client):
    store = SessionStore(client)
    programs = ProgramStore(store)

    def use(number):
        for _ in range(ROUNDS):
            if number > 0:
                programs.put("s", "p", {})
                programs.record_execution("s", "p", 0.1, ok=True)
                continue
            store.delete("s")
            with client.pipeline(transaction=True) as pipeline:
                pipeline.exists(keys.session_statistics("s"))
                pipeline.exists(keys.session_programs("s"))
                counts, programs_left = pipeline.execute()
            assert counts <= programs_left

    in_threads(use)
    store.delete("s")
    assert client.keys() == []
