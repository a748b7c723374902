"""What sessions and their programs promise on any server, time to live and all.

Collected by the modules that import these tests and name a ``client``: an empty
database, ``decode_responses=False``.
"""

from __future__ import annotations

import pytest

from pooltasks import keys
from pooltasks.errors import InvalidIdentifierError, ProgramNotFoundError, SessionNotFoundError
from pooltasks.programs import ProgramStatistics, ProgramStore
from pooltasks.sessions import ANONYMOUS_SESSION, SessionStore, name_of
from pooltasks.sessions import session_keys as keys_of

TTL = 100.0
DEFINITION = {"signature": {"inputs": [], "outputs": []}, "tools": [], "weight": 0.1}


@pytest.fixture
def store(client):
    return SessionStore(client, ttl=TTL)


@pytest.fixture
def programs(store):
    return ProgramStore(store)


@pytest.fixture
def session_keys():
    return keys_of("s")


def test_a_value_comes_back_as_it_was_put(store):
    value = {"list": [1, 2.5, None, True], "text": "grün", "empty": []}
    store.put("s", "answer", value)
    assert store.get("s", "answer") == value


def test_a_value_that_is_not_there_is_the_default(store):
    store.create("s")
    assert store.get("s", "answer") is None
    assert store.get("s", "answer", default=3) == 3


@pytest.mark.parametrize("value", [object(), float("nan"), {"a": {1, 2}}])
def test_a_value_that_is_not_json_is_refused_and_creates_no_session(store, value):
    with pytest.raises((TypeError, ValueError)):
        store.put("s", "answer", value)
    assert not store.exists("s")


def test_create_says_whether_the_session_is_new(store):
    assert not store.exists("s")
    assert store.create("s")
    assert not store.create("s")
    assert store.exists("s")


def test_delete_leaves_no_key(store, programs, client):
    store.put("s", "answer", 42)
    programs.put("s", "p", DEFINITION)
    programs.record_execution("s", "p", 0.5, ok=True)
    assert store.delete("s")
    assert client.keys() == []
    assert not store.delete("s")


def test_a_program_comes_back_as_it_was_put(programs):
    stored, replaced = programs.put("s", "p", DEFINITION)
    assert not replaced
    assert stored.version == 1
    assert stored.definition == DEFINITION
    assert programs.get("s", "p") == stored


def test_every_definition_gets_a_higher_version_also_after_a_deletion(programs):
    versions = [programs.put("s", "p", DEFINITION)[0].version]
    again, replaced = programs.put("s", "p", DEFINITION)
    assert replaced
    versions.append(again.version)
    programs.delete("s", "p")
    once_more, replaced = programs.put("s", "p", DEFINITION)
    assert not replaced
    versions.append(once_more.version)
    assert versions == sorted(set(versions))


def test_a_definition_in_a_session_made_again_is_told_from_the_old_one(store, programs):
    old, _ = programs.put("s", "p", DEFINITION)
    store.delete("s")
    new, _ = programs.put("s", "p", DEFINITION)
    assert new.version == old.version
    assert new.revision != old.revision


def test_programs_are_listed_in_the_order_of_their_definition(programs):
    for program_id in ("b", "c", "a", "c"):
        programs.put("s", program_id, DEFINITION)
    assert [program.program_id for program in programs.all("s")] == ["b", "a", "c"]


def test_a_missing_session_is_named_with_what_to_do(store, programs):
    for use in (
        lambda: store.get("s1", "x"),
        lambda: programs.get("s1", "p"),
        lambda: programs.all("s1"),
        lambda: programs.delete("s1", "p"),
        lambda: programs.statistics("s1", "p"),
        lambda: store.stats("s1"),
    ):
        with pytest.raises(SessionNotFoundError, match=r"'s1'.*100 s.*Create its programs again"):
            use()


def test_a_missing_program_is_named_with_what_to_do(store, programs):
    store.create("s1")
    for use in (programs.get, programs.delete):
        with pytest.raises(ProgramNotFoundError, match=r"'s1'.*'p1'.*create_program"):
            use("s1", "p1")


def test_the_anonymous_session_needs_no_creation(store, programs):
    anonymous = name_of(None)
    assert anonymous == ANONYMOUS_SESSION
    assert programs.all(anonymous) == []
    assert store.get(anonymous, "x") is None
    assert store.stats(anonymous).created_at is None
    with pytest.raises(ProgramNotFoundError):
        programs.get(anonymous, "p")


def test_executions_are_counted(programs):
    programs.put("s", "p:executions", DEFINITION)
    assert programs.statistics("s", "p:executions") == ProgramStatistics()
    assert programs.record_execution("s", "p:executions", 0.25, ok=True)
    assert programs.record_execution("s", "p:executions", 0.75, ok=False)
    statistics = programs.statistics("s", "p:executions")
    assert (statistics.executions, statistics.failures) == (2, 1)
    assert statistics.average_seconds == pytest.approx(0.5)
    assert statistics.last_executed_at is not None


def test_a_new_definition_starts_its_statistics_at_zero(store, programs):
    programs.put("s", "p", DEFINITION)
    programs.record_execution("s", "p", 0.25, ok=True)
    programs.put("s", "p", DEFINITION)
    assert programs.statistics("s", "p") == ProgramStatistics()
    programs.record_execution("s", "p", 0.25, ok=True)
    programs.delete("s", "p")
    assert store.stats("s").executions == 0


def test_an_execution_of_a_program_that_is_gone_writes_nothing(programs, client):
    assert not programs.record_execution("s", "p", 0.25, ok=True)
    assert client.keys() == []


def test_stats_add_up_the_programs_of_a_session(store, programs):
    store.put("s", "x", 1)
    programs.put("s", "a", DEFINITION)
    programs.put("s", "b", DEFINITION)
    programs.record_execution("s", "a", 1.0, ok=True)
    programs.record_execution("s", "b", 2.0, ok=False)
    stats = store.stats("s")
    assert (stats.values, stats.programs, stats.executions, stats.failures) == (1, 2, 2, 1)
    assert stats.seconds == pytest.approx(3.0)
    assert stats.created_at is not None


def test_every_use_renews_every_key(store, programs, client, session_keys):
    store.put("s", "x", 1)
    programs.put("s", "p", DEFINITION)
    programs.record_execution("s", "p", 0.1, ok=True)
    uses = {
        "put": lambda: store.put("s", "x", 2),
        "get": lambda: store.get("s", "x"),
        "create": lambda: store.create("s"),
        "put_program": lambda: programs.put("s", "q", DEFINITION),
        "get_program": lambda: programs.get("s", "p"),
        "list_programs": lambda: programs.all("s"),
        "record_execution": lambda: programs.record_execution("s", "p", 0.1, ok=True),
        "program_statistics": lambda: programs.statistics("s", "p"),
        "stats": lambda: store.stats("s"),
        "delete_program": lambda: programs.delete("s", "q"),
    }
    for name, use in uses.items():
        for key in session_keys:
            client.expire(key, 10)
        use()
        assert all(client.ttl(key) > TTL / 2 for key in session_keys), name


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_write_after_one_key_expired_leaves_no_key_without_a_time_to_live(
    store, programs, client, session_keys, lost
):
    uses = (
        lambda: store.put("s", "x", 2),
        lambda: store.create("s"),
        lambda: programs.put("s", "p", DEFINITION),
        lambda: programs.record_execution("s", "p", 0.1, ok=True),
    )
    for use in uses:
        store.put("s", "x", 1)
        programs.put("s", "p", DEFINITION)
        programs.record_execution("s", "p", 0.1, ok=True)
        client.delete(session_keys[lost])
        use()
        assert all(client.ttl(key) > 0 for key in client.scan_iter())


def test_asking_whether_a_session_exists_does_not_keep_it(store, client):
    store.create("s")
    client.expire(keys.session("s"), 10)
    assert store.exists("s")
    assert client.ttl(keys.session("s")) <= 10


@pytest.mark.parametrize(
    ("identifier", "problem"),
    [
        ("", "is empty"),
        ("x" * 201, "has 201 characters"),
        ("a\nb", "not all printable"),
        (7, "of type int"),
        (None, "of type NoneType"),
    ],
)
def test_a_malformed_id_is_refused(store, programs, client, identifier, problem):
    uses = (
        lambda: store.create(identifier),
        lambda: store.put(identifier, "x", 1),
        lambda: store.put("s", identifier, 1),
        lambda: programs.put(identifier, "p", DEFINITION),
        lambda: programs.put("s", identifier, DEFINITION),
        lambda: programs.get("s", identifier),
        lambda: programs.all(identifier),
    )
    for use in uses:
        with pytest.raises(InvalidIdentifierError, match=problem):
            use()
    assert client.keys() == []


def test_the_longest_id_is_accepted(programs):
    programs.put("s" * 200, "p" * 200, DEFINITION)
    assert programs.get("s" * 200, "p" * 200).version == 1


def test_a_time_to_live_of_zero_is_refused(client):
    with pytest.raises(ValueError, match=r"is 0 s; allowed: 0\.001 s"):
        SessionStore(client, ttl=0)
