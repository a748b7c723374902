"""The state of pooltasks on a Celery application, and the application of an operation.

Celery's current application is the thread's, else the process's default one,
else one that Celery makes up. An operation looks further: a thread of a web
server has no application of its own, and its process may have several.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from celery import _state
from celery.utils.log import get_logger

from pooltasks.broker.clock import ServerClock
from pooltasks.broker.protection import protection_of
from pooltasks.broker.pusher import PUBLISH_TIMEOUT
from pooltasks.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import redis
    from celery import Celery

    from pooltasks.broker.publishing import Publisher
    from pooltasks.settings import Settings

logger = get_logger(__name__)

_ATTRIBUTE = "pooltasks"
LOCAL_BROKERS = ("memory", "filesystem")
"""Brokers of tests: there is no server, and nothing is ever asked of one."""


class LocalClock(ServerClock):
    """This host's clock: there is no server to ask."""

    def is_due(self) -> bool:
        """Return False."""
        return False


class Extension:
    """The state of pooltasks on a Celery application, as its attribute ``pooltasks``.

    Args:
        settings: The application's settings.
        pool: The pool that this process serves, in a node and its workers.
        client: The client of the server; one is made when it is needed.
        has_server: Whether the application's broker is Redis. Where it is not,
            operations are Celery tasks, and there are no pools.
        connection_options: Options that the clients of the server need besides its
            URL, as arguments of redis-py's connections.
        publish_timeout: Seconds for which a server may be silent to a process
            that publishes; None: for ever.
    """

    def __init__(
        self,
        settings: Settings,
        pool: str | None = None,
        client: redis.Redis | None = None,
        *,
        has_server: bool = True,
        connection_options: Mapping[str, Any] | None = None,
        publish_timeout: float | None = PUBLISH_TIMEOUT,
    ) -> None:
        self.settings = settings
        self.pool = pool
        self.has_server = has_server
        self.connection_options: Mapping[str, Any] = connection_options or {}
        self.publish_timeout = publish_timeout
        self.publisher: Publisher | None = None
        self.clock: ServerClock = ServerClock() if has_server else LocalClock()
        """The server's; a node's workers share it."""
        self.protection = protection_of(settings)
        """Signs and encrypts messages; None while no keys are set."""
        self.is_diverted = False
        """Whether messages go to a test instead of a broker (``pooltasks.testing``)."""
        self._client = client

    @property
    def client(self) -> redis.Redis | None:
        """The client of the server, once there is one.

        Raises:
            ConfigurationError: The application's broker is no server.
        """
        if not self.has_server:
            raise ConfigurationError(
                "This application has no Redis broker, so its pools have no server to ask. "
                "Set broker_url to redis://… before pooltasks.install(app)."
            )
        return self._client

    @client.setter
    def client(self, client: redis.Redis | None) -> None:
        self._client = client

    def check_broker(self, celery_app: Celery) -> None:
        """Raise if an operation cannot be sent, in an application without a server.

        Raises:
            ConfigurationError: There is no broker, or it became known after install().
        """
        conf = celery_app.conf
        scheme = str(conf.broker_write_url or "").partition(":")[0]
        if self.is_diverted or conf.task_always_eager or scheme in LOCAL_BROKERS:
            return
        raise ConfigurationError(
            f"{celery_app!r} had no Redis broker when pooltasks.install(app) was called, and its "
            f"broker_url is {'now ' + scheme if scheme else 'still not set'}. Set it to "
            "redis://… before install()."
        )

    def close(self) -> None:
        """Close the connections; new ones are made when they are needed."""
        if self.publisher is not None:
            self.publisher.pusher.close()
        if self._client is not None:
            self._client.close()


class _Applications:
    """The applications of this process that have pools."""

    def __init__(self) -> None:
        self.extended: WeakSet[Celery] = WeakSet()
        self.own: Celery | None = None
        """The library's own; the others come before it."""
        self.diverted: list[Celery] = []
        """Applications whose messages go to a test, the last one last."""
        self.told: WeakSet[Celery] = WeakSet()
        """Applications without pools for which the log says that operations pass them by."""


_applications = _Applications()


def extend(celery_app: Celery, extension: Extension) -> None:
    """Give an application pools."""
    celery_app.pooltasks = extension
    remember(celery_app)


def remember(celery_app: Celery) -> None:
    """Let operations find an application with pools, in any thread.

    One that was made with ``set_as_current=False`` stays apart, as it does for
    Celery's own shared tasks.
    """
    if celery_app.set_as_current:
        _applications.extended.add(celery_app)


def remember_own(celery_app: Celery) -> None:
    """Let operations find the library's own application if there is no other."""
    _applications.own = celery_app


@contextmanager
def preferred(celery_app: Celery) -> Iterator[None]:
    """Let operations of every thread find an application first that a test diverts."""
    _applications.diverted.append(celery_app)
    try:
        yield
    finally:
        _applications.diverted.remove(celery_app)


def application(pool: str | None = None) -> Celery:
    """Return the application to which an operation goes that this thread sends.

    That is the one that has the pool; of several the thread's current one or
    the process's default one; and the library's own if no other has pools.

    Args:
        pool: The operation's pool, if it names one.

    Raises:
        ConfigurationError: There are several, and nothing tells which one it is.
    """
    for diverted in reversed(_applications.diverted):
        if _may_have(diverted, pool):
            return diverted
    own, extended = _applications.own, _applications.extended
    present: Any = getattr(_state._tls, "current_app", None)  # noqa: SLF001  no public question
    if present is own:
        present = None
    if present is not None and _is_meant(present, pool):
        return present
    assert own is not None  # noqa: S101  pooltasks.app is imported by now
    if own.serves_a_pool or not extended:
        if present is not None and present not in _applications.told:
            _say_once(present)
        return own
    return _of_several([*extended], present, pool)


def _of_several(extended: list[Celery], present: Any, pool: str | None) -> Celery:
    candidates = [app for app in extended if pool in app.pooltasks.settings.pools] or extended
    for preferred_app in (present, _state.default_app):
        if preferred_app in candidates:
            return preferred_app
    if len(candidates) > 1:
        names = ", ".join(sorted(repr(app.main) for app in candidates))
        raise ConfigurationError(
            f"Several applications of this process have pools ({names}), and none is current in "
            "this thread. Call app.set_default() on one, or use app.tasks[NAME] and "
            "Pool(NAME, app)."
        )
    return candidates[0]


def _may_have(celery_app: Celery, pool: str | None) -> bool:
    """Return whether an application may have a pool: one that configures none has any."""
    pools = celery_app.pooltasks.settings.pools
    return pool is None or not pools or pool in pools


def _is_meant(present: Any, pool: str | None) -> bool:
    """Return whether the thread's current application has the pool, and so gets the operation."""
    extension = _extension_of(present)
    if extension is None and _is_for_tests(present):
        extend(present, Extension(settings_for_tests(), has_server=False))
        return True
    is_only = len(_applications.extended) < 2  # noqa: PLR2004  that is one
    return extension is not None and (pool is None or is_only or pool in extension.settings.pools)


def _extension_of(celery_app: Any) -> Extension | None:
    """Return the extension of an application; the library's own makes it when first needed."""
    extension: Extension | None = getattr(celery_app, _ATTRIBUTE, None)
    return extension


def _is_for_tests(celery_app: Any) -> bool:
    """Return whether an application was made for tests, as Celery's fixture ``celery_app`` is."""
    conf = getattr(celery_app, "conf", None)
    if conf is None:
        return False  # no application at all: Celery's trap for tests
    scheme = str(conf.broker_write_url or "").partition(":")[0]
    return bool(conf.task_always_eager) or scheme in LOCAL_BROKERS


def settings_for_tests() -> Settings:
    """Return the settings for a test's application: those of the one that it stands for."""
    extended = [*_applications.extended]
    if len(extended) == 1:
        settings: Settings = extended[0].pooltasks.settings
        return settings
    from pooltasks.settings import Settings  # noqa: PLC0415  pydantic, when settings are read

    return Settings.load()


def _say_once(celery_app: Celery) -> None:
    _applications.told.add(celery_app)
    logger.warning(
        "The Celery application %r has no pools: operations go to pooltasks' own application. "
        "Call pooltasks.install(app) if they are to go to its broker.",
        celery_app.main,
    )
