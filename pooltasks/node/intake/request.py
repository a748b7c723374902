"""A node's request: its knowledge of one operation between reserving and completing it."""

from __future__ import annotations

import marshal
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from celery import signals
from celery.app.task import Context
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.request import Request

from pooltasks import keys
from pooltasks.broker.dead_letters import deliveries_of, with_attempt
from pooltasks.node.intake.checks import check_arguments, check_body, check_eta
from pooltasks.node.intake.failures import Failure
from pooltasks.node.intake.message import Message
from pooltasks.node.intake.reports import LONGEST, FailureReport, bury, plain_result, refusal_text
from pooltasks.node.worker.outcome import Fate, How
from pooltasks.node.workforce.jobs import Blame, Call, Kind
from pooltasks.pool_settings import PoolSettings
from pooltasks.task import Operation
from pooltasks.time_limits import seconds_left, time_limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from pooltasks.broker.dead_letters import Attempt
    from pooltasks.broker.results import StoredResult
    from pooltasks.node.worker.outcome import Ending
    from pooltasks.node.workforce.task_pool import TaskPool

logger = get_logger(__name__)


class OperationRequest(Request):
    """Celery's request; it hears how the operation ended as plain data (``outcome.py``)."""

    pool: Any = None  # the node's
    is_plain = False
    """Whether it is of no application's class: nothing of it is missed by a worker's own wait."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_body(self._payload)
        check_arguments(self._task, self.name, self._args, self._kwargs)
        check_eta(self._eta)

    def revoked(self) -> bool:
        """Return whether it is not to run; what a worker has begun goes on."""
        loans = getattr(self.pool, "loans", None)
        return not (loans and loans.takes_begun) and bool(super().revoked())

    def run_in(self, pool: TaskPool) -> None:
        """Have a worker of ``pool`` run the operation, unless it is revoked or to be buried."""
        deliveries = deliveries_of(self._message.headers)
        if deliveries >= self._pool_settings().max_deliveries and not self.acknowledged:
            self._poisoned(deliveries, self._message.headers.get("attempts"))
            return
        if self.revoked():
            return
        if self._message.headers.get("interrupted") and self._must_not_repeat:
            state.task_ready(self)
            error = f"{self.name} had started when its node ended; it does not run twice."
            self._report(Failure("WorkerLostError", error), self._acknowledge_late)
            self._failed(f"WorkerLostError({error!r})")
            return
        call = (self._type, self.id, self._plain_headers(), self._body)
        try:
            payload = marshal.dumps((*call, self._content_type, self._content_encoding))
        except ValueError as error:
            self._finish_plainly(f"rejected: it is no plain data: {error}")
            return
        message = self._message
        start = partial(self._start_once, pool, payload)
        if not isinstance(message, Message) or not (self._must_not_repeat or self._acks_first):
            self._start(pool, payload)
        elif self._acks_first:
            message.channel.reservations.acknowledge_first(message.delivery_tag, start)
        else:
            # Its node may die: the node that finds the reservation sees that it had started.
            message.channel.reservations.start(message.delivery_tag, start)

    def _start_once(self, pool: TaskPool, payload: bytes) -> None:
        if not self.revoked():
            self._start(pool, payload)

    def _start(self, pool: TaskPool, payload: bytes) -> None:
        batching = getattr(self._task, "batching", None)
        # What comes back from a worker or node that died may be the reason: it goes alone.
        if batching is not None and not self._delivery_info.get("redelivered"):
            self._apply_result: Any = pool.gatherer.add(self, payload, batching)
            return
        hard, soft = self.time_limits
        job = pool.submit(
            Call(
                Kind.OPERATION,
                self._type,
                payload,
                reservation=self._message.delivery_tag,
                suspect=bool(self._message.headers.get("suspect")),
                is_acknowledged=self._acks_first and isinstance(self._message, Message),
                wants_traceback=self.has_listener(),
            ),
            self,
            limits=(soft, hard),
            correlation_id=self.id,
        )
        self._apply_result = None if job is None else ref(job)

    @property
    def _acks_first(self) -> bool:
        return not self._task.acks_late

    @property
    def _must_not_repeat(self) -> bool:
        return bool(self._task.acks_late and not self._task.reject_on_worker_lost)

    @property
    def eta(self) -> Any:
        """Return None: what the intake hands over is due. With kombu's transport Celery waits."""
        return None if isinstance(self._message, Message) else super().eta

    def _plain_headers(self) -> dict[str, Any]:
        """Return what the worker makes its request of; it reads the arguments from the body."""
        headers = dict(self._request_dict)
        headers.pop("args")
        headers.pop("kwargs")
        return headers

    @cached_property
    def _context(self) -> Context:
        """The request as receivers of Celery's signals get it."""
        _, _, embed = self._payload
        return Context({**self._request_dict, **(embed or {})})

    def has_listener(self) -> bool:
        """Return whether somebody listens to Celery's events of the operation."""
        return bool(self._eventer and self._eventer.enabled and self._task.send_events)

    def buries(self, ending: Ending) -> bool:
        """Return whether the result is stored with a dead letter."""
        return ending.fate == Fate.BURY

    def on_ended(self, ending: Ending, stored: StoredResult | None) -> None:
        """Do with the message what the worker says; ``stored`` is the result if it is ours."""
        how = ending.how
        # Celery keeps the ids of what succeeded for the process that runs tasks: not this one.
        state.task_ready(self)
        if how == How.SUCCEEDED:
            self._acknowledge_late()
            self.send_event("task-succeeded", result=ending.text, runtime=ending.seconds)
            return
        if how == How.LEFT:
            self._lost(f"Worker exited prematurely: {ending.text}", Blame.CERTAIN)
        elif not ending.is_told and stored is None:
            failure = Failure("MessageRefusedError", f"{self.name} failed: {ending.text}")
            reason = f"nobody can be told that it failed: {ending.text}"
            self._finish_plainly(ending.reason or reason, failure)
            self._failed(ending.text, ending.traceback)
        elif ending.fate == Fate.GIVE_BACK:
            self.reject(requeue=True)
        elif ending.fate == Fate.BURY:
            self._bury(ending.reason or "", history=ending.attempts, result=stored)
            self._failed(ending.text, ending.traceback)
            if how == How.REJECTED:
                self.send_event("task-rejected", requeue=False)
        elif how == How.RETRIED:
            self._acknowledge_late()
            self.send_event("task-retried", exception=ending.text, traceback=ending.traceback)
        elif how == How.IGNORED:
            self.acknowledge()
        else:
            self._acknowledge_late()
            self._failed(ending.text, ending.traceback)

    def _acknowledge_late(self) -> None:
        if self._task.acks_late:
            self.acknowledge()

    def _failed(self, text: str | None, traceback: str | None = None) -> None:
        self.send_event("task-failed", exception=text, traceback=traceback)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Tell of a limit that has passed; with the hard one the operation has ended."""
        if self.pool is None:  # in a plain worker of Celery's
            super().on_timeout(soft, timeout)
            return
        if soft:
            logger.warning("Soft time limit (%ss) exceeded for %s[%s]", timeout, self.name, self.id)
            return
        state.task_ready(self)
        logger.error("Hard time limit (%ss) exceeded for %s[%s]", timeout, self.name, self.id)
        ends = self._acknowledge_late
        if self._task.acks_late and not self._task.acks_on_timeout:
            ends = partial(self.reject, requeue=True)
        self._report(Failure("TimeLimitExceeded", timeout), ends)
        self._failed(f"TimeLimitExceeded({timeout!r})")

    def on_lost(self, error: str, blame: Blame) -> None:
        """Give back an operation whose worker died, or tell that it is lost."""
        state.task_ready(self)
        self._lost(error, blame)

    def _lost(self, error: str, blame: Blame) -> None:
        """Count the death of a worker; what has killed too many becomes a dead letter."""
        if self._already_cancelled or self._already_revoked:
            return  # it was ended because of that
        task, text = self._task, f"WorkerLostError({error!r})"
        # A part of a chord is counted after its success is stored: run again, it is counted once.
        if self.chord is None and self._success_was_stored():
            logger.warning("%s[%s] succeeded before its worker was lost", self.name, self.id)
            self._acknowledge_late()
            self.send_event("task-succeeded", result=None, runtime=None)
            return
        if task.acks_late and task.reject_on_worker_lost and not self.acknowledged:
            deliveries = deliveries_of(self._message.headers)
            attempts = self._attempts(text)
            if blame is Blame.CERTAIN:
                deliveries += 1
            if deliveries >= self._pool_settings().max_deliveries:
                self._poisoned(deliveries, attempts)
                return
            self._give_back(deliveries, attempts, suspect=blame is Blame.SUSPECT)
            return
        ends = self._acknowledge_late
        if task.acks_late and not task.acks_on_failure:
            ends = partial(self._bury, f"its worker was lost: {error}")
        self._report(Failure("WorkerLostError", error), ends)
        self._failed(text)

    def _give_back(self, deliveries: int, attempts: list[Attempt], *, suspect: bool) -> None:
        """Put the message back into its queue, with what is known of it."""
        message = self._message
        if hasattr(message, "give_back"):
            message.give_back(deliveries, attempts=attempts, suspect=suspect)
            self.acknowledged = True
            self.send_event("task-rejected", requeue=True)
            return
        # Celery's own transport has reserved it, and gives back the headers as they are here.
        message.headers.update(deliveries=deliveries, attempts=attempts, suspect=suspect)
        self.reject(requeue=True)

    def on_terminated(self, signal: str) -> None:
        """Tell that it was revoked while it ran, or before it began."""
        state.task_ready(self)
        if not self._already_cancelled and not self._already_revoked:
            self._announce_revoked("terminated", True, signal, False)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        if self.pool is None:  # in a plain worker of Celery's
            super()._announce_revoked(reason, terminated, signum, expired)
            return
        state.task_ready(self)
        self.send_event("task-revoked", terminated=terminated, signum=signum, expired=expired)
        self._already_revoked = True
        failure = Failure("TaskRevokedError", reason)
        if self.chord is None and self.pool.is_running():
            # Only the caller hears of it.
            if self.store_errors:
                result = plain_result(self._app, self.id, failure.exception(), failure.state)
                if result is not None:
                    self.pool.keep_result(result)
            self.acknowledge()
        else:
            self._report(failure, self.acknowledge)
        signals.task_revoked.send(
            sender=self._task,
            request=self._context,
            terminated=terminated,
            signum=signum,
            expired=expired,
        )

    @cached_property
    def chord(self) -> Any:
        """The body of the chord that the operation is a part of."""
        _, _, embed = self._payload
        return (embed or {}).get("chord")

    def _poisoned(self, deliveries: int, attempts: Any) -> None:
        """Make the operation a dead letter, and tell its caller."""
        reason = f"{self.name} killed its worker or node at each of {deliveries} deliveries"
        logger.error("%s; it is a dead letter now: %s", reason, self.id)
        text = f"{reason}. See: pooltasks dead show {self._app.pooltasks.pool} {self.id}"
        self._report(
            Failure("PoisonedError", text),
            partial(self._bury, reason, history=attempts),
            reason=reason,
            history=attempts,
        )
        self._failed(f"PoisonedError({text!r})")

    def _report(
        self,
        failure: Failure,
        ends: Callable[..., None],
        *,
        reason: str = "",
        history: Any = None,
    ) -> None:
        """Have a worker tell of a failure, and end the message's reservation then.

        Args:
            failure: The failure.
            ends: Ends the reservation. If it buries the message, it takes ``result``.
            reason: Of the dead letter, if it becomes one.
            history: The attempts that failed.
        """
        # Its reservation outlives a new connection, as that of what runs.
        state.active_requests.add(self)
        buries = isinstance(ends, partial) and ends.func == self._bury

        def finish(stored: StoredResult | None) -> None:
            state.active_requests.discard(self)
            if buries:
                ends(result=stored)
            else:
                ends()

        def give_up(why: str, stored: StoredResult | None) -> None:
            state.active_requests.discard(self)
            self._bury(f"{reason}; {why}" if reason else why, history=history, result=stored)

        report = FailureReport(
            self._app,
            failure,
            self._plain_headers(),
            self._body,
            stores=self.store_errors,
            finish=finish,
            give_up=give_up,
            buries=buries,
            reason=reason or None,
        )
        report.send(self.pool, self.time_limits[0] or LONGEST)

    def _finish_plainly(self, reason: str, failure: Failure | None = None) -> None:
        """Make the message a dead letter and tell the caller, here: no worker can."""
        if failure is None:
            failure = Failure("MessageRefusedError", refusal_text(self._app, self.id, reason))
        result = None
        if self.store_errors:
            result = plain_result(self._app, self.id, failure.exception())
        self.pool.errors.found(failure.exception(), self._message.headers, reason=reason)
        self._bury(reason, result=result)

    def _bury(
        self, reason: str, *, history: Any = None, result: StoredResult | None = None
    ) -> None:
        """Keep the message as a dead letter; store its result in the same step."""
        if history is None:
            history = self._message.headers.get("attempts")
        bury(self._app, self._message, reason, history=history, result=result)
        self.acknowledged = True

    def _attempts(self, error: str) -> list[Attempt]:
        """Return the failed attempts, this one the last."""
        now = self._app.pooltasks.clock.now()
        return with_attempt(self._message.headers.get("attempts"), now, error)

    _asked: tuple[float | None, float | None] = (None, None)

    @property
    def time_limits(self) -> tuple[float | None, float | None]:
        """Hard and soft limit in seconds, as Celery orders them."""
        hard, soft = self._asked
        task: Any = self._task
        if not isinstance(task, Operation):  # a plain Celery task has Celery's limits
            return hard or task.time_limit, soft or task.soft_time_limit
        asks_pool = soft is None and self._is_in_a_pool()
        of_pool = self._pool_settings().operation_timeout if asks_pool else None
        left = seconds_left(self._request_dict, self._app.pooltasks.clock.now)
        return time_limits(self._asked, task, of_pool, left)

    @time_limits.setter
    def time_limits(self, asked: tuple[float | None, float | None]) -> None:
        hard, soft = asked
        self._asked = hard, soft

    def _is_in_a_pool(self) -> bool:
        """Return whether it came from a pool's queue, and not from a plain one of Celery's."""
        queue = self._delivery_info.get("routing_key") or ""
        return self._app.pooltasks.pool is not None or queue.startswith(keys.QUEUE_PREFIX)

    def _pool_settings(self) -> PoolSettings:
        if not self._is_in_a_pool():
            return PoolSettings()  # a plain worker's
        extension = self._app.pooltasks
        queue = self._delivery_info.get("routing_key") or ""
        pool = extension.pool or queue.removeprefix(keys.QUEUE_PREFIX)
        settings: PoolSettings = extension.settings.pool_settings(pool)
        return settings
