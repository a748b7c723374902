"""A smoke operation: one that does nothing, sent as an application would send it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from celery.exceptions import TimeoutError as NoAnswer
from redis.exceptions import NoPermissionError

from pooltasks.cli.checks.finding import Finding, error, ok, skipped
from pooltasks.pools import Pool

if TYPE_CHECKING:
    from celery import Celery

_PATIENCE = 5.0
"""Seconds for the operation and its way there and back."""


def check_round(app: Celery, pool: str) -> Finding:
    """Have a pool run ``ping``, and wait for its result."""
    subject = f"pool.{pool}"
    began = time.monotonic()
    try:
        Pool(pool, app=app).execute("ping", timeout=_PATIENCE)
    except NoAnswer:
        return error(
            subject,
            f"an operation that does nothing has no result after {_PATIENCE:g} s",
            f"See what holds it up: pooltasks status {pool}",
        )
    except NoPermissionError:
        return skipped(
            subject,
            "this user may not send operations, or wait for their results",
            "Run it as a user with the rules of an operator: pooltasks acl operator",
        )
    except Exception as fault:  # noqa: BLE001  whatever it is, no operation goes through
        return error(
            subject,
            f"an operation that does nothing fails: {type(fault).__name__}: {fault}",
            f"See pooltasks status {pool}",
        )
    return ok(subject, f"an operation came back in {1000 * (time.monotonic() - began):.0f} ms")
