"""The pages, their data and their files. Each of them asks for the login."""

from __future__ import annotations

import gzip
import json
from base64 import b64decode
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from flower.views import BaseHandler
from flower.views.monitor import Metrics
from kombu.exceptions import OperationalError
from pydantic import ValidationError
from redis.exceptions import RedisError
from tornado.ioloop import IOLoop
from tornado.web import HTTPError, RequestHandler, authenticated

from pooltasks import keys
from pooltasks.app import settings_of
from pooltasks.broker.client import redis_client
from pooltasks.broker.dead_letters import DeadLetters
from pooltasks.dashboard import errors, letters
from pooltasks.dashboard.actions import ACTIONS, carry_out
from pooltasks.dashboard.reader import DEFAULT_WINDOW, STEPS
from pooltasks.errors import (
    ConfigurationError,
    DeadLetterNotFoundError,
    ErrorGroupNotFoundError,
)
from pooltasks.metrics.error_groups import ErrorGroups
from pooltasks.remote import server_name
from pooltasks.whereabouts import found_nowhere, places_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pooltasks.pool_settings import PoolSettings

# Nothing from other sites, no script in the page. Inline styles are allowed: plotly
# sizes and colors its elements with them.
_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_T = TypeVar("_T")
_LONGEST_ID = 255
"""Characters."""
_FOR_EVER = "private, max-age=31536000, immutable"


class Handler(BaseHandler):
    """The base of all our handlers."""

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

    def why_not(self) -> str | None:
        """Return the reason why no action is allowed here; None if actions are."""
        options = self.application.options
        if options.read_only:
            return "This dashboard only shows: it was started with --read-only."
        if not (options.basic_auth or options.auth or self.unauthenticated_api):
            return (
                "Actions need a login: start the dashboard with --basic-auth=NAME:PASSWORD or "
                "--auth, or, where only you can reach it, with FLOWER_UNAUTHENTICATED_API=true."
            )
        return None

    def page(self, template: str, **arguments: Any) -> None:
        """Write a page. ``arguments["start"]`` is the JSON that its script begins with."""
        its_start: Mapping[str, Any] = arguments.pop("start", {})
        start = {
            "pools": self.application.feed.pools(),
            "root": self.reverse_url("pools"),
            "locked": self.why_not(),
            **its_start,
        }
        self.render(
            template,
            operation_id=arguments.pop("operation_id", ""),
            file=lambda name: self.reverse_url("pools-file", self.application.assets.version, name),
            modules=self.application.assets.modules,
            start=json.dumps(start).replace("<", r"\u003c"),
            **arguments,
        )


class DataHandler(Handler):
    """Answers a script: with 401, not with a page to log in."""

    def get_login_url(self) -> str:
        """Refuse; a script cannot log in."""
        raise HTTPError(401)

    def write_error(self, status_code: int, **kwargs: Any) -> None:  # noqa: ARG002  Tornado's interface
        """Write the error in a line of text.

        Without ``WWW-Authenticate``: a browser would ask for a password every second.
        """
        error = kwargs.get("exc_info", (None, None))[1]
        message = error.get_message() if isinstance(error, HTTPError) else "Internal error"
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish(message or self._reason)

    async def waiting(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Run a function that waits for the server in Flower's threads; answers 503 without it."""
        try:
            return await IOLoop.current().run_in_executor(None, function, *arguments)
        except (RedisError, OperationalError) as error:
            raise HTTPError(
                503, "%s", f"The server {server_name(self.capp)} does not answer."
            ) from error

    def answer(self, compressed: bytes, kind: str = "application/json") -> None:
        """Write compressed data, or unpacked data to a client that cannot read it compressed."""
        self.set_header("Content-Type", kind)
        self.set_header("Vary", "Accept-Encoding")
        if "gzip" in self.request.headers.get("Accept-Encoding", ""):
            self.set_header("Content-Encoding", "gzip")
            self.write(compressed)
        else:
            self.write(gzip.decompress(compressed))


class PrivateMetrics(Metrics):
    """Flower's page for Prometheus, for those who have the login."""

    @authenticated
    async def get(self) -> None:
        """Answer with the metrics."""
        await super().get()


class PoolsPage(Handler):
    """All pools."""

    @authenticated
    def get(self) -> None:
        """Write the page."""
        self.page("pools.html", first_data=f"{self.reverse_url('pools')}/-/data")


class PoolPage(Handler):
    """One pool."""

    @authenticated
    def get(self, pool: str) -> None:
        """Write the page."""
        if pool not in self.application.feed.pools():
            self.set_status(404)
            self.page("no_pool.html", pool=pool, pools=self.application.feed.pools())
            return
        # The script's first request, which the browser sends without waiting for the script.
        window = self.get_argument("window", "")
        window = window if window in map(str, STEPS) else str(DEFAULT_WINDOW)
        self.page(
            "pool.html",
            pool=pool,
            first_data=f"{self.reverse_url('pools')}/{pool}/data?window={window}",
            start={"pool": pool, "windows": list(STEPS), "window": DEFAULT_WINDOW},
        )


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
        window = self.get_argument("window", str(DEFAULT_WINDOW), type=int)
        since = self.get_argument("since", None, type=float)
        if window not in STEPS:
            allowed = ", ".join(map(str, STEPS))
            raise HTTPError(400, f"window is {window}; allowed: {allowed}")
        self.answer(await self.application.feed.page(pool, window, since))


class OperationPage(Handler):
    """The page that tells where one operation is."""

    @authenticated
    def get(self) -> None:
        """Write the page. Query: ``id``; without it the page asks for one."""
        operation_id = self.get_argument("id", "", escape=False)[:_LONGEST_ID]
        self.page("operation.html", operation_id=operation_id, start={"id": operation_id})


class OperationPlaces(DataHandler):
    """The places of one operation, as JSON: what ``pooltasks inspect`` says."""

    @authenticated
    async def get(self) -> None:
        """Write its ``places``, and the sentence ``nowhere`` if there are none. Query: ``id``."""
        operation_id = self.get_argument("id", "", escape=False)
        if not 0 < len(operation_id) <= _LONGEST_ID:
            raise HTTPError(400, "%s", f"An id has 1 to {_LONGEST_ID} characters.")
        places = await self.waiting(places_of, self.capp, operation_id)
        nowhere = None if places else found_nowhere(operation_id)
        self.write({"places": places, "nowhere": nowhere})


class LetterHandler(DataHandler):
    """Answers from the dead letters of a pool."""

    def store(self, pool: str) -> DeadLetters:
        """Return the letters of ``pool``."""
        bounds = settings_of(self.capp).pool_settings(pool).dead_letters
        return DeadLetters(redis_client(self.capp), keys.queue(pool), bounds)


class DeadLetterList(LetterHandler):
    """Dead letters of a pool, as JSON."""

    @authenticated
    async def get(self, pool: str) -> None:
        """Write those that match the query: ``reason``, ``operation``."""
        self.settings_of_pool(pool)
        reason = self.get_argument("reason", "", escape=False)
        operation = self.get_argument("operation", "", escape=False)
        self.write(await self.waiting(letters.listed, self.store(pool), reason, operation))


class DeadLetterText(LetterHandler):
    """One dead letter with its message, as JSON."""

    @authenticated
    async def get(self, pool: str) -> None:
        """Write the one that the query names: ``id``."""
        self.settings_of_pool(pool)
        letter = self.get_argument("id", required=True, escape=False)
        try:
            self.write(await self.waiting(letters.shown, self.capp, self.store(pool), letter))
        except DeadLetterNotFoundError as error:
            raise HTTPError(404, "%s", error) from error


class ErrorText(LetterHandler):
    """One kind of errors of a pool with an example, as JSON."""

    @authenticated
    async def get(self, pool: str) -> None:
        """Write the one that the query names: ``id``."""
        self.settings_of_pool(pool)
        kind = self.get_argument("id", required=True, escape=False)
        store = ErrorGroups(redis_client(self.capp), pool)
        try:
            self.write(await self.waiting(errors.shown, store, self.store(pool), kind))
        except ErrorGroupNotFoundError as error:
            raise HTTPError(404, "%s", error) from error


class PoolAction(DataHandler):
    """Does something to a pool."""

    def check_xsrf_cookie(self) -> None:
        """Refuse a request that another site makes a browser send, with or without a login."""
        site = self.request.headers.get("Sec-Fetch-Site")
        origin = self.request.headers.get("Origin")
        if site and site != "same-origin":
            raise HTTPError(403, "Another site sent this")
        if not site and origin and urlsplit(origin).netloc != self.request.host:
            raise HTTPError(403, "Another site sent this")
        RequestHandler.check_xsrf_cookie(self)

    @authenticated
    async def post(self, pool: str, name: str) -> None:
        """Do the action that the path names, with the arguments of the JSON body."""
        self.settings_of_pool(pool)
        refusal = self.why_not()
        if refusal:
            raise HTTPError(403, "%s", refusal)
        try:
            action = ACTIONS[name].model_validate_json(self.request.body)
        except KeyError:
            raise HTTPError(404, f"There is no such action; {', '.join(ACTIONS)}") from None
        except ValidationError as error:
            problem = error.errors(include_input=False)[0]
            place = ".".join(map(str, problem["loc"]))
            raise HTTPError(400, "%s", f"{place}: {problem['msg']}".lstrip(": ")) from error
        done = await self.waiting(
            carry_out, self.capp, pool, action, self.user_name(), self.request.remote_ip
        )
        self.set_status(200 if done.succeeded else 409)
        self.write({"outcome": done.outcome})

    def user_name(self) -> str:
        """Return the account's name, as authentication has checked it."""
        if isinstance(self.current_user, str):
            return self.current_user
        if not self.application.options.basic_auth:
            return "anonymous"
        _, credentials = self.request.headers["Authorization"].split()
        return b64decode(credentials).decode().partition(":")[0]


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
