"""The result backend where Sentinels know which server is the master."""

from __future__ import annotations

from celery.backends.redis import SentinelBackend

from pooltasks.broker.results import ResultBackend


class SentinelResultBackend(ResultBackend, SentinelBackend):
    """Our result backend, which asks the Sentinels where to go."""
