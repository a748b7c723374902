"""Batches in a node: calls of one operation that wait for each other, and go to a worker together.

To the dispatch a batch is one job. What becomes of it is told to the request of each call.
A worker sends the end of each call by itself, so those whose end is known are not lost with it.

When a worker dies in a batch of several, nobody knows which call is to blame. Each is a
*suspect*, as what runs beside others in slots: nothing is counted, and it runs alone from
then on. So does everything that comes back from a worker or a node that died.
"""

from __future__ import annotations

import marshal
from typing import TYPE_CHECKING, Any
from weakref import ref

from celery.utils.log import get_logger

from pooltasks.broker.results import StoredResult
from pooltasks.node.worker.outcome import Ending
from pooltasks.node.workforce.jobs import Blame, Call, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from pooltasks.batching import Batching
    from pooltasks.node.intake.request import OperationRequest
    from pooltasks.node.workforce.jobs import Job, JobPool

logger = get_logger(__name__)


class _Member:
    """A call of a batch: what its request ends when it is revoked.

    Args:
        batch: Its batch.
        request: Its request.
        payload: What goes to a worker of it.
    """

    def __init__(self, batch: Batch, request: OperationRequest, payload: bytes) -> None:
        self._batch = batch
        self.request = request
        self.payload = payload
        self.is_terminated = False

    def terminate(self, signal: int) -> None:
        """Have the batch's worker be ended; the other calls run again."""
        self.is_terminated = True
        if self._batch.job is not None:
            self._batch.job.terminate(signal)


class Batch:
    """Calls of one operation; it hears what becomes of their job.

    Args:
        name: The operation's.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.job: Job | None = None
        """None while calls are gathered."""
        self.members: dict[int, _Member] = {}
        """Calls that have not ended, by their places in what went to the worker."""
        self._is_alone = True

    def add(self, request: OperationRequest, payload: bytes) -> _Member:
        """Add a call."""
        member = self.members[len(self.members)] = _Member(self, request, payload)
        return member

    def call(self) -> Call:
        """Return what goes to a worker; what was revoked meanwhile does not."""
        members = [one for one in self.members.values() if not one.request.revoked()]
        self.members = dict(enumerate(members))
        self._is_alone = len(members) == 1
        return Call(
            Kind.BATCH,
            self.name,
            marshal.dumps([one.payload for one in members]),
            wants_traceback=any(one.request.has_listener() for one in members),
        )

    def limits(self) -> tuple[float | None, float | None]:
        """Return the soft and the hard limit: the longest of any call, as they run together."""
        hard, soft = zip(*(one.request.time_limits for one in self.members.values()), strict=True)
        return _longest(soft), _longest(hard)

    def is_live(self) -> bool:
        """Return whether its calls wait here or in a worker."""
        return bool(self.members) and (self.job is None or self.job.is_wanted())

    def buries(self, _: Ending) -> bool:
        """Return False: the results of its calls are stored one by one."""
        return False

    def on_accepted(self, pid: int, at: float) -> None:
        """Worker ``pid`` began it ``at`` (monotonic seconds)."""
        for member in self.members.values():
            self._tell(member.request.on_accepted, pid, at)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Note that a limit has passed; the hard one ends the calls that have no end."""
        for member in list(self.members.values()) if soft else self._rest():
            self._tell(member.request.on_timeout, soft, timeout)

    def on_part(self, place: int, ending: Ending, stored: StoredResult | None) -> None:
        """One of its calls ended."""
        self._tell(self.members.pop(place).request.on_ended, ending, stored)

    def on_ended(self, ending: Ending, _: StoredResult | None) -> None:
        """It ended. It leaves calls without an end if it made its worker leave."""
        for member in self._rest():
            text = f"Worker exited prematurely: {ending.text}"
            self._tell(member.request.on_lost, text, self._blame(Blame.CERTAIN))

    def on_lost(self, error: str, blame: Blame) -> None:
        """Note that its worker is gone."""
        for member in self._rest():
            self._tell(member.request.on_lost, error, self._blame(blame))

    def on_terminated(self, signal: str) -> None:
        """Note that its worker was ended for calls that were revoked; the rest is innocent."""
        for member in self._rest():
            if member.is_terminated:
                self._tell(member.request.on_terminated, signal)
            else:
                error = "its worker was ended because another call of the batch was revoked"
                self._tell(member.request.on_lost, error, Blame.INNOCENT)

    def _blame(self, blame: Blame) -> Blame:
        return blame if self._is_alone or blame is Blame.INNOCENT else Blame.SUSPECT

    def _rest(self) -> list[_Member]:
        rest = list(self.members.values())
        self.members.clear()
        return rest

    @staticmethod
    def _tell(hear: Callable[..., None], *what: Any) -> None:
        try:
            hear(*what)
        except Exception:  # what one of them makes of it is not to keep it from the others
            logger.exception("a call of a batch could not be told what became of it")


class Gatherer:
    """Gathers calls for batches, in a node's event loop.

    Args:
        submit: Has a worker run a call, as the pool's ``submit``.
    """

    def __init__(self, submit: Callable[..., Job | None]) -> None:
        self._submit = submit
        self._hub: Any = None
        self._open: dict[str, tuple[Batch, Batching]] = {}
        self._sent: list[Batch] = []

    def start(self, hub: Any) -> None:
        """Attach to an event loop; called again when the loop starts anew."""
        self._hub = hub
        for batch, its in self._open.values():
            hub.call_later(its.wait, self._send, batch)

    def add(self, request: OperationRequest, payload: bytes, its: Batching) -> ref[_Member]:
        """Have a call go to a worker with others; return what its request may terminate.

        Args:
            request: The call's.
            payload: What goes to a worker of it.
            its: How the operation's calls are gathered.
        """
        name = request.name
        if name not in self._open:
            self._open[name] = Batch(name), its
            self._hub.call_later(its.wait, self._send, self._open[name][0])
        batch = self._open[name][0]
        member = batch.add(request, payload)
        if len(batch.members) >= its.size:
            self._send(batch)
        return ref(member)

    def _send(self, batch: Batch) -> None:
        open_one, _ = self._open.get(batch.name, (None, None))
        if open_one is not batch:
            return  # it was full before its time
        del self._open[batch.name]
        call = batch.call()
        if not batch.members:
            return
        batch.job = self._submit(call, batch, limits=batch.limits(), correlation_id=None)
        self._sent = [*filter(Batch.is_live, self._sent), batch]

    def room(self) -> int:
        """Return for how many messages there is room beside those of single operations.

        A batch takes the place of one. While one is gathered, as many more messages as it has
        are asked for: soon it is full, and a node gets not much ahead of others that is not for it.
        """
        if not self._open and not self._sent:
            return 0
        gathered = [(len(batch.members), its.size) for batch, its in self._open.values()]
        sent = [len(batch.members) for batch in self._sent if batch.is_live()]
        ahead = max((min(size - has, has) for has, size in gathered), default=0)
        return ahead + sum(has - 1 for has, _ in gathered) + sum(has - 1 for has in sent)

    def is_empty(self) -> bool:
        """Return whether no call waits for others."""
        return not self._open

    def forget(self) -> None:
        """Forget the calls that wait: other nodes run them."""
        self._open.clear()


def take_part(  # noqa: PLR0917  what a worker sends
    jobs: JobPool,
    on_result: Callable[[StoredResult], None],
    key: int,
    place: int,
    ending: tuple[Any, ...],
    stored: tuple[Any, ...] | None,
) -> None:
    """Take what a worker sent of a call of a batch that is done.

    Args:
        jobs: The pool.
        on_result: Takes the result that the worker made for the caller.
        key: Of the batch's job.
        place: Of the call in its batch.
        ending: How it ended.
        stored: What its caller is to get.
    """
    job = jobs.jobs.get(key)
    batch = None if job is None else job.owner
    if not isinstance(batch, Batch) or place not in batch.members:
        return  # it was given up: ended by its time limit, or reserved anew
    ended = Ending(*ending)
    result = None if stored is None else StoredResult(*stored)
    if result is not None and not batch.members[place].request.buries(ended):
        on_result(result)
    batch.on_part(place, ended, result)


def _longest(limits: tuple[float | None, ...]) -> float | None:
    given = [limit for limit in limits if limit is not None]
    return max(given) if len(given) == len(limits) else None
