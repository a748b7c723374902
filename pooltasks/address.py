"""The address of the server: one URL, as redis-py, kombu and Celery's backend each want it.

A URL is read as kombu reads it; its query may have the options that redis-py
reads there.

No message of this module contains the URL: it may hold a password.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

from kombu.utils.imports import symbol_by_name
from kombu.utils.url import url_to_parts
from redis.backoff import NoBackoff
from redis.connection import URL_QUERY_ARGUMENT_PARSERS
from redis.retry import Retry

from pooltasks.connections import OF_THREADS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import redis

    from pooltasks.connections import Kinds

    Client = TypeVar("Client", bound=redis.Redis)

_ALLOWED = (
    "redis://HOST:PORT/DB, rediss://HOST:PORT/DB, unix:///PATH?db=DB or "
    "sentinel://HOST:PORT;HOST:PORT/DB?master_name=NAME"
)
_UNIX = ("unix", "redis+socket", "socket")
_SCHEMES = ("redis", "rediss", "sentinel", *_UNIX)
PORTS = {"redis": 6379, "sentinel": 26379}
_SENTINEL_TIMEOUTS = {"socket_connect_timeout": 1.0, "socket_timeout": 1.0}
"""Seconds."""
_DATABASE = ("db", "virtual_host")
"""Names of the database in a query: redis-py's, and kombu's."""
_PARSERS: Any = URL_QUERY_ARGUMENT_PARSERS
_OPTIONS: Mapping[str, Callable[[str], Any]] = {**_PARSERS, "client_name": str}
"""Further options that redis-py reads from a query."""
_KOMBUS_OPTIONS = {
    "client_name",
    "health_check_interval",
    "max_connections",
    "retry_on_timeout",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_timeout",
}
"""The options of redis-py that are options of kombu's transport too."""
_VERIFICATION = {"0": "none", "1": "optional", "2": "required"}


@dataclass(frozen=True, slots=True)
class Server:
    """The contents of an address. Two URLs with equal contents lead to the same server."""

    hosts: tuple[tuple[str, int], ...] = ()
    """Host and port; of several, the first that answers. Those of Sentinels, if there are any."""
    path: str = ""
    """The socket, if it is one of this host."""
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    tls: Mapping[str, Any] | None = None
    """redis-py's ``ssl_…`` options; None without TLS."""
    credential_provider: str = ""
    """Name of a class of redis-py's ``CredentialProvider``."""
    master_name: str = ""
    """Name by which Sentinels know the server."""
    sentinel_login: Mapping[str, str] = field(default_factory=dict, repr=False)
    """``username`` and ``password`` of the Sentinels themselves."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further options for redis-py."""

    @property
    def url(self) -> str:
        """The address; :func:`read` makes the same of it."""
        query = {
            **({"db": self.database} if self.path else {}),
            **{key: _as_text(value) for key, value in self.options.items()},
            **self._common_query(),
        }
        if self.master_name:
            query["master_name"] = self.master_name
            query |= {f"sentinel_{key}": value for key, value in self.sentinel_login.items()}
            scheme = "sentinel"
        elif self.path:
            scheme = "unix"
        else:
            scheme = "redis" if self.tls is None else "rediss"
        places = [quote(self.path)]
        if not self.path:
            places = [f"{_as_netloc(*host)}/{self.database}" for host in self.hosts]
        return ";".join(_with_query(f"{scheme}://{self._login()}{at}", query) for at in places)

    @property
    def broker_url(self) -> str:
        """The address in the form that kombu and Celery's backend read."""
        query = self._common_query()
        if self.path:
            query = {"virtual_host": self.database, **query}
            return _with_query(f"redis+socket://{self._login()}{quote(self.path)}", query)
        scheme = "sentinel" if self.master_name else "redis" if self.tls is None else "rediss"
        if scheme == "rediss":
            # The default of redis-py; Celery's backend insists on being told.
            query.setdefault("ssl_cert_reqs", "required")
        return ";".join(
            _with_query(
                f"{scheme}://{self._login()}{_as_netloc(*host)}/{self.database}",
                query,
            )
            for host in self.hosts
        )

    @property
    def transport_options(self) -> dict[str, Any]:
        """The options that kombu and Celery's backend need beside the URL."""
        options = {key: value for key, value in self.options.items() if key in _KOMBUS_OPTIONS}
        if self.master_name:
            options |= {"master_name": self.master_name, "sentinel_kwargs": self.sentinel_options}
        return options

    @property
    def connection_options(self) -> dict[str, Any]:
        """The arguments of redis-py's connections, without host and port."""
        options: dict[str, Any] = {**self.options, **(self.tls or {}), "db": self.database}
        if self.credential_provider:
            options["credential_provider"] = symbol_by_name(self.credential_provider)()
        else:
            options |= {"username": self.username or None, "password": self.password or None}
        return options

    def is_place_of(self, other: Server) -> bool:
        """Return whether a connection to the one is as good as one to the other."""
        one, another = (
            replace(
                each,
                tls=None if each.tls is None else {"ssl_cert_reqs": "required", **each.tls},
                sentinel_login={},
                options={},
            )
            for each in (self, other)
        )
        return one == another

    @property
    def sentinel_options(self) -> dict[str, Any]:
        """The arguments of the clients of the Sentinels themselves."""
        # A Sentinel that is away is passed over: redis-py would try again for seconds, at
        # each connection.
        return {"retry": Retry(NoBackoff(), 0), **_SENTINEL_TIMEOUTS, **self.sentinel_login}

    def _login(self) -> str:
        if not (self.username or self.password):
            return ""
        return f"{quote(self.username, safe='')}:{quote(self.password, safe='')}@"

    def _common_query(self) -> dict[str, Any]:
        query = {key: _as_text(value) for key, value in (self.tls or {}).items()}
        if self.credential_provider:
            query["credential_provider"] = self.credential_provider
        return query

    def pool(self, kinds: Kinds, **options: Any) -> Any:
        """Return a pool of connections to the server; they are opened when they are used.

        Args:
            kinds: The classes that it is made of.
            **options: As those of :meth:`client`.
        """
        sentinel_kwargs = {**self.sentinel_options, **options.pop("sentinel_kwargs", {})}
        least = options.pop("min_other_sentinels", 0)
        options = {**self.connection_options, **options}
        if self.master_name:
            sentinel = kinds.sentinel(
                self.hosts, min_other_sentinels=least, sentinel_kwargs=sentinel_kwargs
            )
            options["connection_class"] = kinds.of_master[self.tls is not None]
            return kinds.pool_of_master(self.master_name, sentinel, is_master=True, **options)
        if self.path:
            options |= {"connection_class": kinds.on_socket, "path": self.path}
            options.pop("socket_keepalive", None)  # a socket of this host has none
        else:
            options["host"], options["port"] = self.hosts[0]
            several = len(self.hosts) > 1
            if several:
                options["hosts"] = self.hosts
            options["connection_class"] = kinds.of_hosts[self.tls is not None, several]
        return kinds.pool(**options)

    def client(self, kind: type[Client], **options: Any) -> Client:
        """Return a client of the server; it connects when it is used.

        Args:
            kind: redis-py's class, or one derived from it.
            **options: As redis-py's, and ``sentinel_kwargs`` and ``min_other_sentinels`` of
                its ``Sentinel``.
        """
        client: Client = kind.from_pool(self.pool(OF_THREADS, **options))  # type: ignore[assignment]
        return client


def read(url: str) -> Server:
    """Return the contents of an address.

    Raises:
        ValueError: This library does not understand the address.
    """
    scheme, found, rest = url.partition("://")
    if not found or scheme not in _SCHEMES:
        raise ValueError(f"not a Redis URL; allowed: {_ALLOWED}")
    if scheme in _UNIX:
        return _read_one(scheme, rest)
    # Each has a login and a database; or only the first has a login, the last a database.
    parts = [_read_one(scheme, part.removeprefix(f"{scheme}://")) for part in rest.split(";")]
    first = parts[0]
    server = replace(
        first,
        hosts=tuple(host for part in parts for host in part.hosts),
        database=next((part.database for part in parts if part.database), 0),
        tls=next((part.tls for part in reversed(parts) if part.tls), first.tls),
        master_name=next((part.master_name for part in parts if part.master_name), ""),
        sentinel_login=next((part.sentinel_login for part in parts if part.sentinel_login), {}),
        options={key: value for part in parts for key, value in part.options.items()},
    )
    if scheme == "sentinel" and not server.master_name:
        raise ValueError(
            "the URL of Sentinels takes master_name, and may have sentinel_username and "
            f"sentinel_password, in its query; allowed: {_ALLOWED}"
        )
    if scheme != "sentinel" and any(not _is_same(first, part) for part in parts[1:]):
        raise ValueError(
            "the URLs of a list may differ in host and port, not in login, database or TLS"
        )
    return server


def check(url: str) -> None:
    """Check an address.

    Raises:
        ValueError: This library does not understand the address.
    """
    read(url)


def _read_one(scheme: str, rest: str) -> Server:
    try:
        _, host, port, username, password, path, query = url_to_parts(f"{scheme}://{rest}")
    except ValueError:
        raise ValueError(f"not a Redis URL; allowed: {_ALLOWED}") from None
    if port == 0:
        raise ValueError(f"not a Redis URL; allowed: {_ALLOWED}")
    # url_to_parts leaves out empty parts.
    given = [part.partition("=") for part in rest.partition("?")[2].split("&")]
    empty = [name for name, _, value in given if name in _DATABASE and not value]
    database = next((query.pop(name) for name in _DATABASE if name in query), "x" if empty else "")
    if scheme in _UNIX:
        if not path:
            raise ValueError(f"the URL names no socket; allowed: {_ALLOWED}")
    else:
        if not host:
            raise ValueError(f"the URL names no host; allowed: {_ALLOWED}")
        database = database or path or "0"
    tls = read_tls({key: query.pop(key) for key in list(query) if key.startswith("ssl_")})
    server = Server(
        hosts=() if scheme in _UNIX else ((host, port or PORTS.get(scheme, 6379)),),
        path=f"/{path}" if scheme in _UNIX else "",
        database=read_database(database),
        username=username or query.pop("username", ""),
        password=password or query.pop("password", ""),
        tls=tls if tls or scheme == "rediss" else None,
        credential_provider=query.pop("credential_provider", ""),
        master_name=query.pop("master_name", "") if scheme == "sentinel" else "",
        sentinel_login={
            name.removeprefix("sentinel_"): query.pop(name)
            for name in ("sentinel_username", "sentinel_password")
            if scheme == "sentinel" and name in query
        },
    )
    return replace(server, options={key: read_option(key, value) for key, value in query.items()})


def read_option(name: str, value: str) -> Any:
    """Return the value of an option of redis-py's connections.

    Raises:
        ValueError: There is no such option, or it cannot be read.
    """
    if name not in _OPTIONS:
        known = ", ".join(sorted(name for name in _OPTIONS if not name.startswith("ssl_")))
        raise ValueError(f"the URL's query has {name!r:.40}; allowed there: {known}")
    try:
        return _OPTIONS[name](value)
    except ValueError:
        raise ValueError(f"the URL's query has a {name} that cannot be read") from None


def read_database(text: str | None) -> int:
    """Return the number of a database, which may have a slash before it; 0 for none.

    Raises:
        ValueError: It is no number.
    """
    text = (text or "0").strip("/") or "0"
    if not text.isdecimal():
        raise ValueError(f"the database is not a number; allowed: {_ALLOWED}")
    return int(text)


def read_tls(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return redis-py's options of TLS; words among them in one spelling.

    Raises:
        ValueError: ``ssl_cert_reqs`` is none of the three.
    """
    options = dict(given)
    if "ssl_cert_reqs" in options:
        word = options["ssl_cert_reqs"]
        # As redis-py has it, as the module ssl, as its numbers; None is redis-py's for none.
        number = str(int(word)) if isinstance(word, int) else str(word).lower()
        word = number.removeprefix("cert_")
        word = _VERIFICATION.get(word, word)
        if word not in _VERIFICATION.values():
            raise ValueError(
                "ssl_cert_reqs is none of: none, optional, required (or CERT_NONE, "
                "CERT_OPTIONAL, CERT_REQUIRED)"
            )
        options["ssl_cert_reqs"] = word
    for name, parse in _OPTIONS.items():
        if name.startswith("ssl_") and isinstance(options.get(name), str):
            options[name] = parse(options[name])
    return options


def _is_same(one: Server, other: Server) -> bool:
    """Return whether two of a list differ in host and port only."""
    return replace(one, hosts=()) == replace(other, hosts=())


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _as_netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{quote(host)}:{port}"


def _with_query(url: str, query: Mapping[str, Any]) -> str:
    return f"{url}?{urlencode(query, quote_via=quote)}" if query else url


def without_login(url: str) -> str:
    """Return an address that may be shown: without user names, passwords and options."""
    server = replace(read(url), username="", password="", sentinel_login={}, options={}, tls=None)
    return server.url


def connect(url: str, kind: type[Client], **options: Any) -> Client:
    """Return a client of the server.

    Args:
        url: Its address.
        kind: redis-py's class, or one derived from it.
        **options: As those of :meth:`Server.client`.
    """
    return read(url).client(kind, **options)
