"""Celery's control commands on a node, where they are not Celery's."""

from __future__ import annotations

from celery.worker.control import Panel

from pooltasks.node import control


def test_restarting_all_workers_is_refused_in_one_sentence():
    assert Panel.data["pool_restart"] is control.pool_restart
    answer = Panel.data["pool_restart"](object(), modules=["x"], reload=True, reloader=None)
    assert answer["error"].startswith("pool_restart: the workers of a pool cannot be restarted")
