"""``pool exporter``: the metrics of a real pool over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest
import yaml
from deployment import DEADLINE, Deployment, Node, wait_until

from pooltasks.embedded import reserved_port
from pooltasks.metrics.decisions import PoolDecision
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pooltasks import Pool

CONFIG = Path(__file__).parents[2] / "config"
VARIABLES = {"$__rate_interval": "20s", "$job": "pooltasks", "$pool": "code"}


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
    except urllib.error.URLError:  # nobody listens
        return 0, ""


@pytest.fixture
def exporter(serving: Deployment, port: int) -> Iterator[subprocess.Popen[str]]:
    """An exporter that listens on ``port``."""
    process = subprocess.Popen(
        serving.command("celery", "-A", "pooltasks", "pool", "exporter", "--port", str(port)),
        env=serving.environment,
        cwd=serving.folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == f"Serving /metrics on 127.0.0.1 port {port}\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_exporter_serves_what_the_pool_did_until_it_is_told_to_stop(
    serving: Deployment, exporter: subprocess.Popen[str], port: int
) -> None:
    assert get(port, "/healthcheck") == (200, "OK")
    assert get(port, "/other")[0] == 404
    serving.pool.execute("ping")

    def both_say_the_same() -> str | None:
        operations = serving.pool.metrics(3600).work.operations or {}
        count = float(operations.get(Outcome.SUCCESS, 0))
        _, text = get(port, "/metrics")
        line = f'pooltasks_operations_total{{outcome="success",pool="code"}} {count}\n'
        return text if count > 1 and line in text else None

    text = wait_until(both_say_the_same, "the exporter counts what the pool counts")
    assert 'pooltasks_workers{pool="code",state="idle"} 2.0' in text
    assert "process_resident_memory_bytes" in text

    second = serving.run("pooltasks", "exporter", "--port", str(port))
    assert second.returncode == 1
    assert "cannot listen on 127.0.0.1 port" in second.stderr
    assert "Traceback" not in second.stderr

    exporter.send_signal(signal.SIGTERM)
    assert exporter.wait(DEADLINE) == 0


@pytest.fixture
def prometheus(
    exporter: subprocess.Popen[str],  # noqa: ARG001  it is scraped
    port: int,
    tmp_path: Path,
) -> Iterator[int]:
    """The port of a Prometheus that scrapes the exporter and has the rules of config/."""
    program = shutil.which("prometheus")
    if program is None:
        reason = "no prometheus on PATH (Debian: apt-get install prometheus)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    configuration = yaml.safe_load((CONFIG / "prometheus/prometheus.yml").read_text("utf-8"))
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(CONFIG / "prometheus/rules/*.yml")]
    (job,) = configuration["scrape_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    with reserved_port(None) as own_port, (tmp_path / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{own_port}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield own_port
        finally:
            process.terminate()
            process.wait(DEADLINE)


def decide(pool: Pool) -> None:
    """Have the optimizer of a pool want two slots; none runs here."""
    turn = pool.decisions().begin()
    if turn is None:  # the last one has not ended
        return
    decision = PoolDecision(
        at=turn.at,
        policy="fixed",
        target=2,
        before=2,
        wanted=2,
        hosts=1,
        nodes={},
        told=[],
        reason="a test",
    )
    pool.decisions().commit(turn, None, decision)


def panel_queries() -> dict[str, str]:
    """Return the queries of all panels as Grafana would send them."""
    queries = {}
    for path in (CONFIG / "grafana/dashboards").glob("*.json"):
        for panel in json.loads(path.read_text("utf-8"))["panels"]:
            for target in panel.get("targets", ()):
                query = target["expr"]
                for variable, value in VARIABLES.items():
                    query = query.replace(variable, value)
                queries[f"{path.stem}: {panel['title']} {target['refId']}"] = query
    return queries


def test_prometheus_has_an_answer_for_each_panel(serving: Deployment, prometheus: int) -> None:
    unanswered = panel_queries()
    assert len(unanswered) > 40

    node = Node(serving, serving.app)

    def answered() -> bool:
        decide(serving.pool)
        # A recovery has a duration.
        os.kill(node.status()["workers"][0]["pid"], signal.SIGKILL)
        serving.pool.submit("sample_operations.echo").get(timeout=DEADLINE)
        serving.pool.submit("sample_operations.fail").get(timeout=DEADLINE, propagate=False)
        for panel, query in list(unanswered.items()):
            status, text = get(prometheus, f"/api/v1/query?{urlencode({'query': query})}")
            if status in {0, 503}:  # it is starting
                return False
            assert status == 200, f"{panel}: {text}"
            if json.loads(text)["data"]["result"]:
                del unanswered[panel]
        return not unanswered

    end = time.monotonic() + DEADLINE
    while not answered():
        assert time.monotonic() < end, unanswered
        time.sleep(0.5)  # Prometheus scrapes once a second
