"""What sessions promise, on fakeredis; time to live and all."""

from __future__ import annotations

import fakeredis
import pytest

from pooltasks import keys
from pooltasks.errors import InvalidIdentifierError, ProgramNotFoundError, SessionNotFoundError
from pooltasks.sessions import ANONYMOUS_SESSION, ProgramStatistics, SessionStore, name_of

TTL = 100.0
DEFINITION = {"signature": {"inputs": [], "outputs": []}, "tools": [], "weight": 0.1}


@pytest.fixture
def redis():
    with fakeredis.FakeRedis() as client:
        yield client


@pytest.fixture
def store(redis):
    return SessionStore(redis, ttl=TTL)


@pytest.fixture
def session_keys():
    return [keys.session("s"), keys.session_programs("s"), keys.session_statistics("s")]


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


def test_delete_leaves_no_key(store, redis):
    store.put("s", "answer", 42)
    store.put_program("s", "p", DEFINITION)
    store.record_execution("s", "p", 0.5, ok=True)
    assert store.delete("s")
    assert redis.keys() == []
    assert not store.delete("s")


def test_a_program_comes_back_as_it_was_put(store):
    stored, replaced = store.put_program("s", "p", DEFINITION)
    assert not replaced
    assert stored.version == 1
    assert stored.definition == DEFINITION
    assert store.get_program("s", "p") == stored


def test_every_definition_gets_a_higher_version_also_after_a_deletion(store):
    versions = [store.put_program("s", "p", DEFINITION)[0].version]
    again, replaced = store.put_program("s", "p", DEFINITION)
    assert replaced
    versions.append(again.version)
    store.delete_program("s", "p")
    once_more, replaced = store.put_program("s", "p", DEFINITION)
    assert not replaced
    versions.append(once_more.version)
    assert versions == sorted(set(versions))


def test_a_definition_in_a_session_made_again_is_told_from_the_old_one(store):
    old, _ = store.put_program("s", "p", DEFINITION)
    store.delete("s")
    new, _ = store.put_program("s", "p", DEFINITION)
    assert new.version == old.version
    assert new.revision != old.revision


def test_programs_are_listed_in_the_order_of_their_definition(store):
    for program_id in ("b", "c", "a", "c"):
        store.put_program("s", program_id, DEFINITION)
    assert [program.program_id for program in store.list_programs("s")] == ["b", "a", "c"]


def test_a_missing_session_is_named_with_what_to_do(store):
    for use in (
        lambda: store.get("s1", "x"),
        lambda: store.get_program("s1", "p"),
        lambda: store.list_programs("s1"),
        lambda: store.delete_program("s1", "p"),
        lambda: store.program_statistics("s1", "p"),
        lambda: store.stats("s1"),
    ):
        with pytest.raises(SessionNotFoundError, match=r"'s1'.*100 s.*Create its programs again"):
            use()


def test_a_missing_program_is_named_with_what_to_do(store):
    store.create("s1")
    for use in (store.get_program, store.delete_program):
        with pytest.raises(ProgramNotFoundError, match=r"'s1'.*'p1'.*create_program"):
            use("s1", "p1")


def test_the_anonymous_session_needs_no_creation(store):
    anonymous = name_of(None)
    assert anonymous == ANONYMOUS_SESSION
    assert store.list_programs(anonymous) == []
    assert store.get(anonymous, "x") is None
    assert store.stats(anonymous).created_at is None
    with pytest.raises(ProgramNotFoundError):
        store.get_program(anonymous, "p")


def test_executions_are_counted(store):
    store.put_program("s", "p:executions", DEFINITION)
    assert store.program_statistics("s", "p:executions") == ProgramStatistics()
    assert store.record_execution("s", "p:executions", 0.25, ok=True)
    assert store.record_execution("s", "p:executions", 0.75, ok=False)
    statistics = store.program_statistics("s", "p:executions")
    assert (statistics.executions, statistics.failures) == (2, 1)
    assert statistics.average_seconds == pytest.approx(0.5)
    assert statistics.last_executed_at is not None


def test_a_new_definition_starts_its_statistics_at_zero(store):
    store.put_program("s", "p", DEFINITION)
    store.record_execution("s", "p", 0.25, ok=True)
    store.put_program("s", "p", DEFINITION)
    assert store.program_statistics("s", "p") == ProgramStatistics()
    store.record_execution("s", "p", 0.25, ok=True)
    store.delete_program("s", "p")
    assert store.stats("s").executions == 0


def test_an_execution_of_a_program_that_is_gone_writes_nothing(store, redis):
    assert not store.record_execution("s", "p", 0.25, ok=True)
    assert redis.keys() == []


def test_stats_add_up_the_programs_of_a_session(store):
    store.put("s", "x", 1)
    store.put_program("s", "a", DEFINITION)
    store.put_program("s", "b", DEFINITION)
    store.record_execution("s", "a", 1.0, ok=True)
    store.record_execution("s", "b", 2.0, ok=False)
    stats = store.stats("s")
    assert (stats.values, stats.programs, stats.executions, stats.failures) == (1, 2, 2, 1)
    assert stats.seconds == pytest.approx(3.0)
    assert stats.created_at is not None


def test_every_use_renews_every_key(store, redis, session_keys):
    store.put("s", "x", 1)
    store.put_program("s", "p", DEFINITION)
    store.record_execution("s", "p", 0.1, ok=True)
    uses = {
        "put": lambda: store.put("s", "x", 2),
        "get": lambda: store.get("s", "x"),
        "create": lambda: store.create("s"),
        "put_program": lambda: store.put_program("s", "q", DEFINITION),
        "get_program": lambda: store.get_program("s", "p"),
        "list_programs": lambda: store.list_programs("s"),
        "record_execution": lambda: store.record_execution("s", "p", 0.1, ok=True),
        "program_statistics": lambda: store.program_statistics("s", "p"),
        "stats": lambda: store.stats("s"),
        "delete_program": lambda: store.delete_program("s", "q"),
    }
    for name, use in uses.items():
        for key in session_keys:
            redis.expire(key, 10)
        use()
        assert all(redis.ttl(key) > TTL / 2 for key in session_keys), name


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_write_after_one_key_expired_leaves_no_key_without_a_time_to_live(
    store, redis, session_keys, lost
):
    uses = (
        lambda: store.put("s", "x", 2),
        lambda: store.create("s"),
        lambda: store.put_program("s", "p", DEFINITION),
        lambda: store.record_execution("s", "p", 0.1, ok=True),
    )
    for use in uses:
        store.put("s", "x", 1)
        store.put_program("s", "p", DEFINITION)
        store.record_execution("s", "p", 0.1, ok=True)
        redis.delete(session_keys[lost])
        use()
        assert all(redis.ttl(key) > 0 for key in redis.scan_iter())


def test_asking_whether_a_session_exists_does_not_keep_it(store, redis):
    store.create("s")
    redis.expire(keys.session("s"), 10)
    assert store.exists("s")
    assert redis.ttl(keys.session("s")) <= 10


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
def test_a_malformed_id_is_refused(store, redis, identifier, problem):
    uses = (
        lambda: store.create(identifier),
        lambda: store.put(identifier, "x", 1),
        lambda: store.put("s", identifier, 1),
        lambda: store.put_program(identifier, "p", DEFINITION),
        lambda: store.put_program("s", identifier, DEFINITION),
        lambda: store.get_program("s", identifier),
        lambda: store.list_programs(identifier),
    )
    for use in uses:
        with pytest.raises(InvalidIdentifierError, match=problem):
            use()
    assert redis.keys() == []


def test_the_longest_id_is_accepted(store):
    store.put_program("s" * 200, "p" * 200, DEFINITION)
    assert store.get_program("s" * 200, "p" * 200).version == 1


def test_a_time_to_live_of_zero_is_refused(redis):
    with pytest.raises(ValueError, match=r"is 0 s; allowed: 0\.001 s"):
        SessionStore(redis, ttl=0)
