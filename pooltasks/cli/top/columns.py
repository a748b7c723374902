"""The tables of the screen: their columns, and the width from which each column is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pooltasks import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

UNKNOWN = "-"
LEVELS = {"bad": "bold red", "fair": "yellow", "good": "green", "off": "dim"}
WORDS = {"bad": "BAD", "fair": "WARN", "good": "ok", "off": "off"}
_BARS = " ▁▂▃▄▅▆▇█"
_SPARK = 20

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    heading: str
    value: Callable[[Row], Any]
    """Returns the value by which rows are sorted; None comes last."""
    text: Callable[[Any], str] = str
    """Returns the text of a known value."""
    right: bool = True
    descending: bool = True
    """Whether the first sort puts the largest value first."""
    style: Callable[[Row], str] | None = None
    least: int = 0
    """Columns of the terminal from which it is shown."""
    flexible: bool = False
    """Whether it takes the width that is left."""

    def cell(self, row: Row) -> str:
        """Return the text of a row's cell."""
        value = self.value(row)
        return UNKNOWN if value is None else self.text(value)


def short(seconds: float) -> str:
    """Return a duration in at most six characters."""
    if seconds < 0.9995:  # noqa: PLR2004  below it rounds to less than a second
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:  # noqa: PLR2004  a minute
        return f"{seconds:.1f}s"
    if seconds < 3600:  # noqa: PLR2004  an hour
        return f"{seconds // 60:.0f}m{seconds % 60:02.0f}s" if seconds < 3570 else "59m"  # noqa: PLR2004
    if seconds < 86_400:  # noqa: PLR2004  a day
        return f"{seconds // 3600:.0f}h{seconds % 3600 // 60:02.0f}m"
    return f"{seconds // 86_400:.0f}d{seconds % 86_400 // 3600:02.0f}h"


def percent(ratio: float) -> str:
    """Return a share in per cent."""
    return f"{counted.percent(ratio)}%"


def megabytes(number: float) -> str:
    """Return bytes in megabytes."""
    return f"{number / 2**20:,.0f}M"


def number(value: float) -> str:
    """Return a number with at most three significant digits."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"  # noqa: PLR2004


def spark(values: list[float | None]) -> str:
    """Return a line of bars; an unknown value is a blank."""
    step = max(1, len(values) // _SPARK)
    groups = [
        [value for value in values[start : start + step] if value is not None]
        for start in range(len(values) % step, len(values), step)
    ]
    highest = max((max(group) for group in groups if group), default=0.0)
    return "".join(
        " " if not group else _BARS[1 + round(7 * max(group) / highest)] if highest else _BARS[1]
        for group in groups
    )


def _blamed(word: str) -> Callable[[Row], str]:
    def style(row: Row) -> str:
        return LEVELS[row["verdict"]["level"]] if word in row["verdict"]["blamed"] else ""

    return style


def _node_words(states: Mapping[str, int]) -> str:
    return " ".join(
        str(count) if state == "live" else f"+{count} {state}"
        for state, count in states.items()
        if count or state == "live"
    )


def _size(row: Row) -> str | None:
    if row["size"] is None:
        return None
    target = row["target"]
    return str(row["size"]) if target in {None, row["size"]} else f"{row['size']}→{target}"


POOLS = (
    Column("POOL", lambda row: row["pool"], right=False, descending=False),
    Column(
        "STATE",
        lambda row: -list(LEVELS).index(row["verdict"]["level"]),
        lambda value: list(WORDS.values())[-value],
        right=False,
        style=lambda row: LEVELS[row["verdict"]["level"]],
    ),
    Column("BACKLOG", lambda row: row["backlog"], number),
    Column("OLDEST", lambda row: row["oldest_age"], short, style=_blamed("oldest")),
    Column("WAIT", lambda row: row["wait"], short, style=_blamed("wait")),
    Column("ERR", lambda row: row["error_rate"], percent, style=_blamed("errors")),
    Column("DEAD", lambda row: row["dead_letters"], number, style=_blamed("dead")),
    Column("OP/S", lambda row: row["throughput"], number),
    Column("BUSY", lambda row: row["utilization"], percent),
    Column("WARM", lambda row: row["warm"], number, style=_blamed("warm")),
    Column("SIZE", _size),
    Column(
        "NODES",
        lambda row: row["nodes"],
        _node_words,
        right=False,
        style=_blamed("nodes"),
        least=90,
    ),
    Column("LAST 5 MIN", lambda row: row["spark"], spark, right=False, least=120),
    Column(
        "WHAT IS WRONG",
        lambda row: row["verdict"]["text"],
        right=False,
        style=lambda row: LEVELS[row["verdict"]["level"]],
        least=150,
        flexible=True,
    ),
)


def _worker_state(row: Row) -> str:
    if row["outgoing"]:
        return "outgoing"
    return ("busy" if row["busy"] else "idle") if row["state"] == "warm" else str(row["state"])


def _running(row: Row) -> str | None:
    if row["operation"] is None:
        return None
    more = f" +{row['running'] - 1}" if row["running"] > 1 else ""
    return f"{row['operation']}{more}"


WORKERS = (
    Column("FOR", lambda row: row["seconds"], short),
    Column("OPERATION", _running, right=False, descending=False, flexible=True),
    Column("ID", lambda row: row["id"], right=False, descending=False, least=100),
    Column("PID", lambda row: row["pid"], descending=False),
    Column("STATE", _worker_state, right=False, descending=False),
    Column("CPU", lambda row: row["cpu_share"], percent),
    Column("MEM", lambda row: row["memory"], megabytes),
    Column("DONE", lambda row: row["operations"], number, least=90),
    Column("AGE", lambda row: row["age"], short, least=90),
    Column("NODE", lambda row: row["node"], right=False, descending=False),
)

_NODE_STYLES = {"live": "green", "draining": "yellow", "drained": "yellow"}

NODES = (
    Column("NODE", lambda row: row["celery_name"], right=False, descending=False, flexible=True),
    Column(
        "STATE",
        lambda row: row["state"],
        right=False,
        descending=False,
        style=lambda row: _NODE_STYLES.get(row["state"], "bold red"),
    ),
    Column("SILENT", lambda row: row["silent"], short),
    Column("SIZE", lambda row: row["size"], number),
    Column("WARM", lambda row: row["warm"], number),
    Column("BUSY", lambda row: row["busy"], number),
    Column("USED", lambda row: row["utilization"], percent),
    Column("RESERVED", lambda row: row["reserved"], number, least=90),
    Column("CPU", lambda row: row["cpu"], percent),
    Column("MEM", lambda row: row["memory"], megabytes),
    Column("DIED", lambda row: row["restarts"], number),
)


def _quantile(of: str, name: str) -> Callable[[Row], Any]:
    return lambda row: row[of][name] if row[of] else None


OPERATIONS = (
    Column("OPERATION", lambda row: row["name"], right=False, descending=False, flexible=True),
    Column("COUNT", lambda row: row["count"], number),
    Column(
        "FAILED",
        lambda row: row["failed"],
        number,
        style=lambda row: "red" if row["failed"] else "",
    ),
    Column("ERR", lambda row: row["error_rate"], percent),
    Column("DEAD", lambda row: row["dead"], number),
    Column("WAIT P50", _quantile("wait", "p50"), short, least=100),
    Column("WAIT P99", _quantile("wait", "p99"), short),
    Column("RUN P50", _quantile("run", "p50"), short, least=100),
    Column("RUN P99", _quantile("run", "p99"), short),
    Column("SHARE", lambda row: row["share"], percent),
)


def _error(row: Row) -> str:
    return f"{row['error']}: {row['message']}" if row["message"] else str(row["error"])


ERRORS = (
    Column("LAST", lambda row: -row["ago"], lambda value: short(-value)),
    Column("FAILED", lambda row: row["failed"], number),
    Column("RETRIED", lambda row: row["retried"], number, least=90),
    Column(
        "NOW", lambda row: row["recent"], number, style=lambda row: "red" if row["recent"] else ""
    ),
    Column("OPERATION", lambda row: row["operation"], right=False, descending=False),
    Column("ERROR", _error, right=False, descending=False, flexible=True),
    Column("PLACE", lambda row: row["place"], right=False, descending=False, least=150),
)
