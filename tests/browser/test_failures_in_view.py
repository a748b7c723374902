"""What the page says when a worker, a node or the server dies while it is open."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from stage import LIVE, OUTPUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from stage import Scene, Watched

pytestmark = [pytest.mark.timing, pytest.mark.timeout(180), pytest.mark.long]

PROMISED = 3.0
"""Seconds within which the page says so."""
WORKERS = "[...document.querySelectorAll('#nodes td.pt-pid')].map(cell => Number(cell.textContent))"


def seconds(watched: Watched, condition: str, what: str, most: float = PROMISED) -> float:
    """Return how long it takes until a condition is true; fail if that is too long."""
    started = time.monotonic()
    watched.wait_for(condition, what, deadline=most)
    return time.monotonic() - started


def test_a_worker_a_node_and_the_server_die_and_come_back_in_view(
    scene: Scene, watch: Callable[..., Watched]
) -> None:
    watched = watch("/pools/code?window=60")
    watched.wait_for(LIVE, "the page is live")
    watched.wait_for(f"{WORKERS}.length === 2", "two workers")
    took = {}

    victim = watched.page.evaluate(WORKERS)[0]
    os.kill(victim, signal.SIGKILL)
    took["worker"] = seconds(
        watched,
        f"!{WORKERS}.includes({victim})"
        " && document.getElementById('events').textContent.includes('1 worker died')",
        "the death of the worker is said",
    )
    watched.wait_for(f"{WORKERS}.length === 2", "there are two workers again")

    (node,) = scene.deployment.nodes
    node.kill()
    node.wait()
    took["node"] = seconds(
        watched,
        "['mute', 'stale', 'lost'].includes(document.querySelector('tr.pt-node')?.dataset.state)",
        "the death of the node is said",
    )
    watched.wait_for(
        "document.getElementById('status').textContent.includes('has not answered for')",
        "and in the sentence at the top",
    )
    # A number that nobody knows is a dash.
    assert "0" not in watched.page.locator("#facts dd").first.inner_text()
    scene.start_node()
    watched.wait_for(f"{WORKERS}.length === 2", "the new node is shown with its workers")

    scene.server.stop()
    took["server"] = seconds(
        watched,
        "document.getElementById('status').textContent.includes('has not answered since')",
        "the absence of the server is said",
    )
    assert watched.text("#live-text") == "No server"
    numbers = ["#utilization", "#throughput", "#wait", "#error-rate", "#health", "#dead-count"]
    assert [watched.text(number) for number in numbers] == ["—"] * len(numbers)
    assert set("".join(watched.page.locator("#facts dd").all_inner_texts())) <= set("— → /")
    # The page itself, and the list of all pools, open without the server.
    other = watch("/pools")
    other.wait_for(
        "document.getElementById('status').textContent.includes('has not answered since')",
        "the list says so too",
    )
    scene.server.start()
    took["recovery"] = seconds(
        watched,
        "!document.getElementById('status').textContent.startsWith('The server')"
        " && document.getElementById('throughput').textContent !== '—'",
        "the page recovers by itself",
        most=30.0,
    )
    OUTPUT.mkdir(exist_ok=True)
    (OUTPUT / "seen-after-seconds.json").write_text(json.dumps(took, indent=2))
