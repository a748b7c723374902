"""The transport and the result backend where Sentinels know which server is the master."""

from __future__ import annotations

from celery.backends.redis import SentinelBackend
from kombu.transport import redis

from pooltasks.broker.channel import Channel
from pooltasks.broker.results import ResultBackend
from pooltasks.broker.transport import Transport


class SentinelChannel(Channel, redis.SentinelChannel):
    """Our channel on connections that ask the Sentinels where to go."""


class SentinelTransport(Transport):
    """The transport of a node that asks Sentinels."""

    default_port = redis.SentinelTransport.default_port
    Channel = SentinelChannel


class SentinelResultBackend(ResultBackend, SentinelBackend):
    """Our result backend on connections that ask the Sentinels where to go."""
