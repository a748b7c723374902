"""Producers whose threads are greenlets: timeouts hold when a server hangs, and others go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import pooltasks
from pooltasks.embedded import EmbeddedServer

DEADLINE = 60.0  # seconds

PATCHES = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    # Importing it warns that it is not developed any more.
    "eventlet": (
        "import warnings; warnings.simplefilter('ignore'); import eventlet; eventlet.monkey_patch()"
    ),
}
PRODUCER = """
import json, os, signal, sys, threading, time

from kombu.exceptions import OperationalError
from celery.exceptions import TimeoutError as NotThere
from pooltasks.app import Extension, PoolApp
from pooltasks.broker.serialization import SERIALIZER
from pooltasks.settings import Settings
from pooltasks.task import Operation

url, server = sys.argv[1], int(sys.argv[2])
app = PoolApp("greenlets", set_as_current=False)
app._extension = Extension(Settings.load(redis_url=url, pools={"code": {}}))


@app.task(base=Operation, shared=False, name="jobs.run", pool="code", serializer=SERIALIZER)
def run(number):
    return number


ticks = []


def tick():
    while True:
        ticks.append(time.monotonic())
        time.sleep(0.02)


def timed(action, error):
    began = time.monotonic()
    try:
        action()
    except error as raised:
        said = type(raised).__name__
    else:
        said = None
    ended = time.monotonic()
    during = [began, *(at for at in ticks if began < at < ended), ended]
    pause = max(after - before for before, after in zip(during, during[1:]))
    return {"raised": said, "seconds": ended - began, "pause": pause}


threading.Thread(target=tick, daemon=True).start()
told = {}

# While it works: what comes later is heard of at once, by several that wait.
results = [run.delay(n) for n in range(5)]
got = []
waiting = [threading.Thread(target=lambda r=r: got.append(r.get(timeout=20))) for r in results]
for thread in waiting:
    thread.start()


def store():
    for result in results:
        time.sleep(0.1)
        app.backend.store_result(result.id, "value", "SUCCESS")


def wait():
    for thread in waiting:
        thread.join()


storing = threading.Thread(target=store)
storing.start()
told["results"] = timed(wait, ())
storing.join()
told["got"] = got

pending = run.delay(1)
os.kill(server, signal.SIGSTOP)
try:
    told["publish"] = timed(lambda: run.apply_async((1,), retry=False), OperationalError)
    told["wait"] = timed(lambda: pending.get(timeout=2), NotThere)
finally:
    os.kill(server, signal.SIGCONT)
print(json.dumps(told))
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.timing
@pytest.mark.parametrize("kind", PATCHES)
def test_greenlets_go_on_while_a_server_hangs(kind, tmp_path: Path):
    with EmbeddedServer(tmp_path) as server:
        try:
            completed = subprocess.run(
                [sys.executable, "-c", PATCHES[kind] + PRODUCER, server.url, str(server.pid)],
                env={**os.environ, "PYTHONPATH": str(Path(pooltasks.__file__).parents[1])},
                capture_output=True,
                text=True,
                timeout=DEADLINE,
                check=False,
            )
        finally:
            os.kill(server.pid, signal.SIGCONT)
    assert completed.returncode == 0, completed.stderr
    told = json.loads(completed.stdout)
    assert told["got"] == ["value"] * 5
    assert told["results"]["seconds"] < 1.5
    assert told["publish"]["raised"] == "OperationalError"
    assert told["publish"]["seconds"] < 5
    assert told["wait"]["raised"] == "TimeoutError"
    assert told["wait"]["seconds"] < 2 + 1.5  # Celery looks at the clock once a second
    for step in ("results", "publish", "wait"):
        assert told[step]["pause"] < 0.5, step
