"""The reference pages, made from the code that they describe.

Each function returns one page as Markdown. What the code has and a page would
not explain raises, so that a build of the site fails instead of leaving a gap.
"""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, NamedTuple

from pooltasks import errors as errors_module
from pooltasks import keys as keys_module
from pooltasks import telemetry
from pooltasks.errors import PooltasksError
from pooltasks.metrics.families import families
from pooltasks.task import RETRIES
from website.commands import commands
from website.markdown import Undocumented, plain, table
from website.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prometheus_client import Metric


class Event(NamedTuple):
    """A row of the catalog of events."""

    name: str
    where: str
    measurements: str
    metadata: str


def events() -> str:
    """Return the page of every event."""
    document = inspect.getdoc(telemetry) or ""
    before, catalog, after = re.split(r"(?s)(\n\|.*\|\n)", document, maxsplit=1)
    rows = each_event(catalog)
    parts = ["# Events\n", plain(before.partition("\n\n")[2]) + "\n"]
    for where in dict.fromkeys(row.where for row in rows):
        parts += [
            f"## {where[:1].upper()}{where[1:]}\n",
            table(
                ("event", "measurements", "metadata"),
                [(f"`{row.name}`", *row[2:]) for row in rows if row.where == where],
            ),
        ]
    return "\n".join([*parts, plain(after).strip() + "\n"])


def each_event(catalog: str | None = None) -> list[Event]:
    """Return the events of the catalog in the docstring of :mod:`pooltasks.telemetry`."""
    found: list[Event] = []
    where = ""
    for line in (catalog or inspect.getdoc(telemetry) or "").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or cells[0] == "event" or set(cells[0]) == {"-"}:
            continue
        if cells[0].startswith("*"):
            where = cells[0].strip("*")
        elif cells[0]:
            found.append(Event(cells[0], where, cells[1], cells[2]))
        else:
            last = found.pop()
            measurements, metadata = (
                f"{a} {b}".strip() for a, b in zip(last[2:], cells[1:], strict=True)
            )
            found.append(Event(last.name, last.where, measurements, metadata))
    return found


# Metrics


_ABOUT_METRICS = """\
# Metrics

The dashboard serves these at `/metrics`, and so does `pooltasks exporter`. What is not known has no
series. [Metrics, traces, logs](../monitoring.md) says how to use them.
"""


def metrics() -> str:
    """Return the page of every metric."""
    rows = []
    for metric in each_metric():
        shown = ", ".join(f"`{label}`" for label in labels(metric)) or "–"
        rows.append((f"`{name(metric)}`", metric.type, shown, metric.documentation))
    return _ABOUT_METRICS + "\n" + table(("metric", "type", "labels", "meaning"), rows)


def each_metric() -> list[Metric]:
    """Return every family of metrics."""
    return families({}, {}, up=None)


def name(metric: Metric) -> str:
    """Return a metric's name as Prometheus has it."""
    return metric.name + ("_total" if metric.type == "counter" else "")


def labels(metric: Metric) -> tuple[str, ...]:
    """Return the labels of each series of a metric."""
    return tuple(getattr(metric, "_labelnames", ()))


# Errors


_ABOUT_ERRORS = """\
# Errors

Every error of pooltasks is a `PooltasksError` of `pooltasks.errors`. The category decides how often
an operation with `retry=True` runs again.
"""


def errors() -> str:
    """Return the page of every error."""
    parts = [
        _ABOUT_ERRORS,
    ]
    for kind in each_error():
        meaning, remedy = meaning_and_remedy(kind)
        bases = ", ".join(
            f"`{base.__name__}`" for base in kind.__bases__ if base is not PooltasksError
        )
        parts += [
            f"## `{kind.__name__}`\n",
            f"{meaning}\n",
            f"**What to do.** {remedy}\n",
            f"Category: `{kind.category}`." + (f" It is also {bases}." if bases else "") + "\n",
        ]
    parts += [
        "## Categories\n",
        table(("category", "retried by `retry=True`"), _retries()),
    ]
    return "\n".join(parts)


def _retries() -> list[tuple[str, str]]:
    return [
        (f"`{it}`", f"{RETRIES[it]} times" if RETRIES.get(it) else "no")
        for it in errors_module.Category
    ]


def each_error() -> list[type[PooltasksError]]:
    """Return every error that pooltasks raises."""
    return [
        it
        for it in vars(errors_module).values()
        if inspect.isclass(it) and issubclass(it, PooltasksError) and it is not PooltasksError
    ]


def meaning_and_remedy(kind: type[PooltasksError]) -> tuple[str, str]:
    """Return what an error means and what to do.

    Raises:
        Undocumented: Its docstring does not say what to do.
    """
    meaning, found, remedy = plain(inspect.getdoc(kind) or "").partition("\nRemedy: ")
    if not found:
        raise Undocumented(f"the docstring of {kind.__name__} has no 'Remedy: '")
    return meaning.strip(), " ".join(remedy.split())


# Keys


def keys() -> str:
    """Return the page of every key."""
    document = plain(inspect.getdoc(keys_module) or "")
    return "# Redis keys\n\n" + re.sub(r"^\S.*\n", "", document, count=1).strip() + "\n"


def each_key() -> dict[str, str]:
    """Return what each function of :mod:`pooltasks.keys` names, without the prefix of the pool."""
    found = {}
    for function_name, function in inspect.getmembers(keys_module, inspect.isfunction):
        if function_name in ("of_queue", "in_lines", "prefixed"):
            continue
        arguments = [_PLACES.get(it, f"<{it}>") for it in inspect.signature(function).parameters]
        key = function(*arguments)
        found[function_name] = key.removeprefix(f"{keys_module.PREFIX}{{pool.<name>}}:")
    return found


_PLACES: Mapping[str, str] = {
    "pool": "<name>",
    "queue_name": "pool.<name>",
    "session_id": "<id>",
    "lane": "<lane>",
    "identity": "<identity>",
    "node": "<node>",
}


PAGES: Mapping[str, Callable[[], str]] = {
    "settings": settings,
    "commands": commands,
    "events": events,
    "metrics": metrics,
    "errors": errors,
    "keys": keys,
}
"""What makes each page of the reference."""
