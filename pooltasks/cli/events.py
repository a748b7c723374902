"""``pool events``: the events of pools, past ones and those of now."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from pooltasks.app import settings_of
from pooltasks.broker.client import redis_client
from pooltasks.cli.durations import duration, in_words
from pooltasks.keys import CONTROL_POOL
from pooltasks.pools import Pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery
    from celery.bin.base import CLIContext

    from pooltasks.dashboard.events import EventLog

_LOOK_SECONDS = 1.0
_OVERLAP = 60.0
"""Seconds that are read again at each look: the sample of a slow node comes late."""
_MOST_ACTIONS = 1000


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a pool."""

    at: float
    """Server time in seconds since the epoch."""
    pool: str
    kind: str
    """``action`` of an operator, ``decision`` of the optimizer, else the kind of a node's event."""
    who: str
    """The operator, the optimizer, or the node."""
    text: str
    """A sentence for people."""


@dataclass
class PoolEvents:
    """The events of one pool, each told once.

    Args:
        app: The application.
        name: The pool.
    """

    app: Celery
    name: str
    _told: set[Event] = field(default_factory=set)
    _log: EventLog | None = None

    def new(self, seconds: float) -> Iterator[Event]:
        """Yield the events of the last ``seconds`` that were not told before.

        Raises:
            redis.RedisError: The server does not answer.
        """
        now, events = self._read(seconds)
        recent = [event for event in events if event.at > now - seconds]
        yield from (event for event in recent if event not in self._told)
        self._told = {*recent}

    def _read(self, seconds: float) -> tuple[float, list[Event]]:
        # A node loads this module too.
        from pooltasks.dashboard.audit import AuditLog
        from pooltasks.dashboard.decided import RecentDecisions
        from pooltasks.dashboard.events import EventLog

        pool, client = Pool(self.name, app=self.app), redis_client(self.app)
        queue, samples = pool.samples(seconds)
        if self._log is None:
            self._log = EventLog()
        decided = RecentDecisions(client, self.name, pool.settings.slots)
        decided.fetch(seconds, queue.at)
        events = [
            self._event(its["at"], its["kind"], its["node"].partition("/")[0], its["text"])
            for its in reversed(self._log.update(samples, queue.at))
        ]
        for its in decided.changes(queue.at, seconds):
            before = "Size" if its["acting"] else "Paused, would set size"
            text = f"{before} {its['from']} → {its['to']}: {its['reason']}"
            events.append(self._event(its["at"], "decision", "optimizer", text))
        for its in AuditLog(client, self.name).latest(_MOST_ACTIONS):
            text = f"{its['action']}: {its['outcome']}"
            events.append(self._event(its["at"], "action", its["user"], text))
        return queue.at, events

    def _event(self, at: float, kind: str, who: str, text: str) -> Event:
        return Event(at, self.name, kind, who, text)


@click.command(short_help="Show what happened to pools, a line for each event.")
@click.argument("pools", nargs=-1, metavar="[POOL]...")
@click.option("--last", default="10m", show_default=True, callback=duration, help="How far back.")
@click.option("-f", "--follow", is_flag=True, help="Go on, with each event when it happens.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line.")
@click.pass_obj
def events(
    context: CLIContext, pools: tuple[str, ...], last: float, follow: bool, as_json: bool
) -> None:
    """Show what happened to each POOL (default: all pools), a line each.

    Events are nodes that start, stop, fall silent or come back, workers that die,
    operations that lose their worker, sizes that change with the optimizer's reason,
    and what operators did. Nodes are heard for an hour. Ctrl-C ends --follow.
    """
    settings = settings_of(context.app)
    for name in pools:
        settings.pool_settings(name)
    its = [PoolEvents(context.app, name) for name in pools or (*settings.pools, CONTROL_POOL)]
    if not _tell(its, last, as_json=as_json) and not follow and not as_json:
        click.echo(f"Nothing happened in the last {in_words(last)}.")
    while follow:
        time.sleep(_LOOK_SECONDS)
        _tell(its, min(last, _OVERLAP), as_json=as_json)


def _tell(pools: list[PoolEvents], seconds: float, *, as_json: bool) -> int:
    """Print the new events, the oldest first; return how many."""
    found = [event for pool in pools for event in pool.new(seconds)]
    for event in sorted(found, key=lambda one: one.at):
        when = datetime.fromtimestamp(event.at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        line = f"{when}  {event.pool}  {event.text}  ({event.who})"
        click.echo(json.dumps(asdict(event)) if as_json else line)
    return len(found)
