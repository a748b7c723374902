"""Celery's side of a node's pool: what the worker program calls."""

from __future__ import annotations

import gc
import time
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from billiard.util import get_pdeathsig
from celery.concurrency import prefork

from pooltasks import keys, telemetry
from pooltasks.broker.client import impatient_client
from pooltasks.errors import ConfigurationError
from pooltasks.node.intake.backlog import Backlog
from pooltasks.node.intake.controls import limited_operations
from pooltasks.node.scoreboard.error_log import ErrorLog, sent_by
from pooltasks.node.scoreboard.sampler import Sampler, Workforce
from pooltasks.node.scoreboard.scoreboard import Scoreboard
from pooltasks.node.worker.shortcut import Claims
from pooltasks.node.worker.warmup import Plan
from pooltasks.node.workforce.batches import Gatherer
from pooltasks.node.workforce.headroom import Headroom
from pooltasks.node.workforce.process_pool import ProcessPool
from pooltasks.node.workforce.sharing import AHEAD_OF_TURNS
from pooltasks.node.workforce.upkeep import Upkeep

if TYPE_CHECKING:
    from pooltasks.broker.results import StoredResult
    from pooltasks.node.intake.intake import Intake
    from pooltasks.pool_settings import PoolSettings, WarmUp


class TaskPool(prefork.TaskPool):
    """Celery's prefork pool made of a :class:`ProcessPool`."""

    _pool: ProcessPool

    is_debugging = False
    """Whether operations run in the node's own process, under a debugger."""
    workers_class: type = ProcessPool
    uses_semaphore = False
    """Reserved operations go to the dispatch at once, which knows how many a worker can have."""

    intake: Intake
    """The source of messages; with kombu's own transport there is none."""
    draining = False
    """Whether the node reserves nothing more."""
    _token: int | None = None

    @cached_property
    def slots(self) -> int:
        """How many operations a worker runs at once."""
        extension = self.app.pooltasks
        settings: PoolSettings = extension.settings.pool_settings(extension.pool)
        return settings.slots

    @cached_property
    def results(self) -> list[StoredResult]:
        """Results that the workers have sent and the intake has not taken yet."""
        return []

    @cached_property
    def claims(self) -> Claims:
        """The operations that workers may complete themselves."""
        return Claims()

    def on_start(self) -> None:
        """Fork the workers, from a parent whose memory is ready to be shared."""
        if not self.forking_enable:
            raise ConfigurationError(
                "A node forks its workers from a warm parent; "
                "worker_pool_start_method must be 'fork'."
            )
        extension = self.app.pooltasks
        settings = extension.settings.pool_settings(extension.pool)
        plan = Plan.of(extension.pool, settings, self.limit + settings.spares)
        self.scoreboard = Scoreboard()
        _, hostname = self.options["initargs"]
        self.errors = ErrorLog(
            extension.pool,
            hostname,
            now=extension.clock.now,
            send=sent_by(impatient_client(self.app))
            if self._is_stock
            else self.intake.sender.errors,
        )
        if not self._is_stock:
            self.intake.errors = self.errors
        self.max_deliveries = settings.max_deliveries
        self.Pool = partial(
            self.workers_class,
            plan=plan,
            scoreboard=self.scoreboard,
            stores=self._is_stock,
            queued=self._queued,
            accepts_first=self._acknowledges_first,
            claims=self.claims,
            on_result=self.keep_result,
            on_error=self.errors.add,
        )
        self._backlog = Backlog(self.app, extension.pool) if self._is_stock else self.intake
        self.sampler: Sampler | None = None
        if settings.enable_metrics:
            self._headroom = Headroom(self.slots)
            self.sampler = Sampler(
                self.app,
                extension.pool,
                hostname,
                self.scoreboard,
                self._workforce,
                room=self._room,
                send=None if self._is_stock else self.intake.sender.sample,
                errors=self.errors,
            )
        # Every worker asks for it first of all, and billiard may import a parser of C to do so.
        with suppress(OSError):  # no Linux: the workers do without
            get_pdeathsig()
        # Everything imported so far is shared by all workers for ever: a
        # collection that touches it in one of them would copy the page.
        gc.collect()
        gc.freeze()
        super().on_start()
        limits = limited_operations(self.app, keys.queue(extension.pool)).values()
        if any(its.fair for its in limits):
            self._pool.dispatch.ahead = AHEAD_OF_TURNS
        self.loans = self._pool.loans
        if not self._is_stock and not self.is_debugging:
            self.intake.lend_with(self.loans)
        self.submit = self._pool.dispatch.submit
        self.gatherer = Gatherer(self.submit)
        self.flush = self._flush
        self.grow, self.shrink = self._add, lambda n=1: self._add(-n)
        self._upkeep = Upkeep(self._pool, extension.pool, settings)
        self._started_at = time.monotonic()
        telemetry.execute("pool.init", {"size": self.limit}, {"pool": extension.pool})

    def _room(self, busy: float) -> int | None:
        sizing = self._pool.sizing
        sizing.room = self._headroom.room(sizing.warm, busy)
        return sizing.room

    def _queued(self) -> int:
        """Return how many operations are in the queue, to which the node may help itself."""
        return 0 if self.draining else self._backlog.length()

    def _acknowledges_first(self, name: str) -> bool:
        return not self.app.tasks[name].acks_late

    def keep_result(self, stored: StoredResult) -> None:
        """Keep a result for the intake's next step; with kombu's transport, store it now."""
        if self._is_stock:
            self.app.backend.store_now(stored)
        else:
            self.results.append(stored)

    @property
    def _is_stock(self) -> bool:
        return bool(self.app.pooltasks.settings.broker_transport == "stock")

    def is_running(self) -> bool:
        """Return whether the pool takes operations."""
        return self._pool is not None and self._pool.is_running()

    def hand_out(self) -> None:
        """Write what waits to workers that have room, without the loop's next turn."""
        self._pool.dispatch.hand_out()

    def recall(self) -> None:
        """Have no worker begin anything more."""
        self.loans.recall()
        self._pool.dispatch.recall()

    def forget_what_has_not_begun(self) -> bool:
        """Forget what no worker has begun, some milliseconds after :meth:`recall`.

        Returns:
            Whether it is known of everything else that a worker has begun it. If it is not,
            workers are about to say so: what was forgotten is to be told again then.
        """
        self._flush()
        return self._pool.dispatch.is_decided()

    def _flush(self) -> None:
        self.gatherer.forget()
        self._pool.flush()

    def is_idle(self) -> bool:
        """Return whether no operation is in the pool."""
        has_jobs = self._pool.dispatch.jobs or self.loans.is_out()
        return self.gatherer.is_empty() and not has_jobs

    def depth(self) -> int:
        """Return how many operations a slot can have at a time."""
        return self._pool.dispatch.depth()

    def register_with_event_loop(self, loop: Any) -> None:
        """Attach to the loop; called again after each reconnection."""
        super().register_with_event_loop(loop)
        self.gatherer.start(loop)
        if self.sampler is not None:
            self.sampler.start(loop)
        self._upkeep.start(loop)

    def on_stop(self) -> None:
        """Let the workers finish, then end them."""
        pool = self._pool
        super().on_stop()
        self._after_stop(pool)

    def on_terminate(self) -> None:
        """End the workers at once."""
        pool = self._pool
        super().on_terminate()
        self._after_stop(pool)

    def _after_stop(self, pool: ProcessPool | None) -> None:
        if pool is None:  # it was stopped before
            return
        pool.ended()
        if self.sampler is not None:
            self.sampler.sample(stopped=True)
        telemetry.execute(
            "pool.terminate",
            {"age": time.monotonic() - self._started_at},
            {"pool": self.app.pooltasks.pool},
        )

    def did_start_ok(self) -> bool:
        """Return True: a worker that failed is retried, and never ends the node."""
        self._pool.maintain_pool()
        return True

    @property
    def num_processes(self) -> int:
        """How many slots are to serve; Celery derives the prefetch count from it."""
        return self._pool.sizing.size * self.slots

    def resize(
        self,
        size: int,
        spares: int | None = None,
        token: int | None = None,
        overflow: int | None = None,
    ) -> None:
        """Set the exact size of the node, within the pool's bounds.

        Args:
            size: How many workers serve.
            spares: How many more are kept warm; as many as before if None.
            token: Number of the lock under which an optimizer decided this.
            overflow: How many temporary workers there may be; as many as before if None.

        Raises:
            ValueError: The numbers are none, or a later lock has been seen.
        """
        given = {"size": size, "spares": spares, "token": token, "overflow": overflow}
        for name, number in given.items():
            if number is None and name != "size":
                continue
            if not isinstance(number, int) or isinstance(number, bool) or number < 0:
                raise ValueError(f"{name} is {number!r}; allowed: a whole number from 0.")
        if token is not None:
            if self._token is not None and token < self._token:
                raise ValueError(
                    f"token {token} is refused: {self._token} has been seen, so another "
                    "optimizer has taken over."
                )
            self._token = token
        floor, ceiling = self.bounds
        most = None if spares is None else min(spares, ceiling)
        if overflow is not None:
            self._pool.sizing.overflow.most = min(overflow, ceiling)
        self._pool.resize(min(max(size, floor), ceiling), most)
        self.limit = self._pool.sizing.size

    def _add(self, n: int = 1) -> None:
        """Do what Celery's own ``pool_grow`` and ``pool_shrink`` ask for, or refuse it whole.

        Celery changes the prefetch count by as much afterwards.
        """
        floor, ceiling = self.bounds
        size = self._pool.sizing.size + n
        if not floor <= size <= ceiling:
            raise ValueError(f"The size would be {size}; allowed: {floor} to {ceiling}.")
        self.resize(size)

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest size of this node."""
        extension = self.app.pooltasks
        settings = extension.settings.pool_settings(extension.pool)
        return settings.min_pool_size, settings.max_pool_size

    def sizes(self) -> dict[str, Any]:
        """Return what is true of the node's size at this moment.

        Returns:
            ``size``, without overflow, and its bounds ``floor`` and ``ceiling``; ``warm``: workers
            that are given operations; ``cold``: how many are lacking to the
            size; ``warming``: workers that are not warm yet, or just being forked; ``spares``: warm
            workers in reserve, ``spares_wanted``: how many there are to be;
            ``overflow``: temporary ones among the warm, ``max_overflow``: how many there may be;
            ``busy``: workers that have an operation; ``slots``: how many operations
            each runs at once; ``token``: the last one; ``debugging``: whether there is no worker
            process, and operations run in the node itself.
        """
        sizing = self._pool.sizing
        staff = sizing.staff()
        floor, ceiling = self.bounds
        return {
            "size": sizing.size,
            "floor": floor,
            "ceiling": ceiling,
            "warm": len(staff.serving),
            "cold": max(0, sizing.size - len(staff.serving)),
            "warming": len(staff.cold) + sizing.coming,
            "spares": len(staff.resting),
            "spares_wanted": sizing.spares,
            "overflow": self.overflow,
            "max_overflow": sizing.overflow.most,
            "busy": len(staff.busy),
            "slots": self.slots,
            "token": self._token,
            "debugging": self.is_debugging,
        }

    def _workforce(self) -> Workforce:
        if self._pool is None:
            return Workforce(0, 0, 0, 0, 0, ())
        sizing = self._pool.sizing
        staff = sizing.staff()
        pids = (*staff.serving, *staff.resting, *staff.cold)
        return Workforce(
            size=sizing.size,
            warm=len(staff.serving),
            warming=len(staff.cold) + sizing.coming,
            spares=len(staff.resting),
            overflow=self.overflow,
            pids=pids,
            draining=self.draining or self.is_retired,
        )

    @property
    def is_retired(self) -> bool:
        """Whether another version of the code runs what waits in the pool, and this one nothing."""
        return not self._is_stock and self.intake.session.is_retired

    @property
    def overflow(self) -> int:
        """How many temporary workers are given operations."""
        return self._pool.sizing.temporary()

    def warm_and_cold(self) -> tuple[int, int]:
        """Return how many workers take operations and how many do not yet."""
        warm = len(self._pool.sizing.serving)
        return warm, max(0, self._pool.sizing.size - warm)

    def warm_again(self, order: WarmUp) -> int:
        """Ask every warm worker to run ``order``; return the number of the round."""
        return self._pool.warm_again(order)

    def warm_up_report(self, number: int | None = None) -> dict[str, Any]:
        """Return the merged report of a round, or of each worker's last warm-up.

        The latter has ``last_failure`` too: what failed in the last warm-up, in a line; None
        once one has succeeded since.

        Args:
            number: The round, as :meth:`warm_again` returned it.
        """
        return self._pool.warm_ups.report(number)

    def workers(self) -> list[dict[str, Any]]:
        """Return what is known of each worker.

        Returns:
            ``pid``; ``state``: ``warm`` (it is given operations), ``spare`` or
            ``warming``; ``busy``; ``outgoing``: it is being replaced; and as
            :meth:`Upkeep.report` ``cpu``, ``memory``, ``age``, ``operations``, ``health``.
        """
        staff = self._pool.sizing.staff()
        states = {
            **dict.fromkeys(staff.serving, "warm"),
            **dict.fromkeys(staff.resting, "spare"),
            **dict.fromkeys(staff.cold, "warming"),
        }
        return [
            {
                "pid": process.pid,
                "state": states[process.pid],
                "busy": process.pid in staff.busy,
                "outgoing": process.pid in staff.outgoing,
                **self._upkeep.report(process),
            }
            for process in self._pool._pool  # noqa: SLF001  billiard's name
            if process.pid in states
        ]
