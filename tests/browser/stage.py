"""A deployment with a dashboard, and a page of it in a browser."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from deployment import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Callable

    from dashboard_process import Dashboard
    from deployment import Deployment
    from playwright.sync_api import Page

    from pooltasks.embedded import EmbeddedServer

OUTPUT = Path(__file__).parents[2] / "test-output"
SCREENSHOTS = OUTPUT / "screenshots"
WIDTHS = {375: 812, 1920: 1080}
CONFIGURATION = """
[pools.code]
imports = ["sample_operations"]
pool_size = 2
max_pool_size = 8
checkout_timeout = 20
enable_optimizer = false

[pools.idle]
imports = ["sample_operations"]
"""
LIVE = "document.getElementById('live').dataset.state === 'live'"


class Scene:
    """A deployment with a server of its own, a node and a dashboard."""

    def __init__(self, server: EmbeddedServer, deployment: Deployment) -> None:
        self.server = server
        self.deployment = deployment
        self.pool: Any = None
        self.dashboard: Dashboard

    def start_node(self) -> None:
        self.deployment.start_node("-Q", "pool.code", "-n", f"code{len(self.deployment.nodes)}@%h")


class Watched:
    """A page, and everything that must not happen in it."""

    def __init__(self, page: Page, host: str) -> None:
        self.page = page
        self.host = host
        self.problems: list[str] = []
        self.elsewhere: list[str] = []
        self.asked: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._on_console)
        page.on("dialog", lambda dialog: self.problems.append(f"alert: {dialog.message}"))
        page.on("request", self._on_request)

    def _on_console(self, message: Any) -> None:
        # A request that fails is part of the tests that take the server away.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.problems.append(message.text)

    def _on_request(self, request: Any) -> None:
        self.asked.append(request.url)
        if not request.url.startswith((self.host, "data:", "blob:")):
            self.elsewhere.append(request.url)

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def wait_for(self, condition: str, what: str, deadline: float = DEADLINE) -> Any:
        """Wait until a JavaScript expression is true, and return it."""
        return self.until(lambda: self.page.evaluate(condition), what, deadline)

    def until(self, condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
        """Wait until a condition is true, and return it, while the page's events come in."""
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            self.page.wait_for_timeout(20)  # between looks
        pytest.fail(f"not within {deadline} s: {what}")

    def refreshes(self) -> list[str]:
        """The addresses of the data that were asked for."""
        return [url for url in self.asked if re.search(r"/data(\?|$)", url)]
