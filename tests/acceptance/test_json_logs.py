"""With ``log_format = "json"`` whatever a node and its workers say is JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from deployment import DEADLINE, Deployment

from pooltasks import Pool

if TYPE_CHECKING:
    from collections.abc import Callable


def test_every_line_of_a_node_is_json_and_names_its_operation(deployment: Deployment) -> None:
    app = deployment.configure("""
        log_format = "json"
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 1
    """)
    deployment.environment["PYTHONWARNINGS"] = "ignore"  # that it runs as root
    pool = Pool("code", app=app)
    node = deployment.start_node("-Q", "pool.code")
    said = pool.submit("sample_operations.say", ["two\nlines"])
    said.get(timeout=DEADLINE)
    failed = pool.submit("sample_operations.fail")
    failed.get(timeout=DEADLINE, propagate=False)
    node.terminate()
    node.wait(DEADLINE)

    # Celery says this to the terminal, not to the log.
    logged = deployment.log().replace("worker: Warm shutdown (MainProcess)", "")
    lines = [json.loads(line) for line in logged.splitlines() if line]

    def find(which: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        return next(line for line in lines if which(line))

    assert {line["pool"] for line in lines} == {"code"}
    (name,) = {line["node"] for line in lines}
    assert name.startswith("code@")
    own = find(lambda line: line["logger"] == "shop")
    assert (own["message"], own["order"]) == ("two\nlines", 7)
    assert (own["operation"], own["id"]) == ("sample_operations.say", said.id)
    assert own["worker"] != node.pid
    error = find(lambda line: line["level"] == "ERROR")
    assert (error["operation"], error["id"]) == ("sample_operations.fail", failed.id)
    assert error["exception"].endswith("ValueError: as it was told")
    ready = find(lambda line: line["message"].endswith("ready."))
    assert "worker" not in ready
