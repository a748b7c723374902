"""A whole deployment for a scenario of ``pooltasks bench``, as ``pooltasks up`` runs one.

It is a process of its own (``python -m benchmarks.deployment FOLDER NODES``), so that the
sender shares its interpreter with nothing. A node that dies is started again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.measure import ROOT, BrokenRoundError
from pooltasks.cli.bench.footprint import children_of
from pooltasks.cli.supervisor import Program, Supervisor
from pooltasks.cli.up import clients
from pooltasks.embedded import EmbeddedServer, reserved_port, tied_to_this_process
from pooltasks.keys import CONTROL_POOL
from pooltasks.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

POOL: Final = "bench"
_READY: Final = "everything is up"
_TIMEOUT: Final = 60.0
_STOP_TIMEOUT: Final = 20.0
_SHOWN_LINES: Final = 5


@contextmanager
def running(folder: Path, pool: Mapping[str, object], nodes: int) -> Iterator[dict[str, int]]:
    """Run a server, nodes, the control node, beat and a dashboard that somebody looks at.

    They run until the context is left.

    The environment of this process has the address of the server meanwhile.

    Args:
        folder: For data, configuration and log.
        pool: Settings of the pool, by name; values as TOML has them.
        nodes: Of the pool.

    Yields:
        The id of the dashboard, by name.

    Raises:
        BrokenRoundError: It did not come up, or it ended.
    """
    configuration, log = folder / "pools.toml", folder / "deployment.log"
    settings = "".join(f"{name} = {value}\n" for name, value in pool.items())
    configuration.write_text(f"[pools.{POOL}]\n{settings}", "utf-8")
    with EmbeddedServer(folder / "data") as server:
        os.environ |= {
            "POOLTASKS_REDIS_URL": server.url,
            "POOLTASKS_CONFIG": str(configuration),
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "benchmarks.deployment", str(folder), str(nodes)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                tied_to_this_process(command),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            _wait_until_up(process, log)
            yield {"dashboard": _dashboard(process.pid)}
            if process.poll() is not None:
                raise BrokenRoundError(f"the deployment ended{_end_of(log)}")
        finally:
            process.terminate()
            process.wait(_STOP_TIMEOUT)


def _wait_until_up(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while _READY not in log.read_text("utf-8", "replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise BrokenRoundError(f"the deployment did not come up{_end_of(log)}")
        time.sleep(0.1)  # between looks


def _dashboard(supervisor: int) -> int:
    for pid in children_of(supervisor):
        if b"dashboard" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return pid
    raise BrokenRoundError("the deployment has no dashboard")


def _end_of(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()[-_SHOWN_LINES:]
    return ":\n" + "\n".join(lines)


def main(folder: Path, nodes: int) -> None:
    """Run all programs but the server until SIGTERM."""
    settings = Settings.read()
    with reserved_port(None) as port:
        programs = clients(
            {name: settings.pool_settings(name) for name in (POOL, CONTROL_POOL)},
            app="pooltasks",
            redis_url=settings.redis_url.get_secret_value(),
            data_dir=folder,
            dashboard_port=port,
        )
    node = programs[0]
    for number in range(2, nodes + 1):
        argv = [each.replace(f"{POOL}@", f"{POOL}-{number}@") for each in node.argv]
        programs.append(replace(node, name=f"{POOL}-{number}", argv=argv))
    page = f"http://127.0.0.1:{port}/pools/{POOL}/data?window=300"
    viewer = [sys.executable, "-m", "benchmarks.viewer", page]
    programs.append(Program(name="viewer", argv=viewer, env=dict(os.environ)))
    Supervisor(programs).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
