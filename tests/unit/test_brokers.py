"""Every spelling of a Redis broker leads our clients where it leads kombu."""

from __future__ import annotations

import ssl
from dataclasses import replace
from urllib.parse import quote

import kombu
import pytest
import redis
from celery import Celery
from kombu.transport import redis as transport
from redis.sentinel import SentinelManagedSSLConnection

import pooltasks
from pooltasks import address
from pooltasks.broker.client import client_on, redis_client  # noqa: F401
from pooltasks.errors import ConfigurationError
from pooltasks.settings import Settings

pytestmark = [
    pytest.mark.usefixtures("bare_environment"),
]

MASTER = {"master_name": "m"}
CERTIFICATES = {"ssl_ca_certs": "/ca.pem", "ssl_certfile": "/c.pem", "ssl_keyfile": "/k.pem"}
EVERY = "".join(map(chr, range(33, 127))) + "äß€"
HARD = quote(EVERY, safe="")


class Provider(redis.CredentialProvider):
    def get_credentials(self):
        return "someone", "something"


PROVIDER = f"{__name__}:Provider"

CASES = [
    # Host, port, database
    ("redis://", {}),
    ("redis://h", {}),
    ("redis://h/", {}),
    ("redis://h//", {}),
    ("redis://h:7000", {}),
    ("redis://h:7000/", {}),
    ("redis://h/5", {}),
    ("redis://H.Example.COM:7000/15", {}),
    ("redis://10.0.0.1:7000/1", {}),
    ("redis://[::1]/1", {}),
    ("redis://[fe80::1]:7000/2", {}),
    ("redis://h%2Ex/1", {}),
    ("redis://h", {"broker_vhost": "4"}),
    ("redis://h", {"broker_port": 7001}),
    ("redis://h/3", {"broker_vhost": "4"}),
    ("redis://h:7000/3", {"broker_port": 7001}),
    # Login
    ("redis://u@h", {}),
    ("redis://:p@h", {}),
    ("redis://u:p@h", {}),
    ("redis://:@h", {}),
    ("redis://u:@h/1", {}),
    ("redis://u:a:b@h", {}),
    ("redis://u:a@b@h", {}),
    ("redis://u:a+b@h", {}),
    ("redis://u:a%20b@h", {}),
    ("redis://u:a%2Fb%3Fc%23d@h/1", {}),
    ("redis://u:%25@h", {}),
    ("redis://u:100%@h", {}),
    (f"redis://{HARD}:{HARD}@h:7000/1", {}),
    ("redis://h", {"broker_user": "u", "broker_password": "p"}),
    ("redis://a:b@h", {"broker_user": "u", "broker_password": "p"}),
    # TLS
    ("rediss://h", {}),
    ("rediss://u:p@h:7000/1", {}),
    ("rediss://h?ssl_cert_reqs=CERT_NONE", {}),
    ("rediss://h?ssl_cert_reqs=CERT_OPTIONAL", {}),
    ("rediss://h?ssl_cert_reqs=CERT_REQUIRED", {}),
    ("rediss://h?ssl_cert_reqs=none", {}),
    ("rediss://h?ssl_cert_reqs=optional", {}),
    ("rediss://h?ssl_cert_reqs=required", {}),
    ("rediss://h?ssl_cert_reqs=required&ssl_ca_certs=/ca.pem", {}),
    ("rediss://h?ssl_cert_reqs=none&ssl_check_hostname=false", {}),
    ("rediss://h?ssl_cert_reqs=required&ssl_check_hostname=False", {}),
    ("rediss://h?ssl_cert_reqs=required&ssl_check_hostname=true", {}),
    ("rediss://h?ssl_ca_certs=%2Fwith%20space%2Fca.pem&ssl_cert_reqs=required", {}),
    ("redis://h?ssl_cert_reqs=none", {}),
    ("redis://h", {"broker_use_ssl": True}),
    ("rediss://h", {"broker_use_ssl": True}),
    ("redis://h", {"broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_NONE}}),
    ("redis://h", {"broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_REQUIRED, **CERTIFICATES}}),
    ("rediss://h", {"broker_use_ssl": {"ssl_cert_reqs": 0}}),
    ("rediss://h", {"broker_use_ssl": {"ssl_cert_reqs": 2}}),
    ("rediss://h", {"broker_use_ssl": {"ssl_cert_reqs": "none"}}),
    ("rediss://h", {"broker_use_ssl": {"ssl_cert_reqs": "required", "ssl_check_hostname": False}}),
    ("rediss://h", {"broker_use_ssl": {"ssl_ca_data": "PEM & more", "ssl_password": "a b"}}),
    ("rediss://h", {"broker_use_ssl": {"ssl_min_version": ssl.TLSVersion.TLSv1_2}}),
    ("rediss://h?ssl_cert_reqs=none", {"broker_use_ssl": {"ssl_cert_reqs": "required"}}),
    ("rediss://h", {"redis_backend_use_ssl": {"ssl_cert_reqs": "required"}}),
    # Sockets of this host
    ("redis+socket:///run/x.sock", {}),
    ("redis+socket:///run/x.sock?virtual_host=3", {}),
    ("redis+socket:///run/x.sock?virtual_host=/3", {}),
    ("redis+socket://:p@/run/x.sock", {}),
    ("redis+socket://u:p@/run/x.sock?virtual_host=3", {}),
    ("redis+socket:///with%20space/x.sock", {}),
    (f"redis+socket://{HARD}:{HARD}@/run/x.sock", {}),
    (f"redis+socket:///run/x.sock?credential_provider={PROVIDER}", {}),
    ("redis+socket:///run/x.sock", {"broker_vhost": "2"}),
    # Credential providers
    (f"redis://h?credential_provider={PROVIDER}", {}),
    (f"redis://u:p@h?credential_provider={PROVIDER}", {}),
    (f"rediss://h?ssl_cert_reqs=none&credential_provider={PROVIDER}", {}),
    # Lists
    ("redis://a;redis://b:7000", {}),
    ("redis://u:p@a/1;redis://u:p@b:7000/1", {}),
    (["redis://a", "redis://b:7000"], {}),
    (["redis://:p@a/2"], {}),
    ("rediss://a?ssl_cert_reqs=none;rediss://b?ssl_cert_reqs=none", {}),
    # Sentinels
    ("sentinel://a", {"broker_transport_options": MASTER}),
    ("sentinel://a:1/6", {"broker_transport_options": MASTER}),
    ("sentinel://a:1;sentinel://b:2;sentinel://c", {"broker_transport_options": MASTER}),
    ("sentinel://:pw@a:1/6;sentinel://:pw@b:2/6", {"broker_transport_options": MASTER}),
    ("sentinel://u:pw@a:1/6;sentinel://u:pw@b:2/6", {"broker_transport_options": MASTER}),
    ("sentinel://:pw@a:1/6;sentinel://b:2", {"broker_transport_options": MASTER}),
    (["sentinel://:pw@a:1/6", "sentinel://:pw@b:2/6"], {"broker_transport_options": MASTER}),
    (
        "sentinel://a:1;sentinel://b:2",
        {"broker_transport_options": {**MASTER, "sentinel_kwargs": {"password": "s&?"}}},
    ),
    (
        "sentinel://a:1",
        {"broker_transport_options": {**MASTER, "sentinel_kwargs": {"ssl": True, "username": "x"}}},
    ),
    (
        "sentinel://a:1",
        {
            "broker_transport_options": MASTER,
            "broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_NONE},
        },
    ),
]


@pytest.fixture
def no_server(monkeypatch):
    """Kombu's channels can be made without one."""
    monkeypatch.setattr(transport.Channel, "_create_client", lambda *_, **__: _Client())


class _Client:
    def ping(self):
        return True


def configured(broker_url, configuration):
    app = Celery("project", set_as_current=False)
    app.conf.update(broker_url=broker_url, **configuration)
    return app


def tls_of(options, default=None):
    its = {name: value for name, value in options.items() if name.startswith("ssl_")}
    if "ssl_cert_reqs" in its:
        words = {"none": 0, "optional": 1, "required": 2}
        its["ssl_cert_reqs"] = words.get(its["ssl_cert_reqs"], its["ssl_cert_reqs"])
    return its or default


def place_of(options):
    """What decides where a connection goes, and as whom."""
    kind = options["connection_class"]
    provider = options.get("credential_provider")
    return {
        "host": options.get("host"),
        "port": options.get("port"),
        "path": options.get("path"),
        "db": options["db"],
        "username": options.get("username") or None,
        "password": options.get("password") or None,
        "provider": type(provider) if provider else None,
        "tls": issubclass(kind, redis.SSLConnection | SentinelManagedSSLConnection)
        and tls_of(options, {}),
        "unix": issubclass(kind, redis.UnixDomainSocketConnection),
    }


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize(("broker_url", "configuration"), CASES, ids=str)
def test_a_client_goes_where_kombu_goes(broker_url, configuration):
    app = configured(broker_url, configuration)
    channel = app.connection_for_write().default_channel
    pooltasks.install(app, Settings(pools={"code": {}}))
    client = redis_client(app)
    ours = client.connection_pool
    if "master_name" not in configuration.get("broker_transport_options", {}):
        theirs = place_of(channel._connparams())
        its = place_of({**ours.connection_kwargs, "connection_class": ours.connection_class})
        assert its == theirs
        return
    # kombu gives the host of the first Sentinel along, which nothing reads.
    theirs = place_of({**channel._connparams(), "host": None, "port": None})
    its = place_of({**ours.connection_kwargs, "connection_class": ours.connection_class})
    assert its == theirs
    pool = channel._sentinel_managed_pool()
    assert ours.service_name == pool.service_name
    hosts = [
        [
            {name: sentinel.connection_pool.connection_kwargs.get(name) for name in names}
            for sentinel in manager.sentinels
        ]
        for manager in (ours.sentinel_manager, pool.sentinel_manager)
        for names in [("host", "port", "username", "password")]
    ]
    assert hosts[0] == hosts[1]
    kinds = [
        [sentinel.connection_pool.connection_class for sentinel in manager.sentinels]
        for manager in (ours.sentinel_manager, pool.sentinel_manager)
    ]
    assert kinds[0] == kinds[1]


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize(("broker_url", "configuration"), CASES, ids=str)
def test_the_url_in_the_settings_says_it_all(broker_url, configuration):
    app = pooltasks.install(configured(broker_url, configuration), Settings(pools={"code": {}}))
    url = app.pooltasks.settings.redis_url.get_secret_value()
    server = address.read(url)
    assert address.read(server.url) == server
    if len(server.hosts) > 1 and not server.master_name:
        return  # our own application goes to one server
    # kombu, told of it as our own application is, goes to the same place.
    again = kombu.Connection(server.broker_url, transport_options=server.transport_options)
    back, _ = pooltasks.brokers.server_of(again)
    if server.tls is not None:
        # What redis-py does unless it is told otherwise, and kombu does not.
        server = replace(server, tls={"ssl_cert_reqs": "required", **server.tls})
    assert back == server


def test_an_instance_that_provides_credentials_reaches_our_clients(monkeypatch):
    provider = Provider()
    app = configured("redis://u:p@h", {})
    connection = kombu.Connection("redis://u:p@h", credential_provider=provider)
    monkeypatch.setattr(app, "connection_for_write", lambda: connection)
    pooltasks.install(app, Settings(pools={"code": {}}))
    options = redis_client(app).connection_pool.connection_kwargs
    assert options["credential_provider"] is provider
    assert options["password"] is None


@pytest.mark.parametrize(
    ("broker_url", "configuration", "problem"),
    [
        ("redis://:secret@h/x", {}, "not a number"),
        ("redis://:secret@a;redis://:other@b", {}, "may differ in host and port"),
        ("redis://:secret@a/1;redis://:secret@b/2", {}, "may differ in host and port"),
        ("sentinel://:secret@a", {}, "master_name"),
        ("redis://:secret@h", {"broker_use_ssl": {"ssl_cert_reqs": "maybe"}}, "ssl_cert_reqs"),
        ("redis+socket://:secret@/x?color=red", {}, "'color'"),
    ],
)
def test_what_is_not_understood_is_one_sentence_without_the_password(
    broker_url, configuration, problem
):
    with pytest.raises(ConfigurationError, match=problem) as raised:
        pooltasks.install(configured(broker_url, configuration))
    assert "secret" not in str(raised.value)


def test_of_several_hosts_the_first_that_answers_is_taken(monkeypatch):
    client = address.connect("redis://a:1;b:2;c:3/0", redis.Redis)
    connection = client.connection_pool.make_connection()
    tried = []

    def connect(self):
        tried.append((self.host, self.port))
        if self.host != "b":
            raise ConnectionRefusedError(self.host)
        return "a socket"

    monkeypatch.setattr(redis.Connection, "_connect", connect)
    assert connection._connect() == "a socket"
    assert tried == [("a", 1), ("b", 2)]
