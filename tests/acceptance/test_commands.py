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

pytestmark = pytest.mark.long

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
    heading, *lines = completed.stdout.splitlines()
    assert heading.split()[:5] == ["POOL", "STATE", "BACKLOG", "OLDEST", "WAIT"]
    code = next(line for line in lines if line.startswith("code "))
    # The first operation waited for the node to start.
    assert code.split()[1] in ("ok", "WARN")
    assert code.split()[2] == "0"
    assert code.endswith("1 live")
    assert f"server {serving.url}" in completed.stderr
    assert "Application 'pooltasks'" in completed.stderr


def test_status_of_a_pool_names_its_nodes_and_those_that_were_killed(
    deployment: Deployment,
) -> None:
    deployment.configure(ONE_NODE)
    node = deployment.start_node("-Q", "pool.code")
    deployment.wait_for_warm(1)
    name = f"code@{socket.gethostname()}"
    completed = deployment.run("pooltasks", "status", "code")
    assert completed.returncode == 0, completed.stderr
    assert f"{name}: live, 1 of 1 workers warm" in completed.stdout
    assert deployment.run("pooltasks", "drain", "code").returncode == 0
    assert f"{name} is drained: no node takes operations." in (
        deployment.run("pooltasks", "status", "code").stdout
    )

    node.kill()
    node.wait()

    wait_until(
        lambda: f"{name} has not answered for" in deployment.run("pooltasks", "status").stdout,
        "the lost node is named",
    )
    completed = deployment.run("pooltasks", "status", "code")
    assert completed.returncode == 1
    assert f"{name}: lost, no answer for" in completed.stdout


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
    assert lines[0] == "ok   settings: 1 pool: code"
    assert "ok   pool.code: its operations can be imported" in lines
    assert any(line.startswith("ok   pool.code: an operation came back in ") for line in lines)
    # What is not there in this deployment is all that is told of, but for waits of a busy machine.
    bad = [line for line in lines if line.startswith(("WARN", "FAIL"))]
    assert [line for line in bad if "nodes of code" not in line] == [
        "WARN optimizer: no node serves the control pool: pools keep their size"
    ]
    assert "--   alerts: not looked at" in lines


@pytest.mark.parametrize("phase", ["before", "during", "after"])
def test_check_finds_nothing_wrong_in_any_phase(serving: Deployment, phase: str) -> None:
    completed = serving.run("pooltasks", "check", "--phase", phase, "--json")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    answer = json.loads(completed.stdout)
    told_of = {its["subject"] for its in answer["findings"] if its["remedy"]}
    assert told_of <= {"optimizer", "alerts", "nodes of code"}  # waits of a busy machine
    looked_at_nodes = any(its["subject"] == "nodes of code" for its in answer["findings"])
    assert looked_at_nodes == (phase != "before")


def test_warm_reports_each_worker(serving: Deployment, name: tuple[str, ...]) -> None:
    completed = serving.run(*name, "warm", "code")
    assert completed.returncode == 0, completed.stderr
    assert "2 of 2 workers warmed" in completed.stdout
    assert "there are no warm-up commands" in completed.stdout


@pytest.mark.parametrize("command", ["status", "warm"])
def test_a_pool_without_a_node_is_a_message_and_exit_code_1(
    serving: Deployment, command: str
) -> None:
    completed = serving.run("pooltasks", command, "control")
    assert completed.returncode == 1
    assert "No node answers. Start one: celery -A pooltasks worker -Q pool." in completed.stderr
    assert "Traceback" not in completed.stderr


def test_status_as_json_without_a_node_is_an_empty_object_and_exit_code_1(
    serving: Deployment,
) -> None:
    completed = serving.run("pooltasks", "status", "--json", "control")
    assert completed.returncode == 1
    answer = json.loads(completed.stdout)
    assert answer["nodes"] == answer["optimizer"] == {}
    assert answer["pools"]["control"]["level"] == "off"


def test_check_says_what_is_wrong(deployment: Deployment) -> None:
    deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        [pools.other]
        imports = ["no_such_module"]
    """)
    completed = deployment.run("pooltasks", "check")
    assert completed.returncode == 1
    lines = completed.stdout.splitlines()
    assert "ok   pool.code: its operations can be imported" in lines
    (bad,) = (line for line in lines if line.startswith("FAIL"))
    assert bad.startswith("FAIL pool.other: pool 'other': imports: no_such_module cannot be")


def test_a_warm_up_that_fails_is_said_by_check_and_status(deployment: Deployment) -> None:
    deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 1
        [[pools.code.warmup.commands]]
        operation = "sample_operations.warm"
        kwargs = { unless = "repaired" }
    """)
    deployment.start_node("-Q", "pool.code")
    completed = deployment.run("pooltasks", "check")
    assert completed.returncode == 1
    bad = next(line for line in completed.stdout.splitlines() if line.startswith("FAIL"))
    assert bad.startswith("FAIL pool.code: its warm-up fails in sample_operations.warm: ")
    assert "RuntimeError: the warm-up is told to fail" in bad
    assert "sample_operations.py, line " in bad

    def said() -> bool:
        completed = deployment.run("pooltasks", "status")
        said = "code: No worker is warm: the warm-up fails in sample_operations.warm: RuntimeError"
        return completed.returncode == 1 and said in completed.stdout

    wait_until(said, "status says so too")


def test_a_dashboard_whose_port_is_taken_is_one_message(serving: Deployment) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        completed = serving.run("pooltasks", "dashboard", "--address=127.0.0.1", f"--port={port}")
    assert completed.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in completed.stderr
    assert "Traceback" not in completed.stderr


@pytest.fixture
def unserved(tmp_path: Path) -> Deployment:
    """A deployment whose server does not run."""
    deployment = Deployment(tmp_path, "unix:///no/such/socket?db=0")
    deployment.configure(ONE_NODE)
    return deployment


@pytest.mark.parametrize(
    "command",
    [
        "status",
        "warm",
        "check",
        "dead list code",
        "dead show code 1",
        "dead retry code 1",
        "dead drop code 1",
        "dead purge code --yes",
        "drain code",
        "resize code 2",
        "optimize code",
        "simulate --replay 2min",
    ],
)
def test_a_server_that_does_not_answer_is_one_message(unserved: Deployment, command: str) -> None:
    completed = unserved.run("pooltasks", *command.split())
    assert completed.returncode == 1
    said = completed.stdout + completed.stderr
    assert "Error 2 connecting to /no/such/socket" in said
    assert "The server unix:///no/such/socket" in said
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
