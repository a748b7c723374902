"""The server of an application's broker, as kombu sees it.

An application's Celery configuration says more than a URL: a list of them,
``broker_use_ssl``, ``broker_user``, transport options. kombu's connection has
read all of it. So the clients of pooltasks go where kombu goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kombu.utils.url import url_to_parts
from redis import SSLConnection

from pooltasks.address import PORTS, Server, read_database, read_option, read_tls

if TYPE_CHECKING:
    from kombu import Connection

_SIMPLE = (str, int, float)
_DIFFERENT = "the URLs of a list may differ in host and port, not in login, database or TLS"


def server_of(connection: Connection) -> tuple[Server, dict[str, Any]]:
    """Return the server that a connection of kombu's goes to.

    Args:
        connection: One through kombu's Redis transports; it need not be connected.

    Returns:
        The server, and those options of its clients that are objects and so
        are in no URL.

    Raises:
        ValueError: This library does not understand the connection.
    """
    objects: dict[str, Any] = {}
    provider = connection.credential_provider
    host, database = connection.hostname or "127.0.0.1", connection.virtual_host
    login = connection.userid or "", connection.password or ""
    path, query = "", {}
    if "://" in host:
        # kombu leaves the URL of a socket in one piece.
        _, _, _, username, password, path, query = url_to_parts(host)
        login = username or "", password or ""
        database = query.pop("virtual_host", database)
        provider = query.pop("credential_provider", None) or provider
        path = f"/{path}"
    if provider and not isinstance(provider, str):
        objects["credential_provider"] = provider
    transport = connection.transport_options or {}
    is_sentinel = connection.transport_cls == "sentinel"
    tls: dict[str, Any] | None = None
    # kombu ignores a value that is no mapping, and connects without TLS then.
    if isinstance(connection.ssl, Mapping) and connection.ssl and not path:
        tls, its = _told_apart(connection.ssl)
        objects |= its
    server = Server(
        hosts=()
        if path
        else _hosts(connection, host, PORTS["sentinel" if is_sentinel else "redis"]),
        path=path,
        database=read_database(str(database or "")),
        username="" if provider else login[0],
        password="" if provider else login[1],
        tls=tls,
        credential_provider=provider if isinstance(provider, str) else "",
        options={key: read_option(key, value) for key, value in query.items()},
    )
    if is_sentinel:
        server, its = _of_sentinels(server, transport)
        objects |= its
        if not server.master_name:
            raise ValueError(
                "broker_transport_options has no master_name, by which Sentinels know it"
            )
    return server, objects


def server_of_results(backend: Any) -> tuple[Server, dict[str, Any]]:
    """Return the server that a result backend of Celery's on Redis goes to; as :func:`server_of`.

    Args:
        backend: The backend. It has read its URL, ``redis_backend_use_ssl`` and the other settings.
    """
    given = backend.connparams
    hosts = given.get("hosts")
    has_tls = "connection_class" in given and issubclass(given["connection_class"], SSLConnection)
    tls, objects = _told_apart({key: given[key] for key in given if key.startswith("ssl_")})
    server = Server(
        hosts=()
        if given.get("path")
        else tuple((each["host"], int(each["port"])) for each in hosts or [given]),
        path=given.get("path", ""),
        database=int(given.get("db") or 0),
        username=given.get("username") or "",
        password=given.get("password") or "",
        tls=tls if has_tls else None,
    )
    if "credential_provider" in given:
        objects["credential_provider"] = given["credential_provider"]
    if hosts:
        server, its = _of_sentinels(server, backend._transport_options)  # noqa: SLF001  Celery's
        objects |= its
    return server, objects


def _told_apart(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of TLS that a URL may have, and those that are objects."""
    options = read_tls(given)
    tls = {name: value for name, value in options.items() if isinstance(value, _SIMPLE)}
    return tls, {name: value for name, value in options.items() if name not in tls}


def _of_sentinels(server: Server, transport: Mapping[str, Any]) -> tuple[Server, dict[str, Any]]:
    """Return a server that Sentinels know, and the options of their clients that are objects.

    Args:
        server: The server so far.
        transport: The transport options of the broker, or of the backend.
    """
    own = dict(transport.get("sentinel_kwargs") or {})
    names = [name for name in ("username", "password") if isinstance(own.get(name), str)]
    login = {name: own.pop(name) for name in names}
    objects: dict[str, Any] = {"sentinel_kwargs": own} if own else {}
    least = transport.get("min_other_sentinels")
    objects |= {"min_other_sentinels": least} if least else {}
    master = str(transport.get("master_name") or "")
    return replace(server, master_name=master, sentinel_login=login), objects


def _hosts(connection: Connection, host: str, default_port: int) -> tuple[tuple[str, int], ...]:
    hosts = [(host, int(connection.port or default_port))]
    for number, url in enumerate(connection.alt):
        _, other, port, username, password, path, query = url_to_parts(
            url if "://" in url else f"redis://{url}"
        )
        if not number:
            first = username, password, path, query
        elif connection.transport_cls != "sentinel" and (username, password, path, query) != first:
            raise ValueError(_DIFFERENT)
        else:
            hosts.append((other or "127.0.0.1", port or default_port))
    return tuple(hosts)
