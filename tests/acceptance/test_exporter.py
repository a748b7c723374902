"""``pool exporter``: the metrics of a real pool over HTTP."""

from __future__ import annotations

import signal
import subprocess
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest
from deployment import DEADLINE, Deployment, wait_until

from pooltasks.embedded import reserved_port

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def port() -> Iterator[int]:
    with reserved_port(None) as port:
        yield port


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=DEADLINE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_exporter_serves_what_the_pool_did_until_it_is_told_to_stop(
    serving: Deployment, port: int
) -> None:
    exporter = subprocess.Popen(
        serving.command("celery", "-A", "pooltasks", "pool", "exporter", "--port", str(port)),
        env=serving.environment,
        cwd=serving.folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert exporter.stdout is not None
        assert exporter.stdout.readline() == f"Serving /metrics on 127.0.0.1 port {port}\n"
        assert get(port, "/healthcheck") == (200, "OK")
        assert get(port, "/other")[0] == 404
        serving.pool.execute("ping")
        wait_until(
            lambda: (
                'pooltasks_operations_total{outcome="success",pool="code"} 2.0'
                in get(port, "/metrics")[1]
            ),
            "two operations are counted",
        )
        _, text = get(port, "/metrics")
        assert 'pooltasks_workers{pool="code",state="idle"} 2.0' in text
        assert "process_resident_memory_bytes" in text

        second = serving.run("pooltasks", "exporter", "--port", str(port))
        assert second.returncode == 1
        assert "cannot listen on 127.0.0.1 port" in second.stderr
        assert "Traceback" not in second.stderr

        exporter.send_signal(signal.SIGTERM)
        assert exporter.wait(DEADLINE) == 0
    finally:
        exporter.kill()
        exporter.wait()
        exporter.stdout.close()
