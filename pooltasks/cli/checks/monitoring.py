"""Prometheus: whether it reads the pools, and whether alerts watch over them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

from pooltasks.cli.checks.finding import Finding, error, ok, skipped, warning
from pooltasks.counted import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pooltasks.cli.checks.phase import Phase

_TIMEOUT = 5.0
_WATCHED = {
    "a server that is away": "pooltasks_up",
    "a pool without a node": "pooltasks_nodes",
    "operations that fail": "failures",
    "operations that wait": "pooltasks_oldest_age_seconds",
    "operations that were set aside": "pooltasks_dead_letters",
}
"""The things that alerts must watch, and the metric in the expression of such an alert."""
_LOAD = "Load config/prometheus/rules into Prometheus (rule_files), and reload it."


class PrometheusFault(Exception):  # noqa: N818  as the faults of the commands
    """Prometheus did not answer as it should."""


def asking(url: str) -> Callable[[str], Any]:
    """Return what asks the Prometheus at ``url`` for a path of its API.

    What it returns raises :class:`PrometheusFault` where Prometheus gives no answer.
    """

    def ask(path: str) -> Any:
        try:
            with urlopen(f"{url.rstrip('/')}/api/v1/{path}", timeout=_TIMEOUT) as answer:  # noqa: S310  the user names it
                return json.load(answer)["data"]
        except (URLError, TimeoutError, ValueError, KeyError, ConnectionError) as fault:
            raise PrometheusFault(str(fault)) from fault

    return ask


def check_monitoring(url: str | None, phase: Phase | None) -> Iterator[Finding]:
    """Look at what the Prometheus at ``url`` knows of the pools."""
    if url is None:
        yield skipped("alerts", "not looked at", "Name Prometheus: --prometheus http://HOST:9090")
        return
    ask = asking(url)
    try:
        yield from check_exporter(ask)
        yield from check_alerts(ask, phase)
    except PrometheusFault as fault:
        yield error(
            "alerts",
            f"Prometheus at {url} does not answer: {fault}",
            "Start it, or correct --prometheus.",
        )


def check_exporter(ask: Callable[[str], Any]) -> Iterator[Finding]:
    """Look at whether Prometheus scrapes an exporter or a dashboard, and what that reads."""
    found = ask(f"query?query={quote('max(pooltasks_up)')}")["result"]
    if not found:
        yield warning(
            "exporter",
            "Prometheus reads no pools: it scrapes no exporter and no dashboard",
            "Start pooltasks exporter, and name it in scrape_configs "
            "(config/prometheus/prometheus.yml).",
        )
    elif float(found[0]["value"][1]) < 1:
        yield error(
            "exporter",
            "it is scraped, and cannot read the server",
            "See its log and its POOLTASKS_REDIS_URL.",
        )
    else:
        yield ok("exporter", "Prometheus reads the pools")


def check_alerts(ask: Callable[[str], Any], phase: Phase | None) -> Iterator[Finding]:
    """Look at the rules that Prometheus has loaded, and at the alerts that fire."""
    rules = [
        rule
        for group in ask("rules?type=alert")["groups"]
        for rule in group["rules"]
        if "pooltasks" in rule["query"]
    ]
    if not rules:
        yield warning("alerts", "none watches the pools", _LOAD)
        return
    unwatched = [
        what
        for what, metric in _WATCHED.items()
        if not any(metric in rule["query"] for rule in rules)
    ]
    if unwatched:
        yield warning("alerts", f"none watches {', '.join(unwatched)}", _LOAD)
    for rule in rules:
        if rule.get("health") == "err":
            yield error(
                "alerts",
                f"{rule['name']} cannot be evaluated: {rule.get('lastError', 'no reason given')}",
                "Correct its expression; promtool check rules names the line.",
            )
    firing = [one for rule in rules for one in rule["alerts"] if one["state"] == "firing"]
    for alert in firing if phase != "before" else ():
        notes = alert.get("annotations", {})
        yield warning(
            "alerts",
            f"{alert['labels']['alertname']} fires: {notes.get('summary', '')}",
            notes.get("description") or "See the pool's page.",
        )
    if not unwatched:
        yield ok("alerts", f"{counted(len(rules), 'rule')} watch the pools")
