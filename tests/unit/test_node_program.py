"""The program that a node begins again as: what it loads, and when it is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import click
import pytest
from celery import Celery
from celery.bin.base import CLIContext
from celery.bin.celery import celery

from pooltasks.node import celery as program

PYTHON = "/usr/bin/python3"
CELERY = "/usr/bin/celery"
ARGUMENTS = ["-A", "shop", "worker", "-l", "info"]


class Begun(BaseException):
    """The process has become another program."""


@pytest.fixture
def run_as(monkeypatch):
    """Have this process be one that was started in some way; return what it becomes."""

    def become(before, *, spec, main=None, options=()):
        started = ModuleType("__main__")
        started.__spec__ = None if spec is None else SimpleNamespace(name=spec)
        if main is not None:
            started.main = SimpleNamespace(__module__=main)
        became = []
        monkeypatch.setitem(sys.modules, "__main__", started)
        monkeypatch.setattr(sys, "orig_argv", [PYTHON, *before, *options, *ARGUMENTS])
        monkeypatch.setattr(sys, "argv", [before[-1], *options, *ARGUMENTS])
        monkeypatch.setattr(os, "execv", lambda _, argv: became.append(argv[1:]))
        program.begin_again()
        return became[0] if became else None

    return become


@pytest.mark.parametrize("flags", [[], ["-u"], ["-X", "dev", "-W", "error", "-u"]])
def test_celery_begins_again_with_the_same_options(run_as, flags):
    again = [*flags, "-m", "pooltasks.node.celery", *ARGUMENTS]
    assert run_as([*flags, "-m", "celery"], spec="celery.__main__") == again
    assert run_as([*flags, CELERY], spec=None, main="celery.__main__") == again


def test_another_program_that_runs_celery_goes_on(run_as):
    under_coverage = ["/usr/bin/coverage", "run", "-m", "celery"]
    assert run_as(under_coverage, spec="celery.__main__") is None
    assert run_as(["-m", "pdb", "-m", "celery"], spec="celery.__main__") is None
    assert run_as(["-m", "chaos.haste", "celery"], spec="celery.__main__") is None
    assert run_as(["worker.py"], spec=None) is None
    assert run_as(["worker.py"], spec=None, main="celery.__main__") is None
    assert run_as(["worker.py"], spec=None, main="worker") is None
    assert run_as(["-m", "pytest"], spec="pytest.__main__") is None
    assert run_as(["-m", "pooltasks.node.celery"], spec="pooltasks.node.celery") is None


@pytest.mark.parametrize(
    ("its_celery", "its_worker", "begins"),
    [
        ([], [], True),
        (["--workdir", "."], [], False),
        ([], ["--uid", "nobody"], False),
        ([], ["--gid", "nogroup"], False),
    ],
)
def test_what_cannot_be_carried_out_twice_is_not(run_as, its_celery, its_worker, begins):
    shop = CLIContext(Celery("shop", set_as_current=False), no_color=True, workdir=None)
    with (
        click.Context(celery, info_name="celery", obj=shop) as outer,
        click.Context(celery.commands["worker"], info_name="worker", parent=outer) as inner,
    ):
        celery.parse_args(outer, [*its_celery, "worker"])
        inner.command.parse_args(inner, its_worker)
        became = run_as(["-m", "celery"], spec="celery.__main__", options=its_celery)
    assert (became is not None) == begins


def loaded_by(code):
    """Return what Python says that runs ``code`` in place of a command."""
    script = f"""
import sys
import click
sys.argv[:] = ["-m"]
sys.orig_argv[:] = ["python", "-m", "pooltasks.node.celery"]
from pooltasks.node import celery as program
sys.argv[:] = ["x"]
real, click.Group.__call__ = click.Group.__call__, lambda *_, **__: 0
try:
    program.main()
except SystemExit:
    pass
{code}
"""
    environment = {name: its for name, its in os.environ.items() if "POOLTASKS" not in name}
    answer = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.split()


def test_it_loads_nothing_that_a_node_does_not_use():
    loaded = set(loaded_by("import pooltasks.node.node; print(*sys.modules)"))
    unused = {
        *("flower", "tornado", "prometheus_client", "click_repl", "prompt_toolkit", "pygments"),
        *("psutil", "cffi", "pycparser", "yaml", "opentelemetry", "redis.asyncio.client"),
        *("celery.bin.events", "celery.bin.multi", "celery.bin.amqp", "pooltasks.cli"),
    }
    assert loaded & unused == set()
    assert {"celery.bin.worker", "celery.bin.beat", "redis.client", "pooltasks.app"} <= loaded


def test_what_is_loaded_later_is_whole():
    assert loaded_by("""
import pooltasks, psutil, yaml, pygments, opentelemetry.metrics, redis.asyncio, celery.bin.multi
from celery.utils import debug
from kombu.serialization import dumps, loads
assert redis.asyncio.Redis.__module__ == "redis.asyncio.client"
assert debug.Process().pid
kind, encoding, text = dumps({"a": [1]}, "yaml")
for sent in (text, text.encode(), memoryview(text.encode())):
    assert loads(sent, kind, encoding, accept={kind}) == {"a": [1]}
print(pooltasks.app.main, pooltasks.operation.__name__, sys.argv[0].rpartition("/")[2])
""") == ["pooltasks", "operation", "celery"]


def test_threads_that_ask_for_a_package_at_once_have_it_whole():
    assert loaded_by("""
import threading, redis
at_once = threading.Barrier(8)
found = []
def ask():
    at_once.wait()
    found.append(redis.asyncio.Redis.__name__)
threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
try:
    redis.asyncio.nothing
except AttributeError as error:
    found.append("none")
print(*found)
""") == ["Redis"] * 8 + ["none"]


def test_functions_have_no_docstrings_and_what_people_read_stays():
    assert loaded_by("""
import inspect, redis, celery, celery.bin.worker, pooltasks
for function in (redis.Redis.get, celery.Celery.send_task, pooltasks.install):
    assert function.__doc__ is None, function
    assert inspect.getsource(function).count('\"\"\"') >= 2
assert redis.Redis.__doc__ and celery.Celery.__doc__
assert celery.bin.worker.worker.__doc__
import pooltasks.pools
assert pooltasks.Pool.submit.__doc__, "it is imported later, as the application is"
print("whole")
""") == ["whole"]


def test_it_is_celery_s_program_for_its_arguments():
    def said(*command):
        return subprocess.run(
            [sys.executable, "-m", *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    for arguments in (["worker", "--help"], ["--version"], ["worker", "--no-such-option"]):
        ours, theirs = said("pooltasks.node.celery", *arguments), said("celery", *arguments)
        assert ours.returncode == theirs.returncode
        assert ours.stdout.replace("python -m celery", "celery") == theirs.stdout.replace(
            "python -m celery", "celery"
        )


def test_the_modules_that_it_stands_in_for_are_celery_s():
    folder = Path(sys.modules["celery.bin.worker"].__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "base", "celery"}
    assert modules == {*program._COMMANDS, "worker", "beat"}
