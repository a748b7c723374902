"""One pool as discrete events: a first-in-first-out queue, nodes, workers and a policy.

A worker here has one slot. An arrival costs O(1), everything else one push and
one pop on a heap of at most (workers + a few) events: n events cost
O(n log workers).
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from heapq import heapify, heappop, heappush
from random import Random
from typing import TYPE_CHECKING

from pooltasks.optimizer.overflow import LOOK
from pooltasks.optimizer.policies.observation import Observation
from pooltasks.simulator.holding import Holding
from pooltasks.simulator.node import Node
from pooltasks.simulator.run import Run, late_of

if TYPE_CHECKING:
    from pooltasks.optimizer.policies.observation import Policy
    from pooltasks.simulator.conditions import Conditions
    from pooltasks.simulator.workloads import Arrivals


class _Kind:
    """Kinds of events: plain integers, because the heap compares them."""

    DONE, WARM, ACTUATE, CRASH, NODE_DOWN, NODE_UP, REDELIVER, LOOK, GO_ON, TICK = range(10)


class Simulation:
    """One run of ``policy`` on ``arrivals``. Use it once."""

    def __init__(
        self, arrivals: Arrivals, policy: Policy, conditions: Conditions, seed: int = 0
    ) -> None:
        self.arrivals = arrivals
        self.policy = policy
        self.conditions = conditions
        self.random = Random(f"{seed}:failures")  # noqa: S311  a simulation, no secret
        self.waits = array("d", [-1.0]) * len(arrivals.times)
        self.nodes = [Node(conditions.overflow, conditions.wait) for _ in range(conditions.nodes)]
        self.node_of: list[Node] = []  # by worker
        self.idle: dict[int, None] = {}  # the newest last: taken first, as prefork does
        self.running: dict[int, int] = {}  # worker → operation
        self.queue: deque[int] = deque()
        limits, count = conditions.limits, len(arrivals.times)
        self.holding = Holding(limits, count, seed) if limits else None
        self.heap: list[tuple[float, int, int]] = []  # time, kind, worker, node or key
        self.plans: deque[list[int]] = deque()  # targets of the nodes, on their way
        self.redelivered: deque[int] = deque()
        self.size = conditions.initial
        self.sizes = [(0.0, self.size)]
        self.resizes = 0
        self.completed = 0
        self.events = 0
        self.workers = 0
        self._workers_until = 0.0  # the integral of ``workers`` is known until here
        self.worker_seconds = 0.0
        self._busy_offset = 0.0  # sum of −start and +end times: busy = offset + running × now
        self._busy_seen = 0.0
        self._arrived_seen = 0
        self._looks = bool(conditions.overflow)

    def run(self) -> Run:
        """Simulate to the end of the sequence and return the results."""
        conditions, seconds = self.conditions, self.arrivals.seconds
        for node, target in zip(self.nodes, self._split(self.size), strict=True):
            node.target = target
            for _ in range(target):
                self.idle[self._fork(node, 0.0)] = None
            node.resting = [self._fork(node, 0.0) for _ in range(conditions.spares)]
        self.heap += [(conditions.tick, _Kind.TICK, 0)]
        for index, crash in enumerate(conditions.node_crashes):
            self.heap.append((crash.at, _Kind.NODE_DOWN, index))
        self.heap += [(LOOK, _Kind.LOOK, 0)] * self._looks
        heapify(self.heap)
        if conditions.crashes_per_hour:
            self._next_crash(0.0)
        self._loop(seconds)
        self._account(seconds)
        return self._result()

    def _loop(self, seconds: float) -> None:
        heap, times, queue, idle = self.heap, self.arrivals.times, self.queue, self.idle
        count, arrived = len(times), 0
        upcoming = times[0] if count else math.inf
        events = 0
        while True:
            if upcoming <= heap[0][0]:
                if idle:
                    if self.holding is None or self._admits(arrived, upcoming):
                        self._start(idle.popitem()[0], arrived, upcoming)
                else:
                    queue.append(arrived)
                arrived += 1
                upcoming = times[arrived] if arrived < count else math.inf
            else:
                now, kind, subject = heappop(heap)
                if now > seconds:
                    break
                if kind == 0:  # _Kind.DONE: by far the most
                    self._done(subject, now)
                else:
                    self._rare(kind, subject, now)
            events += 1
        self.events = events

    def _start(self, worker: int, operation: int, now: float) -> None:
        counters = self.node_of[worker].counters
        counters.begun += 1
        wait = now - self.arrivals.times[operation]
        is_first = self.waits[operation] < 0.0  # a redelivered operation has waited already
        if is_first:
            self.waits[operation] = wait
        # As live, nobody learns from the wait of an operation with limits.
        if self.holding is None:
            counters.started += 1
            if is_first:
                counters.wait_sum += wait
                counters.late += wait > self.conditions.wait
        self.running[worker] = operation
        self._busy_offset -= now
        heappush(self.heap, (now + self.arrivals.services[operation], _Kind.DONE, worker))

    def _done(self, worker: int, now: float) -> None:
        operation = self.running.pop(worker, None)
        if operation is None:
            return  # it died before
        self._busy_offset += now
        node = self.node_of[worker]
        service = self.arrivals.services[operation]
        counters = node.counters
        counters.completed += 1
        counters.service_sum += service
        counters.service_squares += service * service
        self.completed += 1
        if self.holding:
            self._go_on(self.holding, self.holding.end(operation), now)
        if node.retiring:
            node.retiring -= 1
            node.resting.append(worker)
            self._end_surplus(node, now)
        else:
            self._serve(worker, now)

    def _serve(self, worker: int, now: float) -> None:
        while self.queue:
            operation = self.queue.popleft()
            if self._admits(operation, now):
                self._start(worker, operation, now)
                return
        self.idle[worker] = None

    def _admits(self, operation: int, now: float) -> bool:
        """Return whether limits let an operation start; it is held if they do not."""
        holding = self.holding
        if holding is None or holding.admits(operation, now):
            return True
        self._go_on(holding, holding.key_of[operation], now)
        return False

    def _go_on(self, holding: Holding, key: int, now: float) -> None:
        """Let go on what may of a key, and look again when its rate allows more."""
        gone, again = holding.go_on(key, now)
        for operation in reversed(gone):
            self._put_back(operation, now)
        if again is not None:
            heappush(self.heap, (again, _Kind.GO_ON, key))

    def _rare(self, kind: int, subject: int, now: float) -> None:
        match kind:
            case _Kind.WARM:
                self._warmed(subject, now)
            case _Kind.ACTUATE:
                for node, target in zip(self.nodes, self.plans.popleft(), strict=True):
                    node.overflow.take_over(max(0, target - node.target))
                    node.target = target
                    self._resize(node, now)
            case _Kind.LOOK:
                self._look(now)
                heappush(self.heap, (now + LOOK, _Kind.LOOK, 0))
            case _Kind.GO_ON if self.holding:
                self._go_on(self.holding, subject, now)
            case _Kind.CRASH:
                self._crash_any(now)
                self._next_crash(now)
            case _Kind.NODE_DOWN:
                self._node_down(subject, now)
            case _Kind.NODE_UP:
                self.nodes[subject].alive = True
                self._resize(self.nodes[subject], now)
            case _Kind.REDELIVER:
                self._put_back(self.redelivered.popleft(), now)
            case _:
                self._tick(now)
                heappush(self.heap, (now + self.conditions.tick, _Kind.TICK, 0))

    def _fork(self, node: Node, now: float) -> int:
        self._account(now)
        worker = len(self.node_of)
        self.node_of.append(node)
        node.members.add(worker)
        self.workers += 1
        return worker

    def _remove(self, worker: int, now: float) -> None:
        self._account(now)
        self.node_of[worker].members.remove(worker)
        self.workers -= 1

    def _warmed(self, worker: int, now: float) -> None:
        node = self.node_of[worker]
        if worker not in node.warming:
            return  # given up, or died
        needed = node.serving < node.wanted
        node.warming.remove(worker)
        if needed:
            self._serve(worker, now)
        else:
            node.resting.append(worker)

    def _resize(self, node: Node, now: float) -> None:
        """Have the wanted number of workers serve, and the number of spares rest.

        Resting workers serve before any is forked; a busy worker rests when it finishes.
        """
        if not node.alive:
            return
        while node.resting and node.serving < node.wanted:
            self._serve(node.resting.pop(), now)
        surplus = max(0, node.serving - node.wanted)
        idle = [worker for worker in self.idle if self.node_of[worker] is node][:surplus]
        for worker in idle:
            del self.idle[worker]
            node.resting.append(worker)
        node.retiring = surplus - len(idle)
        self._end_surplus(node, now)
        for _ in range(node.wanted_with(self.conditions.spares) - len(node.members)):
            worker = self._fork(node, now)
            node.warming.add(worker)
            node.forks_until = max(now, node.forks_until) + self.conditions.fork
            heappush(self.heap, (node.forks_until + self.conditions.warm_up, _Kind.WARM, worker))

    def _look(self, now: float) -> None:
        """Let each node look at its workers, and add or drop temporary ones."""
        for node in self.nodes:
            idle = sum(self.node_of[worker] is node for worker in self.idle)
            if node.look(now, idle, queued=len(self.queue), run=self.arrivals.mean_service):
                self._resize(node, now)

    def _end_surplus(self, node: Node, now: float) -> None:
        """End surplus workers: warming ones first, the youngest of all first, then resting ones."""
        surplus = max(0, len(node.members) - node.wanted_with(self.conditions.spares))
        for worker in sorted(node.warming, reverse=True)[:surplus]:
            node.warming.remove(worker)
            self._remove(worker, now)
            surplus -= 1
        while surplus and node.resting:
            self._remove(node.resting.pop(0), now)
            surplus -= 1

    def _crash(self, worker: int, now: float) -> None:
        node = self.node_of[worker]
        operation = self.running.pop(worker, None)
        if operation is not None:
            self._busy_offset += now
            if self.holding:
                self.holding.keep_place(operation)
            self.redelivered.append(operation)
            heappush(self.heap, (now + self.conditions.redelivery, _Kind.REDELIVER, 0))
        self.idle.pop(worker, None)
        node.warming.discard(worker)
        if worker in node.resting:
            node.resting.remove(worker)
        self._remove(worker, now)
        self._resize(node, now)

    def _crash_any(self, now: float) -> None:
        alive = sorted(worker for node in self.nodes for worker in node.members)
        if alive:
            self._crash(self.random.choice(alive), now)

    def _next_crash(self, now: float) -> None:
        gap = self.random.expovariate(self.conditions.crashes_per_hour / 3600.0)
        heappush(self.heap, (now + gap, _Kind.CRASH, 0))

    def _node_down(self, index: int, now: float) -> None:
        crash = self.conditions.node_crashes[index]
        node = self.nodes[crash.node]
        node.die()
        for worker in sorted(node.members):
            self._crash(worker, now)
        heappush(self.heap, (now + crash.outage, _Kind.NODE_UP, crash.node))

    def _put_back(self, operation: int, now: float) -> None:
        if not self.idle:
            self.queue.appendleft(operation)
        elif self._admits(operation, now):
            self._start(self.idle.popitem()[0], operation, now)

    def _tick(self, now: float) -> None:
        observation = self._observe(now)
        target = (decision := self.policy.observe(observation)).target
        if decision.overflow is not None:
            self._allow(decision.overflow, now)
        if target != self.size:
            self.size = target
            self.sizes.append((now, target))
            self.resizes += now > self.conditions.warm_in
        # Sent at every tick: a node that was down has forgotten its share.
        self.plans.append(self._split(target))
        heappush(self.heap, (now + self.conditions.actuation, _Kind.ACTUATE, 0))

    def _allow(self, overflow: int, now: float) -> None:
        """Let the living nodes have so many temporary workers, shared evenly."""
        alive = [node for node in self.nodes if node.alive]
        for node in alive:
            node.overflow.most = math.ceil(overflow / len(alive))
        if overflow and not self._looks:
            self._looks = True
            heappush(self.heap, (now + LOOK, _Kind.LOOK, 0))

    def _split(self, target: int) -> list[int]:
        """Share ``target`` evenly over the nodes that live."""
        alive = [index for index, node in enumerate(self.nodes) if node.alive]
        shares = [0] * len(self.nodes)
        for rank, index in enumerate(alive):
            shares[index] = target // len(alive) + (rank < target % len(alive))
        return shares

    def _observe(self, now: float) -> Observation:
        lost, late = self.conditions.lost_metrics, self.conditions.late_metrics
        before = [node.seen for node in self.nodes]
        for node in self.nodes:
            if node.alive and not (lost and self.random.random() < lost):
                node.sent.append((now, node.counters.copy()))
            while node.sent and node.sent[0][0] <= now - late + 1e-9:
                node.seen_of, node.seen = node.sent.popleft()
        expected = now - late - 1e-9
        complete = all(node.seen_of >= expected for node in self.nodes if node.alive)
        gained = {
            name: sum(getattr(n.seen, name) for n in self.nodes)
            - sum(getattr(old, name) for old in before)
            for name in vars(before[0])
        }
        # There is no producer's counter to read: started plus waiting operations have arrived.
        del gained["begun"]
        arrived = sum(node.seen.begun for node in self.nodes) + len(self.queue)
        arrivals = max(0, arrived - self._arrived_seen)
        self._arrived_seen = max(self._arrived_seen, arrived)
        busy = self._busy_offset + len(self.running) * now
        observation = Observation(
            now=now,
            seconds=self.conditions.tick,
            arrivals=arrivals,
            waiting=len(self.queue),
            busy=(busy - self._busy_seen) / self.conditions.tick,
            size=self.size,
            warm=sum(node.serving for node in self.nodes),
            complete=complete,
            **gained,
        )
        self._busy_seen = busy
        return observation

    def _account(self, now: float) -> None:
        start = max(self._workers_until, self.conditions.warm_in)
        if now > start:
            self.worker_seconds += self.workers * (now - start)
        self._workers_until = now

    def _result(self) -> Run:
        arrivals, holding = self.arrivals, self.holding
        waited = holding.waited if holding else lambda _: 0.0
        operations, late = late_of(arrivals, self.waits, waited, self.conditions)
        held = len(self.queue) + len(self.running) + len(self.redelivered)
        held += holding.count if holding else 0
        return Run(
            waits=self.waits,
            operations=operations,
            late=late,
            worker_seconds=self.worker_seconds,
            resizes=self.resizes,
            lost=len(arrivals.times) - self.completed - held,
            sizes=self.sizes,
            events=self.events,
        )
