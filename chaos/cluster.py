"""A deployment of real processes on this machine, which starts dead processes again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import redis

import pooltasks
from chaos.haste import VARIABLE as HASTE_VARIABLE
from chaos.operations import FOLDER_VARIABLE
from chaos.runs import Runs
from chaos.server import MortalServer
from pooltasks.app import PoolApp
from pooltasks.extension import Extension
from pooltasks.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

QUEUE = "pool.chaos"
_ROOT = Path(__file__).parents[1]
_LOOK_INTERVAL = 0.02
_STOP_TIMEOUT = 15.0

_CONFIGURATION = """
broker_transport = "{transport}"

[pools.chaos]
imports = ["{module}"]
pool_size = {workers}
min_pool_size = {workers}
max_pool_size = {workers}
checkout_timeout = 3600
operation_timeout = {operation_timeout}
max_deliveries = {max_deliveries}
"""


class Process:
    """One process of the deployment; :meth:`watch` starts it again when it is dead."""

    def __init__(
        self, cluster: Cluster, name: str, url: str, *arguments: str, **environment: str
    ) -> None:
        self.name = name
        self._environment = {**cluster.environment, "POOLTASKS_REDIS_URL": url, **environment}
        self._arguments = [sys.executable, "-m", *arguments]
        self._folder = cluster.folder
        self.lock = threading.Lock()
        self._is_kept = True
        self.popen: subprocess.Popen[bytes]
        self.start()

    @property
    def log_path(self) -> Path:
        """The output of all its processes."""
        return self._folder / f"{self.name}.log"

    def start(self) -> None:
        """Start it."""
        with self.log_path.open("ab") as log:
            self.popen = subprocess.Popen(
                self._arguments,
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def watch(self) -> bool:
        """Start it again if it is dead; return whether it was."""
        with self.lock:
            if not self._is_kept or self.popen.poll() is None:
                return False
            self.start()
            return True

    def give_up(self) -> None:
        """Have it stay dead from now on when it ends."""
        with self.lock:
            self._is_kept = False

    def send(self, signal_number: int) -> bool:
        """Send a signal; return whether there was a process to get it."""
        with self.lock:
            if self.popen.poll() is not None:
                return False
            self.popen.send_signal(signal_number)
            return True

    def children(self) -> list[int]:
        """Return the process ids of a node's workers (proc_pid_task(5))."""
        process = self.popen.pid
        try:
            return [*map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())]
        except OSError:  # it is dead
            return []


class Cluster:
    """A server, nodes on two "hosts" (one behind a proxy), a control node and beat.

    Args:
        folder: An empty folder for everything that is written.
        nodes: How many nodes; every other one reaches the server through the proxy.
        workers: Workers of each node.
        transport: ``pooltasks`` or ``stock``.
        operation_timeout: Seconds.
        max_deliveries: Deaths after which an operation becomes a dead letter.
        control: Whether there are a control node and beat.
        haste: How many times sooner than usual the optimizer asks for hosts, and gives them up.
        module: Of the pool's operations.
        server: The server, on a data folder of its own.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 4,
        workers: int = 2,
        transport: str = "pooltasks",
        operation_timeout: float = 30,
        max_deliveries: int = 3,
        control: bool = True,
        haste: float = 1.0,
        module: str = "chaos.operations",
        server: MortalServer | None = None,
    ) -> None:
        self.folder = folder
        self.runs = Runs(folder / "runs")
        self.server = server or MortalServer(folder / "data")
        self._size = nodes
        self._with_control = control
        self._haste = haste
        self._module = module
        configuration = folder / "pools.toml"
        configuration.write_text(
            _CONFIGURATION.format(
                transport=transport,
                workers=workers,
                operation_timeout=operation_timeout,
                max_deliveries=max_deliveries,
                module=module,
            )
        )
        self.environment: Mapping[str, str] = {
            **{k: v for k, v in os.environ.items() if not k.startswith("POOLTASKS_")},
            "POOLTASKS_CONFIG": str(configuration),
            FOLDER_VARIABLE: str(self.runs.folder),
            "PYTHONPATH": os.pathsep.join([str(Path(pooltasks.__file__).parents[1]), str(_ROOT)]),
        }
        self.nodes: list[Process] = []
        self.others: list[Process] = []
        self.restarts = 0
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self.server.start()
        self.url = self.server.url
        self.redis: Any = redis.Redis.from_url(self.url)
        self._proxy, self.proxied_url = self._started_proxy()
        for number in range(self._size):
            self.add_node(f"node-{number}", self.proxied_url if number % 2 else self.url)
        if self._with_control:
            celery = ("celery", "-A", "pooltasks")
            hasty = () if self._haste == 1 else ("chaos.haste",)
            control = (*hasty, *celery, "worker", "-Q", "pool.control")
            self.others = [
                Process(self, "control", self.url, *control, **{HASTE_VARIABLE: str(self._haste)}),
                Process(self, "beat", self.url, *celery, "beat"),
            ]
        self._watcher.start()
        return self

    def add_node(self, name: str, url: str, *options: str, **environment: str) -> Process:
        """Start one more node, with further options and environment."""
        options = ("-l", "warning", "-Q", QUEUE, "-n", f"{name}@%h", *options)
        celery = ("celery", "-A", "pooltasks")
        node = Process(self, name, url, *celery, "worker", *options, **environment)
        self.nodes.append(node)
        return node

    def _started_proxy(self) -> tuple[subprocess.Popen[str], str]:
        port = self.url.rpartition(":")[2].removesuffix("/0")
        proxy = subprocess.Popen(
            [sys.executable, "-m", "chaos.proxy", port],
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert proxy.stdout is not None  # noqa: S101  a pipe was asked for
        return proxy, f"redis://127.0.0.1:{int(proxy.stdout.readline())}/0"

    def cut_connections(self) -> None:
        """Cut all connections of the second host."""
        self._proxy.send_signal(10)  # SIGUSR1

    def application(self, url: str) -> PoolApp:
        """Return an application that publishes to this deployment through ``url``."""
        app = PoolApp("pooltasks", set_as_current=False)
        settings = Settings.load(redis_url=url, pools={"chaos": {"checkout_timeout": 3600}})
        app._extension = Extension(settings)  # noqa: SLF001  not those of this process
        app.loader.import_task_module(self._module)
        app.finalize()
        return app

    def _watch(self) -> None:
        while not self._stopping.wait(_LOOK_INTERVAL):
            self.restarts += sum(process.watch() for process in (*self.nodes, *self.others))

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._watcher.join()
        for process in (*self.nodes, *self.others):
            process.send(18)  # SIGCONT: one may be frozen
            process.send(15)
        for process in (*self.nodes, *self.others):
            try:
                process.popen.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()
        self._proxy.kill()
        self._proxy.communicate()
        self.redis.close()
        self.server.stop()


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
    """Return as soon as ``condition`` holds.

    Raises:
        TimeoutError: It did not hold within ``seconds``.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(_LOOK_INTERVAL)
