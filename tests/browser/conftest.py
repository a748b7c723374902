"""A browser, and a deployment whose pages it shows."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pooltasks import Pool
from pooltasks.embedded import EmbeddedServer, reserved_port

# The deployments of the acceptance tests.
sys.path.append(str(Path(__file__).parents[1] / "acceptance"))
from dashboard_process import ACCOUNT, running
from deployment import DEADLINE, Deployment
from stage import CONFIGURATION, WIDTHS, Scene, Watched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dashboard_process import Dashboard
    from playwright.sync_api import Browser


# Of a module: its event loop runs in this thread, where other tests run one of their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    reason = None
    try:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415  an optional dependency
    except ImportError:
        reason = "playwright is not installed"
    program = shutil.which("chromium")
    if program is None:
        reason = "no chromium on PATH (Debian: apt-get install chromium)"
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=[
                "--no-sandbox",  # the tests may run as root
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("scene")
    with reserved_port(None) as port:
        pass
    with (
        # On a port of its own, so that it can come back.
        EmbeddedServer(folder / "server", port=port) as server,
        Deployment(folder, server.url) as deployment,
    ):
        scene = Scene(server, deployment)
        scene.pool = Pool("code", app=deployment.configure(CONFIGURATION))
        scene.start_node()
        with running(deployment, f"--basic-auth={ACCOUNT}") as dashboard:
            scene.dashboard = dashboard
            scene.pool.execute("ping", timeout=DEADLINE)
            yield scene


@pytest.fixture
def watch(browser: Browser, scene: Scene, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Open a path of the dashboard; nothing may go wrong in any page that is opened."""
    name, _, password = ACCOUNT.partition(":")
    contexts = []
    opened: list[Watched] = []

    def open_page(
        path: str, width: int = 1920, theme: str = "light", at: Dashboard = scene.dashboard
    ) -> Watched:
        context = browser.new_context(
            viewport={"width": width, "height": WIDTHS[width]},
            color_scheme=theme,
            http_credentials={"username": name, "password": password},
            timezone_id="Asia/Kathmandu",
        )
        contexts.append(context)
        watched = Watched(context.new_page(), at.address)
        opened.append(watched)
        watched.page.goto(at.address + at.prefix + path)
        return watched

    yield open_page
    failed = [problem for watched in opened for problem in watched.problems]
    elsewhere = [url for watched in opened for url in watched.elsewhere]
    for context in contexts:
        context.close()
    assert failed == [], request.node.name
    assert elsewhere == []
