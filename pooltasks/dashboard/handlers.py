"""The pages, their data and their files. Every one of them asks who is there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from flower.views import BaseHandler
from tornado.web import HTTPError, authenticated

from pooltasks.app import settings_of
from pooltasks.dashboard.reader import STEPS
from pooltasks.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pooltasks.settings import PoolSettings

# Nothing from elsewhere, no script in the page. Plotly sizes and colours its
# elements by styles of their own.
_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_FOR_EVER = "private, max-age=31536000, immutable"


class Handler(BaseHandler):
    """What all of ours have in common."""

    def set_default_headers(self) -> None:
        """Let no other site read this, nor the page load anything from elsewhere."""
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Content-Security-Policy", _POLICY)
        self.set_header("Cache-Control", "no-store")

    def settings_of_pool(self, pool: str) -> PoolSettings:
        """Return the settings of ``pool``; answers 404 if there is none."""
        try:
            return settings_of(self.capp).pool_settings(pool)
        except ConfigurationError as error:
            raise HTTPError(404, "%s", error.message, reason="No such pool") from error

    def page(self, template: str, **arguments: Any) -> None:
        """Write a page. ``arguments["start"]`` is what its script begins with, as JSON."""
        its_start: Mapping[str, Any] = arguments.pop("start", {})
        start = {
            "pools": self.application.feed.pools(),
            "root": self.reverse_url("pools"),
            **its_start,
        }
        self.render(
            template,
            file=lambda name: self.reverse_url("pools-file", self.application.assets.version, name),
            start=json.dumps(start).replace("<", r"\u003c"),
            **arguments,
        )


class DataHandler(Handler):
    """Answers a script: with 401, not with a page to log in."""

    def get_login_url(self) -> str:
        """Refuse; a script cannot log in."""
        raise HTTPError(401)

    def answer(self, compressed: bytes, kind: str = "application/json") -> None:
        """Write what is compressed already."""
        self.set_header("Content-Type", kind)
        self.set_header("Vary", "Accept-Encoding")
        self.set_header("Content-Encoding", "gzip")
        self.write(compressed)


class PoolsPage(Handler):
    """All pools."""

    @authenticated
    def get(self) -> None:
        """Write the page."""
        self.page("pools.html")


class PoolPage(Handler):
    """One pool."""

    @authenticated
    def get(self, pool: str) -> None:
        """Write the page."""
        self.settings_of_pool(pool)
        self.page("pool.html", pool=pool, start={"pool": pool, "windows": list(STEPS)})


class PoolsData(DataHandler):
    """All pools, as JSON."""

    @authenticated
    async def get(self) -> None:
        """Write them, the worst first."""
        self.answer(await self.application.feed.overview())


class PoolData(DataHandler):
    """One pool, as JSON."""

    @authenticated
    async def get(self, pool: str) -> None:
        """Write it. Query: ``window`` in seconds, ``since`` as an earlier answer's cursor."""
        self.settings_of_pool(pool)
        window = self.get_argument("window", "300", type=int)
        since = self.get_argument("since", None, type=float)
        if window not in STEPS:
            allowed = ", ".join(map(str, STEPS))
            raise HTTPError(400, f"window is {window}; allowed: {allowed}")
        self.answer(await self.application.feed.page(pool, window, since))


class File(DataHandler):
    """A file that the pages load."""

    @authenticated
    def get(self, version: str, name: str) -> None:
        """Write it."""
        assets = self.application.assets
        file = assets.get(name)
        if file is None or version != assets.version:
            raise HTTPError(404)
        self.set_header("Cache-Control", _FOR_EVER)
        self.answer(*file)
