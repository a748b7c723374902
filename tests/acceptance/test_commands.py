"""The commands that look after pools, under each of their names."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest
from deployment import Deployment, wait_until

from pooltasks import Pool

if TYPE_CHECKING:
    from pathlib import Path

NAMES = {
    "celery": ("celery", "-A", "pooltasks", "pool"),
    "pooltasks": ("pooltasks",),
    "pooltasks -A": ("pooltasks", "-A", "pooltasks"),
}
ONE_NODE = """
    [pools.code]
    imports = ["sample_operations"]
    pool_size = 1
    warmup = { commands = [{ operation = "sample_operations.warm" }] }
"""


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The words before a command."""
    words: tuple[str, ...] = NAMES[request.param]
    return words


def test_status_is_the_same_under_each_name(serving: Deployment, name: tuple[str, ...]) -> None:
    completed = serving.run(*name, "status")
    assert completed.returncode == 0, completed.stderr
    heading, line = completed.stdout.splitlines()
    assert heading.split() == ["POOL", "NODE", "SIZE", "WARM", "WARMING", "OVERFLOW", "WARM-UP"]
    assert line.split()[:5] == ["code", f"code@{socket.gethostname()}", "2", "2", "0"]


def test_status_as_json(serving: Deployment, name: tuple[str, ...]) -> None:
    completed = serving.run(*name, "status", "--json")
    assert completed.returncode == 0, completed.stderr
    (node,) = json.loads(completed.stdout)["nodes"].values()
    assert node["pool"] == "code"
    assert node["pid"] == serving.nodes[0].pid
    assert [worker["state"] for worker in node["workers"]] == ["warm", "warm"]


def test_check_finds_nothing_wrong(serving: Deployment, name: tuple[str, ...]) -> None:
    completed = serving.run(*name, "check")
    assert completed.returncode == 0, completed.stderr
    lines = completed.stdout.splitlines()
    assert all(line.startswith("ok  ") for line in lines)
    assert lines[0] == "ok   settings: 1 pools: code"
    assert lines[-1] == "ok   pool.code: its operations can be imported"


def test_warm_reports_each_worker(serving: Deployment, name: tuple[str, ...]) -> None:
    completed = serving.run(*name, "warm", "code")
    assert completed.returncode == 0, completed.stderr
    assert "2 of 2 workers warmed" in completed.stdout
    assert "the pool has no warm-up commands" in completed.stdout


@pytest.mark.parametrize("command", ["status", "warm"])
def test_a_pool_without_a_node_is_a_message_and_exit_code_1(
    serving: Deployment, command: str
) -> None:
    completed = serving.run("pooltasks", command, "control")
    assert completed.returncode == 1
    assert "No node answers. Start one: celery -A pooltasks worker -Q pool." in completed.stderr
    assert completed.stdout == ""
    assert "Traceback" not in completed.stderr


def test_status_as_json_without_a_node_is_an_empty_object_and_exit_code_1(
    serving: Deployment,
) -> None:
    completed = serving.run("pooltasks", "status", "--json", "control")
    assert completed.returncode == 1
    assert json.loads(completed.stdout) == {"nodes": {}, "optimizer": {}}


def test_check_says_what_is_wrong(deployment: Deployment) -> None:
    deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        [pools.other]
        imports = ["no_such_module"]
    """)
    completed = deployment.run("pooltasks", "check")
    assert completed.returncode == 1
    good, bad = completed.stdout.splitlines()[-2:]
    assert good.startswith("ok   pool.code")
    assert bad.startswith("FAIL pool.other: pool 'other': imports: no_such_module cannot be")


@pytest.fixture
def unserved(tmp_path: Path) -> Deployment:
    """A deployment whose server does not run."""
    deployment = Deployment(tmp_path, "unix:///no/such/socket?db=0")
    deployment.configure(ONE_NODE)
    return deployment


@pytest.mark.parametrize("command", ["status", "warm", "check"])
def test_a_server_that_does_not_answer_is_one_message(unserved: Deployment, command: str) -> None:
    completed = unserved.run("pooltasks", command)
    assert completed.returncode == 1
    said = completed.stdout + completed.stderr
    assert "Error 2 connecting to /no/such/socket" in said
    assert "See POOLTASKS_REDIS_URL" in said
    assert "Traceback" not in completed.stderr


@pytest.mark.parametrize("command", ["status", "warm"])
def test_an_unknown_pool_is_one_message(serving: Deployment, command: str) -> None:
    completed = serving.run("pooltasks", command, "none")
    assert completed.returncode == 1
    assert "There is no pool 'none'. Pools: code" in completed.stderr
    assert "Traceback" not in completed.stderr


def test_warm_prints_the_traceback_of_a_warm_up_that_fails(deployment: Deployment) -> None:
    app = deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 1
        [[pools.code.warmup.commands]]
        operation = "sample_operations.warm"
        kwargs = { unless = "repaired" }
    """)
    deployment.redis.set("repaired", 1)
    deployment.start_node("-Q", "pool.code")
    deployment.wait_for_warm(1)
    deployment.redis.delete("repaired")

    completed = deployment.run("pooltasks", "warm")

    assert completed.returncode == 1
    assert "0 of 1 workers warmed" in completed.stdout
    assert "failures 1" in completed.stdout
    assert "RuntimeError: the warm-up is told to fail" in completed.stdout
    assert "Traceback" not in completed.stderr
    assert Pool("code", app=app).execute("ping")["status"] == "ok"  # as warm as it was before


def test_two_nodes_of_one_pool_on_this_host_are_both_shown_and_warmed(
    deployment: Deployment,
) -> None:
    deployment.configure(ONE_NODE)
    deployment.start_node("-Q", "pool.code")
    deployment.wait_for_warm(1)
    deployment.start_node("-Q", "pool.code", "-n", "second@%h")
    names = [f"code@{socket.gethostname()}", f"second@{socket.gethostname()}"]

    def both_are_warm() -> bool:
        nodes = json.loads(deployment.run("pooltasks", "status", "--json").stdout)["nodes"]
        return sorted(nodes) == names and all(node["warm"] for node in nodes.values())

    wait_until(both_are_warm, "two warm nodes")
    warmed = deployment.run("pooltasks", "warm", "--json")

    assert warmed.returncode == 0, warmed.stderr
    reports = json.loads(warmed.stdout)
    assert sorted(reports) == names
    assert all(report["succeeded"] == 1 for report in reports.values())
    assert deployment.redis.get("warm-ups") == "4"
