"""How many workers a host has room for."""

from __future__ import annotations

import os

import pytest

from pooltasks.node.workforce.headroom import Headroom

CORES = len(os.sched_getaffinity(0))
GIB = 1024 * 1024  # in kB
PAGE = os.sysconf("SC_PAGE_SIZE")


class Host:
    """A folder with the files that the kernel would show."""

    def __init__(self, root):
        self.root = root
        self.spent = {}
        self.write("proc/meminfo", f"MemTotal: {8 * GIB} kB\nMemAvailable: {8 * GIB} kB\n")
        self.write("proc/self/cgroup", "0::/\n")

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def worker(self, pid, *, ran=0.0, waited=0.0, own_mb=32):
        before = self.spent.get(pid, (0, 0))
        self.spent[pid] = (before[0] + int(ran * 1e9), before[1] + int(waited * 1e9))
        self.write(f"proc/{pid}/schedstat", "{} {} 7\n".format(*self.spent[pid]))
        own = own_mb * 2**20 // PAGE
        self.write(f"proc/{pid}/statm", f"90000 {own + 1000} 1000 1 0 1 0\n")


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def room_after(host, seconds, *, ran, waited=0.0, workers=4, busy=1.0):
    """Let ``workers`` spend their time so for ``seconds``; return the room at the end."""
    headroom, room = Headroom(root=host.root), None
    for _ in range(seconds + 1):
        for pid in range(1, workers + 1):
            host.worker(pid, ran=ran, waited=waited)
        room = headroom.room(range(1, workers + 1), busy * workers)
    return room


@pytest.mark.parametrize(("ran", "waited"), [(1.0, 0.0), (0.5, 0.5), (0.1, 0.9), (0.93, 0.06)])
def test_operations_that_compute_have_a_worker_for_each_core(host, ran, waited):
    assert room_after(host, 10, ran=ran, waited=waited) == CORES


def test_operations_that_use_a_third_of_a_core_have_three(host):
    assert room_after(host, 20, ran=0.3, waited=1 / 30) == CORES * 3


def test_operations_that_wait_are_bound_by_memory_only(host):
    assert room_after(host, 10, ran=0.002) == 4 + int(0.95 * 8 * 1024 / 32)


def test_a_warm_up_is_no_operation(host):
    headroom = Headroom(root=host.root)
    host.worker(1, ran=30.0)
    headroom.room([1], 1.0)
    host.worker(1, ran=0.01)
    host.worker(2, ran=30.0)
    assert headroom.room([1, 2], 2.0) > 20


def test_what_operations_are_like_may_change(host):
    headroom = Headroom(root=host.root)
    for second in range(200):
        host.worker(1, ran=1.0 if second < 100 else 0.001)
        room = headroom.room([1], 1.0)
        if second == 99:
            assert room == CORES
    assert room > 100


def test_without_an_operation_only_memory_is_known(host):
    assert room_after(host, 10, ran=0.001, busy=0.0) == 4 + int(0.95 * 8 * 1024 / 32)


def test_no_more_than_memory_is_available_for(host):
    host.write("proc/meminfo", f"MemTotal: {8 * GIB} kB\nMemAvailable: {GIB // 2} kB\n")
    # 5 % of 8 GiB are left to others: 102.4 MiB for workers of 32.
    assert room_after(host, 2, ran=0.0) == 4 + 3
    host.write("proc/meminfo", f"MemTotal: {8 * GIB} kB\nMemAvailable: 1000 kB\n")
    assert room_after(host, 2, ran=0.0) == 4


def test_a_container_s_limits_are_those_of_its_control_group(host):
    host.write("proc/self/cgroup", "0::/pods/one\n")
    host.write("sys/fs/cgroup/pods/one/memory.max", f"{2**30}\n")
    host.write("sys/fs/cgroup/pods/one/memory.current", f"{2**29}\n")
    host.write("sys/fs/cgroup/pods/one/memory.stat", f"anon 7\ninactive_file {2**27}\n")
    host.write("sys/fs/cgroup/pods/one/cpu.max", "50000 100000\n")
    assert room_after(host, 2, ran=0.0) == 4 + int((0.95 * 1024 - 512 + 128) / 32)
    assert room_after(host, 10, ran=1.0) == 1  # half a processor


def test_a_control_group_without_limits_says_nothing(host):
    host.write("sys/fs/cgroup/memory.max", "max\n")
    host.write("sys/fs/cgroup/memory.current", f"{2**30}\n")
    host.write("sys/fs/cgroup/cpu.max", "max 100000\n")
    assert room_after(host, 10, ran=1.0) == CORES


def test_a_host_that_does_not_say_sets_no_bound(tmp_path):
    assert Headroom(root=tmp_path).room([1, 2], 1.0) is None


def test_this_process_is_measured():
    headroom = Headroom()
    headroom.room([os.getpid()], 0.0)
    assert headroom.room([os.getpid()], 1.0) >= 1


def test_an_idle_node_reads_nothing_of_its_workers(host):
    headroom = Headroom(root=host.root)
    for pid in (1, 2):
        host.worker(pid)
    before = headroom.room((1, 2), 0.0)
    for pid in (1, 2):
        (host.root / f"proc/{pid}/schedstat").unlink()
        (host.root / f"proc/{pid}/statm").unlink()
    assert headroom.room((1, 2), 0.0) == before
    assert before is not None
    assert headroom.room((1, 2), 1.0) is None  # they have gone


def test_a_worker_that_an_idle_node_gets_is_read(host):
    headroom = Headroom(root=host.root)
    host.worker(1, own_mb=32)
    few = headroom.room((1,), 0.0)
    host.worker(2, own_mb=320)
    assert headroom.room((1, 2), 0.0) < few
