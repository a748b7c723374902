"""Kill a process before and after each of its writes to the server, and account each time."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from celery import chord

from chaos.accounting import settle
from chaos.cluster import QUEUE, Cluster, Process
from chaos.fuse import VARIABLE, Fuse, Role
from chaos.operations import noted
from pooltasks.app import PoolApp
from pooltasks.extension import Extension
from pooltasks.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PATIENCE = 15.0
_PACE = 0.008
"""Seconds between two operations that come one by one."""
_LEAD = 60
"""Operations that come before the others then, until the workers wait at the server themselves."""
_OPERATIONS = ("chaos.operations", "chaos.point_operations")


class Point(NamedTuple):
    """A moment in a process: before or after its n-th write since the scenario began."""

    role: Role
    write: int
    is_sent: bool

    def __str__(self) -> str:
        when = "after" if self.is_sent else "before"
        return f"{self.role.name.lower()} killed {when} write {self.write}"


class Outcome(NamedTuple):
    """The end of the scenario at one point."""

    point: Point
    was_reached: bool
    accepted: int
    problems: list[str]


class Report(NamedTuple):
    """The ends of the scenario at all points."""

    points: int
    reached: int
    """Points that a process came to."""
    failed: list[dict[str, Any]]
    """Points at which something had no end or the wrong one, each with its problems."""

    @property
    def holds(self) -> bool:
        """Whether every operation had its end wherever a process was killed."""
        return not self.failed

    def lines(self) -> list[str]:
        """Return the results as text."""
        return [f"{self.points} points, {self.reached} reached, {len(self.failed)} with a problem"]


class Accepted(NamedTuple):
    """An operation that the server has accepted."""

    kind: str
    id: str


def publish(app: Any, accept: Callable[[Accepted], None], *, paced: bool = False) -> None:
    """Publish the scenario: 30 operations of every kind.

    Args:
        app: The application.
        accept: Hears of each operation as soon as it is accepted.
        paced: Whether they come one by one, after others. None is revoked then: the node would
            have to see each operation itself.
    """
    work, its = app.tasks["chaos.operations.work"], "chaos.point_operations"
    once, early = app.tasks[f"{its}.once"], app.tasks[f"{its}.early"]
    retried, refused = app.tasks[f"{its}.retried"], app.tasks[f"{its}.refused"]

    def send(kind: str, operation: Any, *args: Any, **options: Any) -> str:
        if paced:
            time.sleep(_PACE)
        result = operation.apply_async(args, **options)
        accept(Accepted(kind, result.id))
        return str(result.id)

    for _ in range(_LEAD if paced else 0):
        send("plain", work, "finish")
    send("poison", work, "kill")
    for _ in range(3):
        send("delayed", work, "finish", countdown=0.5)
        send("once", once)
        send("failing", work, "fail")
    for _ in range(2):
        send("early", early)
        send("retried", retried)
        send("refused", refused)
        if not paced:
            app.control.revoke(send("revoked", work, "finish", countdown=0.3))
    header = [work.s("finish") for _ in range(3)]
    body = chord(header)(app.tasks[f"{its}.gathered"].s())
    for each in (*body.parent.results, body):
        accept(Accepted("chord", each.id))
    for _ in range(30 if paced else 8):
        send("plain", work, "finish")


def _application(url: str) -> PoolApp:
    """Return an application that publishes the scenario to a server."""
    app = PoolApp("pooltasks", set_as_current=False)
    settings = Settings.load(redis_url=url, pools={"chaos": {"checkout_timeout": 3600}})
    app._extension = Extension(settings)  # noqa: SLF001  not those of this process
    for module in _OPERATIONS:
        app.loader.import_task_module(module)
    app.finalize()
    return app


class Scenario:
    """A deployment of one node, in which the scenario runs again and again.

    Args:
        folder: An empty folder.
        slots: Of each worker.
        paced: Whether operations come one by one.
    """

    def __init__(self, folder: Path, slots: int, *, paced: bool) -> None:
        self._folder = folder
        self._paced = paced
        self._cluster = Cluster(folder, nodes=0, workers=2, max_deliveries=2, control=False)
        configuration = Path(self._cluster.environment["POOLTASKS_CONFIG"])
        text = configuration.read_text().replace(
            'imports = ["chaos.operations"]', f"imports = {json.dumps(_OPERATIONS)}"
        )
        configuration.write_text(f"{text}slots = {slots}\n")
        path = folder / "fuse"
        self._fuse = Fuse(path)
        self._cluster.environment = {**self._cluster.environment, VARIABLE: str(path)}

    def __enter__(self) -> Self:
        cluster = self._cluster.__enter__()
        arguments = ("chaos.fuse", "celery", "-A", "pooltasks", "worker", "-l", "warning")
        node = Process(cluster, "node", cluster.url, *arguments, "-Q", QUEUE, "-n", "node@%h")
        cluster.nodes.append(node)
        self._port = int(cluster.url.rpartition(":")[2].removesuffix("/0"))
        self._app = _application(cluster.url)
        self._ready()
        return self

    def __exit__(self, *details: object) -> None:
        self._cluster.__exit__(*details)

    def _ready(self) -> None:
        """Wait until the node works."""
        work = self._app.tasks["chaos.operations.work"]
        work.delay("finish").get(timeout=60)

    def writes(self) -> dict[Role, int]:
        """Return how often each kind of process writes while the scenario runs."""
        self._fuse.light(self._port, None, 0, is_sent=False)
        accepted: list[Accepted] = []
        publish(self._app, accepted.append, paced=self._paced)
        self._settled(accepted)
        found = {role: self._fuse.written(role) for role in (Role.NODE, Role.WORKER)}
        if self._paced:
            return found
        self._fuse.light(self._port, None, 0, is_sent=False)
        self._settled(self._publish_elsewhere())
        return {**found, Role.PRODUCER: self._fuse.written(Role.PRODUCER)}

    def run(self, point: Point) -> Outcome:
        """Run the scenario with a process that is killed at a point."""
        self._ready()
        self._fuse.light(self._port, point.role, point.write, is_sent=point.is_sent)
        accepted: list[Accepted] = []
        if point.role is Role.PRODUCER:
            accepted = self._publish_elsewhere()
        else:
            publish(self._app, accepted.append, paced=self._paced)
        problems = self._settled(accepted)
        return Outcome(point, self._fuse.has_burnt(), len(accepted), problems)

    def _publish_elsewhere(self) -> list[Accepted]:
        """Publish in a process of its own, which may die; return the operations it saw accepted."""
        completed = subprocess.run(
            [sys.executable, "-m", "chaos.fuse", "chaos.points", self._cluster.url],
            env=self._cluster.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if completed.returncode not in (0, -9):
            raise RuntimeError(f"the producer failed: {completed.stderr}")
        return [Accepted(*line.split()) for line in completed.stdout.splitlines()]

    def _settled(self, accepted: Sequence[Accepted]) -> list[str]:
        """Wait until every operation has an end; return the problems."""
        kinds = {each.id: each.kind for each in accepted}
        # A kill may end an operation silently only if it is acknowledged before it starts.
        late = [each.id for each in accepted if each.kind != "early"]
        account = settle(self._cluster, late, _PATIENCE)
        problems = [f"{kinds[each]} {each} is lost" for each in account.lost]
        if account.waiting or account.reserved:
            problems.append(f"{account.waiting} wait, {account.reserved} are reserved still")
        starts = Counter(start.operation for start in self._cluster.runs)
        problems += [
            f"{each.kind} {each.id} has started {starts[noted(each.id)]} times"
            for each in accepted
            if each.kind in ("once", "early") and starts[noted(each.id)] > 1
        ]
        return problems


def points(
    folder: Path,
    share: int | None,
    seed: int,
    tell: Callable[[Outcome], None],
    *,
    slots: int,
    paced: bool,
) -> Report:
    """Run the scenario at each point, or at some of them.

    Args:
        folder: An empty folder.
        share: How many points; None: all.
        seed: Which ones.
        tell: Hears of each outcome.
        slots: Of each worker.
        paced: Whether operations come one by one, so that workers wait at the server themselves.
    """
    with Scenario(folder, slots, paced=paced) as scenario:
        every = [
            Point(role, write, is_sent)
            for role, writes in scenario.writes().items()
            for write in range(1, writes + 1)
            for is_sent in (False, True)
        ]
        chance = random.Random(seed)  # noqa: S311  repeatable
        its = every if share is None else chance.sample(every, min(share, len(every)))
        reached, failed = 0, []
        for point in its:
            outcome = scenario.run(point)
            tell(outcome)
            reached += outcome.was_reached
            if outcome.problems:
                failed.append({"point": str(point), "problems": outcome.problems})
        return Report(len(its), reached, failed)


def main() -> None:
    """Publish the scenario to the server that is named; print the accepted operations."""
    publish(_application(sys.argv[1]), lambda each: print(each.kind, each.id, flush=True))


if __name__ == "__main__":
    main()
