"""A dashboard, started through its command, and what it answers."""

from __future__ import annotations

import gzip
import json
import subprocess
import urllib.error
import urllib.request
from base64 import b64encode
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from deployment import DEADLINE, Deployment, wait_until

from pooltasks.embedded import reserved_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCOUNT = "operator:secret"


class Dashboard:
    """A dashboard process, and what it answers."""

    def __init__(self, deployment: Deployment, pid: int, port: int, prefix: str = "") -> None:
        self.deployment = deployment
        self.pid = pid
        self.address = f"http://127.0.0.1:{port}"
        self.prefix = prefix

    def ask(
        self,
        path: str,
        *,
        account: str | None = ACCOUNT,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, str, dict[str, str]]:
        """Return status, text and headers of the answer."""
        request = urllib.request.Request(  # noqa: S310  the address is ours
            self.address + self.prefix + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Accept-Encoding": "gzip"} | (headers or {}),
        )
        if account is not None:
            login = b64encode(account.encode()).decode()
            request.add_header("Authorization", f"Basic {login}")
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as response:  # noqa: S310  as above
                status, raw, its = response.status, response.read(), dict(response.headers)
        except urllib.error.HTTPError as error:
            with error:
                status, raw, its = error.code, error.read(), dict(error.headers)
        if its.get("Content-Encoding") == "gzip":
            raw = gzip.decompress(raw)
        return status, raw.decode(), its

    def act(
        self,
        name: str,
        arguments: Any,
        *,
        account: str | None = ACCOUNT,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, str]:
        """Do an action as the page does it, with the token that the page was given."""
        token = "2|00000000|00000000000000000000000000000000|1700000000"  # noqa: S105  of nobody
        its = {"Cookie": f"_xsrf={token}", "X-XSRFToken": token, "Sec-Fetch-Site": "same-origin"}
        status, text, _ = self.ask(
            f"/pools/code/actions/{name}",
            account=account,
            body=arguments,
            headers={**its, **(headers or {})},
        )
        return status, text

    def json(self, path: str) -> Any:
        status, text, _ = self.ask(path)
        assert status == 200, text
        return json.loads(text)


@contextmanager
def running(
    deployment: Deployment, *options: str, prefix: str = "", stock: bool = False
) -> Iterator[Dashboard]:
    """Run a dashboard; ``stock`` is Flower by itself, with Celery's own command."""
    with reserved_port(None) as port:
        pass
    program = ["celery", "-A", "pooltasks", "flower"] if stock else ["pooltasks", "dashboard"]
    log = deployment.folder / f"dashboard-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            deployment.command(*program, f"--port={port}", "--address=127.0.0.1", *options),
            env=deployment.environment,
            cwd=deployment.folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    dashboard = Dashboard(deployment, process.pid, port, prefix)

    def up() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")
        try:
            return dashboard.ask("/healthcheck")[0] == 200
        except OSError:
            return False

    try:
        wait_until(up, "the dashboard answers")
        yield dashboard
    finally:
        process.terminate()
        process.wait(DEADLINE)
