"""Options of `celery worker` that users of Celery know, on a node."""

from __future__ import annotations

import socket

import pytest
from project import Project, wait_until

pytestmark = pytest.mark.long

HOST = socket.gethostname()
APP = """
import os
from celery import Celery
import pooltasks

app = Celery("shop", broker=os.environ["SHOP_REDIS"], backend=os.environ["SHOP_REDIS"])
app.conf.worker_concurrency = 9
pooltasks.install(app)
"""
FILES = {
    "shop.py": APP,
    "config/pools.toml": "[pools.code]\npool_size = 2\nmin_pool_size = 2\nmax_pool_size = 3\n",
}


def start(project, *options):
    """Start a node without a name of its own; return its log when it is ready or has ended."""
    project.start("node", "celery", "worker", "-l", "info", "-Q", "pool.code", *options)
    wait_until(lambda: " ready." in project.log("node") or project.has_ended("node"), "the node")
    return project.log("node")


def in_project(tmp_path, valkey_url):
    return Project(tmp_path, FILES, SHOP_REDIS=valkey_url, CELERY_APP="shop")


def test_a_size_outside_of_the_pools_bounds_is_refused(tmp_path, valkey_url):
    with in_project(tmp_path, valkey_url) as project:
        log = start(project, "-c", "9")
        assert project.has_ended("node")
        assert "-c 9 is above max_pool_size (3) of the pool 'code'. Allowed: 2 to 3" in log
        log = start(project, "-c", "1")
        assert project.has_ended("node")
        assert "-c 1 is below min_pool_size (2)" in log
        assert "concurrency: 3" in start(project, "-c", "3")


def test_the_size_of_plain_workers_is_not_that_of_nodes(tmp_path, valkey_url):
    with in_project(tmp_path, valkey_url) as project:
        assert "concurrency: 2" in start(project)


def test_a_node_says_by_which_name_it_is_reached(tmp_path, valkey_url):
    with in_project(tmp_path, valkey_url) as project:
        log = start(project)
        assert f"reach this node with -d code@{HOST}, not with -d celery@{HOST}" in log
        answer = project.run("-m", "celery", "inspect", "ping", "-d", f"code@{HOST}")
        assert "1 node online" in answer.stdout


def test_a_node_keeps_the_name_that_it_is_given_also_celerys_own(tmp_path, valkey_url):
    with in_project(tmp_path, valkey_url) as project:
        log = start(project, "-n", "celery@%h")
        assert "reach this node" not in log
        answer = project.run("-m", "celery", "inspect", "ping", "-d", f"celery@{HOST}")
        assert "1 node online" in answer.stdout
