"""A queue of its own, a client and sessions of nodes, on a real server."""

from __future__ import annotations

from uuid import uuid4

import pytest
import redis
from flow import make_app
from node_session import Node


@pytest.fixture
def queue():
    return f"pool.{uuid4().hex}"


@pytest.fixture
def client(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def server(redis_url):
    """A client whose answers are text."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def app(redis_url):
    """An application with controlled operations."""
    app = make_app(redis_url)
    yield app
    app.close()


@pytest.fixture
def start(redis_url, queue):
    nodes = []

    def make(**options):
        node = Node(redis_url, queue, **options)
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        node.die()
