"""Who is dead: a node whose connections are gone and that has not renewed since, or is late."""

from __future__ import annotations

import pytest

from pooltasks.broker.watching import (
    GONE_AFTER_OUTAGE_SECONDS,
    GONE_SECONDS,
    LEASE_SECONDS,
    PATIENCE_SECONDS,
    Death,
    Other,
    Reason,
    Watch,
)

NOW = 1_000_000.0  # server ms
LEASE = "1005000"


def other(*, connections: int = 2, lease: str = LEASE, state: str = "1") -> Other:
    return Other("it", state, lease, connections)


def seen(watch: Watch, at: float, node: Other, server_now: float = NOW) -> list[Death]:
    return watch.see([node], at, server_now)


def test_a_node_whose_connections_are_gone_for_long_enough_is_dead():
    watch = Watch(0.0)
    assert seen(watch, 1.0, other()) == []
    assert seen(watch, 1.1, other(connections=0)) == []
    assert watch.suspects
    assert seen(watch, 1.2 + GONE_SECONDS, other(connections=0)) == [
        Death("it", Reason.GONE, LEASE)
    ]


def test_one_connection_that_is_cut_is_no_death():
    watch = Watch(0.0)
    seen(watch, 1.0, other())
    for at in range(2, 60):
        assert seen(watch, float(at), other(connections=1)) == []
    assert not watch.suspects


def test_a_node_that_comes_back_in_time_lives():
    watch = Watch(0.0)
    seen(watch, 1.0, other())
    seen(watch, 1.1, other(connections=0))
    assert watch.see([], 1.2, NOW) == []  # only those are told of that may be dead
    assert seen(watch, 1.3, other(connections=0)) == []
    assert not seen(watch, 1.3 + GONE_SECONDS / 2, other(connections=0))


def test_a_node_without_connections_that_renews_its_lease_lives():
    watch = Watch(0.0)
    seen(watch, 1.0, other())
    for step in range(1, 50):
        lease = str(int(LEASE) + step)
        assert seen(watch, 1.0 + step * GONE_SECONDS, other(connections=0, lease=lease)) == []


def test_a_node_that_joined_and_died_between_two_looks_is_dead():
    watch = Watch(0.0)
    assert watch.see([], 1.0, NOW) == []
    joined = other(connections=0, lease=str(int(NOW + LEASE_SECONDS * 1000) + 1))
    assert seen(watch, 1.5, joined) == []
    assert seen(watch, 1.6 + GONE_SECONDS, joined) == [Death("it", Reason.GONE, joined.lease)]


def test_a_node_that_was_never_seen_alive_is_not_missed():
    # After a restart of the server all are away for a moment.
    watch = Watch(0.0)
    assert seen(watch, 1.0, other(connections=0)) == []
    assert seen(watch, 2.0, other(connections=0)) == []


@pytest.mark.parametrize("lease", ["", "999999"])
def test_a_lease_that_has_run_out_is_a_death_whatever_the_connections_say(lease):
    assert seen(Watch(0.0), 1.0, other(lease=lease)) == [Death("it", Reason.LATE, lease)]


def test_who_was_cut_off_itself_lets_leases_be_for_a_while():
    watch = Watch(10.0, PATIENCE_SECONDS)
    assert seen(watch, 10.1, other(lease="999999")) == []
    assert seen(watch, 10.0 + PATIENCE_SECONDS, other(lease="999999")) != []


def test_a_new_node_lets_leases_be_while_the_others_come_back_to_a_server_that_has_started():
    watch = Watch(10.0)
    watch.know_uptime(10.0, 1.0)
    assert seen(watch, 10.0, other(lease="999999")) == []
    assert seen(watch, 9.0 + PATIENCE_SECONDS, other(lease="999999")) != []


def test_while_all_come_back_to_their_server_each_has_longer_to_do_so():
    def come_back(others: int, at: float) -> list[Death]:
        watch = Watch(0.0, PATIENCE_SECONDS)
        watch.see([other(connections=0), *[Other("x", "1", LEASE, 2)] * others], 0.1, NOW)
        joined = str(int(NOW + LEASE_SECONDS * 1000) + 1)
        seen(watch, 0.2, other(lease=joined))
        seen(watch, 0.3, other(connections=0, lease=joined))
        return seen(watch, at, other(connections=0, lease=joined))

    late = 0.4 + GONE_SECONDS
    assert come_back(0, late) == []
    assert come_back(0, 0.4 + GONE_AFTER_OUTAGE_SECONDS) != []
    assert come_back(0, PATIENCE_SECONDS) != []
    assert come_back(1, late) != []  # most of them are there: it was cut off alone


def test_a_recovery_that_another_watcher_began_is_ended():
    for state in ("dead", "dead, stopping"):
        assert seen(Watch(0.0), 0.1, other(state=state)) == [Death("it", Reason.DEAD, LEASE)]


def test_a_node_that_has_left_is_forgotten():
    watch = Watch(0.0)
    seen(watch, 1.0, other())
    seen(watch, 1.1, other(connections=0))
    assert watch.see([], 1.2, NOW) == []
    assert not watch.suspects
