"""The address of the server: one URL, as redis-py, kombu and Celery's backend each want it.

No message of this module contains the URL: it may hold a password.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

if TYPE_CHECKING:
    import redis

    Client = TypeVar("Client", bound=redis.Redis)

_ALLOWED = (
    "redis://HOST:PORT/DB, rediss://HOST:PORT/DB, unix:///PATH?db=DB or "
    "sentinel://HOST:PORT;HOST:PORT/DB?master_name=NAME"
)
_SCHEMES = ("redis", "rediss", "unix")
_SENTINEL = re.compile(
    r"sentinel://(?:(?P<login>[^@/]*)@)?(?P<hosts>[^@/?]+)(?:/(?P<database>\d*))?"
    r"(?:\?(?P<query>.*))?"
)
_SENTINEL_PORT = 26379
_SENTINEL_TIMEOUTS = {"socket_connect_timeout": 1.0, "socket_timeout": 1.0}
"""Seconds."""
_SENTINEL_QUERY = {"master_name", "sentinel_username", "sentinel_password"}


class _Sentinels(NamedTuple):
    """Sentinels, and the server that they know."""

    login: str
    """``user:password`` of the server, quoted; empty if it wants none."""
    hosts: list[tuple[str, int]]
    database: int
    query: dict[str, str]

    @property
    def own_options(self) -> dict[str, Any]:
        """What clients of the sentinels themselves have to know."""
        login = {
            name.removeprefix("sentinel_"): value
            for name, value in self.query.items()
            if name != "master_name"
        }
        # One that is away is passed over: redis-py would try again for seconds, at
        # each connection.
        return {"retry": Retry(NoBackoff(), 0), **_SENTINEL_TIMEOUTS, **login}


def check(url: str) -> None:
    """Check an address.

    Raises:
        ValueError: It is none that this library understands.
    """
    if url.startswith("sentinel:"):
        _sentinels(url)
        return
    try:
        parts = urlsplit(url)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        port_is_valid = False
    if not port_is_valid or parts.scheme not in _SCHEMES:
        raise ValueError(f"not a Redis URL; allowed: {_ALLOWED}")
    if parts.scheme == "unix" and not parts.path.strip("/"):
        raise ValueError(f"the URL names no socket; allowed: {_ALLOWED}")
    if parts.scheme != "unix" and not parts.hostname:
        raise ValueError(f"the URL names no host; allowed: {_ALLOWED}")
    database = dict(parse_qsl(parts.query, keep_blank_values=True)).get("db", "0")
    in_path = parts.scheme != "unix" and parts.path
    if not database.isdecimal() or (in_path and not re.fullmatch(r"/\d*", parts.path)):
        raise ValueError(f"the database is not a number; allowed: {_ALLOWED}")


def _sentinels(url: str) -> _Sentinels:
    """Return the parts of an address of sentinels.

    Raises:
        ValueError: It has not the form that is allowed.
    """
    found = _SENTINEL.fullmatch(url.replace(";sentinel://", ";"))
    if found is None:
        raise ValueError(f"not a URL of Sentinels; allowed: {_ALLOWED}")
    query = dict(parse_qsl(found["query"] or ""))
    if "master_name" not in query or query.keys() - _SENTINEL_QUERY:
        raise ValueError(
            "the URL of Sentinels takes master_name, and may have sentinel_username and "
            f"sentinel_password, in its query; allowed: {_ALLOWED}"
        )
    hosts = []
    for host in found["hosts"].split(";"):
        name, _, port = host.partition(":")
        if not name or not (port or "1").isdecimal():
            raise ValueError(f"a Sentinel is not HOST:PORT; allowed: {_ALLOWED}")
        hosts.append((name, int(port or _SENTINEL_PORT)))
    return _Sentinels(found["login"] or "", hosts, int(found["database"] or 0), query)


def broker_url(url: str) -> str:
    """Return an address in the form that kombu and Celery's backend read."""
    if url.startswith("sentinel:"):
        its = _sentinels(url)
        login = f"{its.login}@" if its.login else ""
        return ";".join(
            f"sentinel://{login}{host}:{port}/{its.database}" for host, port in its.hosts
        )
    parts = urlsplit(url)
    # redis-py reads these from the query too; kombu would ignore them there.
    query = dict(parse_qsl(parts.query))
    credentials, _, address = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    user = user or quote(query.pop("username", ""), safe="")
    password = password or quote(query.pop("password", ""), safe="")
    database = query.pop("db", "")
    scheme, path = parts.scheme, parts.path
    if scheme == "unix":
        scheme = "redis+socket"
        query["virtual_host"] = database or "0"
    elif database:
        path = f"/{database}"
    if scheme == "rediss":
        # What redis-py does by itself, and Celery's backend insists on being told.
        query.setdefault("ssl_cert_reqs", "required")
    login = f"{user}:{password}@" if user or password else ""
    return f"{scheme}://{login}{address}{path}" + (f"?{urlencode(query)}" if query else "")


def transport_options(url: str) -> dict[str, Any]:
    """Return what kombu and Celery's backend have to know beside the URL."""
    if not url.startswith("sentinel:"):
        return {}
    its = _sentinels(url)
    return {"master_name": its.query["master_name"], "sentinel_kwargs": its.own_options}


def connect(url: str, kind: type[Client], **options: Any) -> Client:
    """Return a client of the server.

    Args:
        url: Its address.
        kind: redis-py's class, or one derived from it.
        **options: As redis-py's.
    """
    client: Client
    if not url.startswith("sentinel:"):
        client = kind.from_url(url, **options)  # type: ignore[assignment]
        return client
    its = _sentinels(url)
    user, _, password = its.login.partition(":")
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
        its.hosts, sentinel_kwargs=its.own_options
    )
    client = sentinel.master_for(
        its.query["master_name"],
        kind,
        db=its.database,
        username=unquote(user) or None,
        password=unquote(password) or None,
        **options,
    )
    return client


def of_broker(url: str, options: dict[str, Any], tls: Any) -> str:
    """Return the address that an application's Celery configuration names.

    Args:
        url: Its ``broker_url``.
        options: Its ``broker_transport_options``.
        tls: Its ``broker_use_ssl``: True, or redis-py's ``ssl_…`` options.
    """
    if url.startswith("sentinel:"):
        own = {f"sentinel_{key}": value for key, value in _own_login(options).items()}
        return f"{url}?{urlencode({'master_name': options.get('master_name', ''), **own})}"
    url = url.replace("redis+socket://", "unix://").replace("virtual_host=", "db=")
    if not tls:
        return url
    url = re.sub("^redis:", "rediss:", url)
    given = tls if isinstance(tls, dict) else {}
    query = {
        key: {0: "none", 1: "optional", 2: "required"}.get(value, value)
        if key == "ssl_cert_reqs"
        else value
        for key, value in given.items()
    }
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}" if query else url


def _own_login(options: dict[str, Any]) -> dict[str, Any]:
    its = options.get("sentinel_kwargs") or {}
    return {key: its[key] for key in ("username", "password") if key in its}
