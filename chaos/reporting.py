"""What a command of ``scripts/chaos`` prints of a run, and how it ends."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Protocol

import click


class Report(Protocol):
    """The results of a run: a named tuple, whose ``account`` says how its operations ended."""

    @property
    def holds(self) -> bool:
        """Whether every bound was kept."""

    def lines(self) -> list[str]:
        """Return the results as text."""

    def _asdict(self) -> dict[str, Any]: ...


def show(report: Report, *, as_json: bool) -> None:
    """Print a report; end the command with 1 if a bound was not kept."""
    if as_json:
        click.echo(json.dumps(_document(report), indent=2, default=_text))
    else:
        click.echo("\n".join(report.lines()))
    if not report.holds:
        raise SystemExit(1)


def _document(report: Report) -> dict[str, Any]:
    its = report._asdict()
    account = its.pop("account", None)
    if account is not None:
        its |= {**asdict(account), "lost": len(account.lost)}
    return {**its, "holds": report.holds}


def _text(message: bytes) -> str:
    return message.decode(errors="backslashreplace")


def counted(happened: dict[str, int]) -> str:
    """Return what happened in a line, each with its number."""
    return ", ".join(f"{count} {what}" for what, count in sorted(happened.items()))
