"""The limits of a pool that runs: what they are, whom they hold back, and how they are changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pooltasks import keys
from pooltasks.broker.limiting import flow_of, quoted
from pooltasks.broker.scripts import Script

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

_SHOW = Script("show_limits.lua")
_CHANGE = Script("relimit.lua")
_CHOOSE = Script(
    "choice.lua",
    tail="""
local answer = {}
for _, flow in ipairs(ARGV) do
  local its, is_changed = limit_of(KEYS[1], flow)
  answer[#answer + 1] = {its or '- - -', is_changed and 1 or 0}
end
return answer
""",
)
"""Returns, of each key of ARGV, its limit, and 1 if that is another one than in the code."""
_NONE = "-"
_MS = 1000.0
_MOST_LINES = 1000


@dataclass(frozen=True)
class Limit:
    """A limit that holds."""

    concurrency: int | None
    """How many run at once at the most."""
    rate: float | None
    """How many start in a second at the most."""
    burst: int | None
    """How many of them may start at once."""
    weight: float | None = None
    """The weight of its turns; None: its keys take none."""

    @classmethod
    def of(cls, text: str) -> Limit:
        """Return a limit as the server keeps it."""
        at_once, every, burst, *weight = (None if it == _NONE else it for it in text.split())
        return cls(
            None if at_once is None else int(at_once),
            None if every is None else _MS / float(every),
            None if burst is None else int(burst),
            float(weight[0]) if weight and weight[0] else None,
        )

    def text(self) -> str:
        """Return it as the server keeps it."""
        every = None if self.rate is None else f"{_MS / self.rate:.6f}"
        its = (self.concurrency, every, self.burst)
        weight = "" if self.weight is None else f" {self.weight:g}"
        return " ".join(_NONE if each is None else str(each) for each in its) + weight

    def in_words(self) -> str:
        """Return it as people are told of it."""
        parts = []
        if self.concurrency is not None:
            parts.append(f"{self.concurrency} at once")
        if self.rate is not None:
            parts.append(f"{self.rate:g} a second, {self.burst} of them at once")
        if self.weight is not None:
            parts.append(f"takes turns, weight {self.weight:g}")
        return "; ".join(parts) or "no limit"


@dataclass(frozen=True)
class KeyState:
    """How an operation's calls with one key stand."""

    operation: str
    key: str
    """Empty if all calls of the operation are counted together."""
    running: int
    waiting: int
    """Calls that wait for their turn."""
    age: float
    """Seconds since when the first of these waits."""
    held: int
    """Calls that its limits hold back."""
    limit: Limit
    is_changed: bool
    """Whether the limit is another one than in the code."""


class LimitStore:
    """The limits of one pool.

    Args:
        client: A client of the server.
        pool: The pool's name.
    """

    def __init__(self, client: redis.Redis, pool: str) -> None:
        self._client: Any = client
        queue = keys.queue(pool)
        self._running, self._held, self._limits, self._resume = (
            keys.flow(queue, name) for name in ("running", "held", "limits", "resume")
        )
        self._lines, self._ages = keys.flow(queue, "lines"), keys.flow(queue, "ages")

    def operations(self) -> list[str]:
        """Return the operations with limits that the pool's nodes have told of."""
        fields = (field.decode() for field in self._client.hkeys(self._limits))
        return sorted(unquote(each[5:]) for each in fields if each.startswith("code "))

    def fair(self) -> list[str]:
        """Return those of them whose keys take turns."""
        fields = self._client.hgetall(self._limits).items()
        code = ((field[5:], text) for field, text in fields if field.startswith(b"code "))
        its = ((name.decode(), Limit.of(text.decode())) for name, text in code)
        return sorted(unquote(name) for name, limit in its if limit.weight is not None)

    def limit(self, operation: str, value: str | None = None) -> Limit:
        """Return the limit that holds for an operation, or for its calls with one key.

        Args:
            operation: Its name.
            value: Of the argument by which is counted.
        """
        return self._chosen([_flow(operation, value)])[0][0]

    def states(self) -> list[KeyState]:
        """Return how each key stands that has something to run, the most waiting first.

        Of more than a thousand keys that are held the others are left out, and of more than a
        thousand that wait for their turns those that have waited for less long. What has no key
        of a fair operation, and so waits for one turn together, is the operation ``*``.
        """
        running = {
            flow.decode(): int(count)
            for flow, count in self._client.hgetall(self._running).items()
            if flow[:1] not in (b"!", b"#")
        }
        answer = self._client.eval(_SHOW.text, 1, self._held)
        held = {flow.decode(): count for flow, count in zip(answer[::2], answer[1::2], strict=True)}
        waiting, since, now = self._in_lines()
        states = []
        flows = [*{*running, *held, *waiting}]
        for flow, (limit, is_changed) in zip(flows, self._chosen(flows), strict=True):
            name, _, value = flow.partition("/")
            states.append(
                KeyState(
                    unquote(name),
                    unquote(value),
                    running.get(flow, 0),
                    waiting.get(flow, 0),
                    max(0.0, now - since.get(flow, now)),
                    held.get(flow, 0),
                    limit,
                    is_changed,
                )
            )
        return sorted(
            states,
            key=lambda its: (-its.held - its.waiting, -its.running, its.operation, its.key),
        )

    def _in_lines(self) -> tuple[dict[str, int], dict[str, float], float]:
        """Return how many wait for their turns, since when, by key; and the time."""
        lines = self._client.zrange(self._ages, 0, _MOST_LINES - 1, withscores=True)
        seconds, microseconds = self._client.time()
        waiting: dict[str, int] = {}
        since: dict[str, float] = {}
        ends = self._client.hmget(self._lines, [line for line, _ in lines]) if lines else []
        for (line, age), its in zip(lines, ends, strict=True):
            first, last = map(int, (its or b"1 0").split())
            flow = line[1:].decode()  # one line for each priority
            waiting[flow] = waiting.get(flow, 0) + last - first + 1
            since[flow] = min(since.get(flow, age), age)
        return waiting, since, seconds + microseconds / 1e6

    def change(self, operation: str, value: str | None, limit: Limit | None) -> None:
        """Set a limit, which holds at once for what starts from now on.

        Args:
            operation: The operation's name.
            value: Of the argument by which is counted; None: for all keys without a limit of
                their own.
            limit: The new one; None: that of the code, or of the operation, again.
        """
        flow = _flow(operation, value)
        field = f"all {quoted(operation)}" if value is None else f"key {flow}"
        first, end = (f"{flow}\0", f"{flow}\1") if value is not None else (flow, f"{flow}\x7f")
        text = limit.text() if limit else ""
        while True:
            names = (self._limits, self._held, self._resume)
            last = self._client.eval(_CHANGE.text, 3, *names, field, text, first, end)
            if not last:
                return
            field, first = "", f"{last.decode()}\1"

    def _chosen(self, flows: Sequence[str]) -> list[tuple[Limit, bool]]:
        """Return the limit of each key, and whether it is another one than in the code."""
        answer = self._client.eval(_CHOOSE.text, 1, self._limits, *flows)
        return [(Limit.of(text.decode()), bool(is_changed)) for text, is_changed in answer]


def _flow(operation: str, value: str | None) -> str:
    return flow_of(quoted(operation), value or "")
