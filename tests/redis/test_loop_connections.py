"""Event loops reach every kind of server that threads reach, and share nothing they should not."""

from __future__ import annotations

import ast
import asyncio
import gc
import json
import os
import signal
import subprocess
import threading
import time
import traceback
import warnings
import weakref
from contextlib import ExitStack, asynccontextmanager, contextmanager
from urllib.parse import quote

import pytest
import redis
from celery import Celery
from debian_servers import program, server
from kombu.exceptions import OperationalError
from tcp_proxy import Proxy

from pooltasks import Pool, install, operation
from pooltasks.app import PoolApp
from pooltasks.embedded import EmbeddedServer, reserved_port
from pooltasks.extension import Extension
from pooltasks.settings import Settings

DEADLINE = 20.0  # seconds
QUEUE = "pool.code"
ODD = "aä€ /?#%:@&=+;,'\"\\~!"
"""A password."""
STALL = 0.05
"""Seconds for which nothing may hold up a loop."""


@operation(pool="code", name="loop_connections.double")
def double(a):
    return 2 * a


@operation(pool="code", name="loop_connections.once", unique=True)
def once(a):
    return 2 * a


@contextmanager
def application(url, **configuration):
    """An application as a project has it, with pools and its results where its operations are."""
    app = Celery("theirs", broker=url, set_as_current=False)
    app.conf.update({"result_backend": url, **configuration})
    install(app, Settings(pools={"code": {}}))
    try:
        yield app
    finally:
        app.pooltasks.close()
        app.backend.result_consumer.stop()
        app.close()


def wait_until(condition, what="it happens"):
    deadline = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)  # between looks
    return found


class Consumer:
    """Does what a node does with the operations, through connections of its own."""

    def __init__(self, connect, app, queue=QUEUE, results=None):
        self._connect = connect
        self._backend = app.backend
        self._queue = queue
        self._results = results
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ends.set()
        self._thread.join(DEADLINE)

    def _run(self):
        client = None
        while not self._ends.is_set():
            try:
                client = client or self._connect()
                found = client.brpop(self._queue, 0.1)
                if found is not None:
                    headers = json.loads(found[1])["headers"]
                    self.store(
                        self._results or client,
                        headers["id"],
                        ast.literal_eval(headers["argsrepr"])[0] * 2,
                    )
            except redis.RedisError:
                client = None
                self._ends.wait(0.05)

    def store(self, client, task_id, value):
        key = self._backend.get_key_for_task(task_id)
        text = json.dumps({"status": "SUCCESS", "result": value, "task_id": task_id})
        client.set(key, text)
        client.publish(key, text)


async def value_of(result):
    return await result


async def use(app):
    """Publish and await in each way."""
    work = app.tasks[double.name]
    assert await (await work.adelay(1)) == 2
    results = await Pool("code", app).asubmit_many(double.name, [[n] for n in range(50)])
    assert [await each for each in results] == [2 * n for n in range(50)]
    assert await Pool("code", app).aexecute(double.name, [21]) == 42
    assert await (await app.tasks[once.name].adelay(3)) == 6


def prove(app, connect):
    with Consumer(connect, app):
        asyncio.run(within(use(app)))


async def within(coroutine, seconds=DEADLINE):
    async with asyncio.timeout(seconds):
        return await coroutine


@asynccontextmanager
async def no_stall(longest=STALL):
    """Fail if the loop was held up for longer at once, but by other processes of the machine."""
    worst = 0.0

    def now():
        with open("/proc/thread-self/schedstat") as file:  # noqa: PTH123  the kernel's
            _, waited, _ = file.read().split()
        return time.monotonic() - int(waited) / 1e9

    async def watch():
        nonlocal worst
        while True:
            began = now()
            await asyncio.sleep(0.002)
            worst = max(worst, now() - began)

    # Python's collector looks at all that the tests before have left: that is not ours.
    gc.collect()
    gc.disable()
    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        gc.enable()
    assert worst < longest, worst


# Kinds of servers.


def answers(**options):
    with redis.Redis(host="127.0.0.1", **options) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def address_of(valkey):
    return valkey.url.removeprefix("redis://").removesuffix("/0")


@pytest.fixture
def user(valkey):
    with redis.Redis.from_url(valkey.url) as admin:
        admin.acl_setuser(
            "some-one@!#",
            enabled=True,
            passwords=[f"+{ODD}"],
            keys="*",
            channels="*",
            commands=["+@all"],
        )
        yield "some-one@!#", ODD
        admin.acl_deluser("some-one@!#")


def test_a_user_whose_password_has_odd_characters(valkey, valkey_url, user):
    login = ":".join(quote(each, safe="") for each in user)
    with application(f"redis://{login}@{address_of(valkey)}/1") as app:
        prove(app, lambda: redis.Redis.from_url(valkey_url))


def test_a_wrong_password_is_told(valkey):
    with (
        application(f"redis://nobody:wrong@{address_of(valkey)}/1") as app,
        pytest.raises(OperationalError, match=r"WRONGPASS|invalid username"),
    ):
        asyncio.run(within(app.tasks[double.name].adelay(1)))


class Provider(redis.CredentialProvider):
    """Asks a server of its own, which takes a moment."""

    def get_credentials(self):
        time.sleep(0.2)
        return "some-one@!#", ODD


@pytest.mark.usefixtures("user")
def test_a_credential_provider_that_blocks_does_not_hold_up_the_loop(valkey, valkey_url, caplog):
    provider = f"{__name__}:Provider"
    url = f"redis://{address_of(valkey)}/1?credential_provider={provider}"

    async def main():
        async with no_stall(0.15):  # a first call imports what it needs
            await within(use(app))

    with (
        application(
            url,
            result_backend=f"redis://{address_of(valkey)}/1",
            redis_backend_credential_provider=provider,
        ) as app,
        Consumer(lambda: redis.Redis.from_url(valkey_url), app),
    ):
        asyncio.run(main())
    assert "backward compat" not in caplog.text


@pytest.mark.parametrize("scheme", ["redis+socket", "unix"])
def test_a_unix_socket(tmp_path, scheme):
    path = tmp_path / "a socket.sock"
    with EmbeddedServer(tmp_path / "data", unix_socket=path):
        if scheme == "unix":
            app = PoolApp("test", set_as_current=False)
            url = f"unix://{quote(str(path))}?db=2&socket_keepalive=true"
            app._extension = Extension(Settings(redis_url=url, pools={"code": {}}))
            prove(app, lambda: redis.Redis(unix_socket_path=str(path), db=2))
            app.close()
        else:
            with application(f"redis+socket://{quote(str(path))}?virtual_host=2") as app:
                prove(app, lambda: redis.Redis(unix_socket_path=str(path), db=2))


def test_a_list_of_brokers_leads_to_the_first_that_answers(valkey, valkey_url):
    urls = ["redis://127.0.0.1:1/1", f"redis://{address_of(valkey)}/1"]
    for broker in (urls, ";".join(urls)):
        with application(broker, result_backend=valkey_url) as app:
            prove(app, lambda: redis.Redis.from_url(valkey_url))


def test_results_on_a_server_of_their_own(valkey_url, tmp_path):
    with EmbeddedServer(tmp_path) as other:
        url = other.url.removesuffix("/0") + "/3"
        with (
            application(valkey_url, result_backend=url) as app,
            Consumer(
                lambda: redis.Redis.from_url(valkey_url), app, results=redis.Redis.from_url(url)
            ),
        ):
            asyncio.run(within(use(app)))


def test_who_has_no_results_on_redis_publishes_all_the_same(valkey_url):
    with application(valkey_url, result_backend="cache+memory://") as app:
        asyncio.run(within(app.tasks[double.name].adelay(1)))
        with redis.Redis.from_url(valkey_url) as client:
            assert client.llen(QUEUE) == 1
        app.backend.result_consumer = type("None", (), {"stop": lambda _: None})()


def test_a_key_prefix(valkey_url):
    options = {"global_keyprefix": "ours:"}
    with application(
        valkey_url,
        broker_transport_options=options,
        result_backend_transport_options=options,
    ) as app:
        with Consumer(lambda: redis.Redis.from_url(valkey_url), app, f"ours:{QUEUE}"):
            asyncio.run(within(use(app)))
        with redis.Redis.from_url(valkey_url) as client:
            assert all(key.startswith(b"ours:") for key in client.scan_iter())


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A folder with an authority of our own, and certificates for a server and a client."""
    folder = tmp_path_factory.mktemp("certificates")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

    def openssl(*arguments):
        command = [program("openssl"), *arguments]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other"):
        openssl(
            *("req", "-x509", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.crt"),
            *("-subj", f"/CN={name}"),
        )
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    for name in ("server", "client"):
        openssl("req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/CN=x")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-out", f"{name}.crt", "-extfile", "names"),
        )
    return folder


def tls_of(certificates, port, *options):
    return (
        *("--port", "0", "--tls-port", str(port), *options),
        *("--tls-cert-file", str(certificates / "server.crt")),
        *("--tls-key-file", str(certificates / "server.key")),
        *("--tls-ca-cert-file", str(certificates / "ca.crt")),
    )


@pytest.fixture(scope="module", params=["one side", "both sides"])
def tls(request, certificates, tmp_path_factory):
    """The port of a server that speaks TLS only, and redis-py's options for it."""
    mutual = request.param == "both sides"
    options = {"ssl_ca_certs": str(certificates / "ca.crt")}
    if mutual:
        options["ssl_certfile"] = str(certificates / "client.crt")
        options["ssl_keyfile"] = str(certificates / "client.key")
    wanted = ("--tls-auth-clients", "yes" if mutual else "no")
    folder = tmp_path_factory.mktemp("tls")
    with (
        reserved_port(None) as port,
        server(folder, *tls_of(certificates, port, *wanted)) as process,
    ):
        wait_until(lambda: answers(port=port, ssl=True, **options))
        yield port, options, process


def tls_client(port, options):
    return lambda: redis.Redis(host="127.0.0.1", port=port, ssl=True, **options)


def url_of(port, options):
    query = "&".join(f"{name}={quote(value)}" for name, value in options.items())
    return f"rediss://127.0.0.1:{port}/0?{query}"


def test_tls_by_the_address(tls):
    port, options, _ = tls
    url = url_of(port, {**options, "ssl_cert_reqs": "required"})
    with application(url) as app:
        prove(app, tls_client(port, options))


def test_tls_by_settings_of_the_application(tls):
    port, options, _ = tls
    its = {**options, "ssl_cert_reqs": "required"}
    plain = f"redis://127.0.0.1:{port}/0"
    with application(plain, broker_use_ssl=its, redis_backend_use_ssl=its) as app:
        prove(app, tls_client(port, options))


def test_a_list_of_brokers_over_tls(tls):
    port, options, _ = tls
    its = {**options, "ssl_cert_reqs": "required"}
    with application(
        f"rediss://127.0.0.1:1/0;rediss://127.0.0.1:{port}/0",
        broker_use_ssl=its,
        result_backend=url_of(port, its),
    ) as app:
        prove(app, tls_client(port, options))


def test_nobody_is_asked_for_a_certificate_where_none_is_wanted(tls):
    port, options, _ = tls
    its = {name: each for name, each in options.items() if name != "ssl_ca_certs"}
    with application(url_of(port, {**its, "ssl_cert_reqs": "none"})) as app:
        prove(app, tls_client(port, options))


def test_a_certificate_of_another_authority_is_refused(tls, certificates):
    port, options, _ = tls
    its = {**options, "ssl_ca_certs": str(certificates / "other.crt"), "ssl_cert_reqs": "required"}
    with application(url_of(port, its)) as app:
        work = app.tasks[double.name]
        with pytest.raises(OperationalError, match="certificate verify failed"):
            asyncio.run(within(work.adelay(1)))
        with pytest.raises(OperationalError, match="certificate verify failed"):
            asyncio.run(within(Pool("code", app).asubmit_many(double.name, [[1]])))


@pytest.mark.parametrize("tls", ["both sides"], indirect=True)
def test_a_client_without_its_certificate_is_refused(tls):
    port, options, _ = tls
    its = {"ssl_ca_certs": options["ssl_ca_certs"], "ssl_cert_reqs": "required"}
    said = []
    # The server closes a connection with unread data on it, so its alert may get lost: once more.
    while len(said) < 10 and not any("certificate" in each.lower() for each in said):
        with application(url_of(port, its)) as app, pytest.raises(OperationalError) as refused:
            asyncio.run(within(app.tasks[double.name].adelay(1)))
        said.append(str(refused.value))
    assert "certificate" in said[-1].lower(), said


@pytest.mark.timing
@pytest.mark.parametrize("connected", [False, True], ids=["anew", "connected"])
def test_a_server_that_stops_in_tls_ends_each_call_in_time(tls, connected):
    port, options, process = tls
    its = {**options, "ssl_cert_reqs": "required"}

    async def main():
        work = app.tasks[double.name]
        waiting = []
        if connected:
            waiting = [asyncio.create_task(value_of(await work.adelay(n))) for n in range(20)]
            await asyncio.sleep(0.1)
        process.send_signal(signal.SIGSTOP)
        async with no_stall():
            calls = []
            for number in range(300):
                calls.append(asyncio.create_task(work.adelay(number)))
                if number % 10 == 0:  # as requests come
                    await asyncio.sleep(0)
            return await within(asyncio.gather(*calls, *waiting, return_exceptions=True))

    with application(url_of(port, its), broker_transport_options={"socket_timeout": 1.0}) as app:
        asyncio.run(within(app.tasks[double.name].adelay(0)))  # imports what it needs
        began = time.monotonic()
        try:
            ended = asyncio.run(main())
        finally:
            process.send_signal(signal.SIGCONT)
        assert {type(each) for each in ended} == {OperationalError}
        assert time.monotonic() - began < 10
        with tls_client(port, options)() as client:
            client.flushdb()
        prove(app, tls_client(port, options))


# Sentinels


@pytest.fixture(params=["plain", "tls"])
def sentinels(request, tmp_path, certificates):
    """Ports of a master and of a Sentinel, the master's process, and what to configure."""
    is_tls = request.param == "tls"
    options = {"ssl_ca_certs": str(certificates / "ca.crt")} if is_tls else {}

    def port_of(port):
        if not is_tls:
            return ("--port", str(port))
        return (*tls_of(certificates, port, "--tls-auth-clients", "no"), "--tls-replication", "yes")

    with ExitStack() as stack:
        ports = [stack.enter_context(reserved_port(None)) for _ in range(3)]
        master, replica, sentinel = ports
        login = ("--requirepass", "secret", "--masterauth", "secret")
        its = {**options, "ssl": is_tls}
        process = stack.enter_context(server(tmp_path / "master", *port_of(master), *login))
        wait_until(lambda: answers(port=master, password="secret", **its))  # noqa: S106
        following = ("--replicaof", f"127.0.0.1 {master}", "--repl-diskless-sync-delay", "0")
        stack.enter_context(server(tmp_path / "replica", *port_of(replica), *login, *following))
        configuration = tmp_path / "sentinel.conf"
        configuration.write_text(
            f"sentinel monitor ours 127.0.0.1 {master} 1\n"
            "sentinel auth-pass ours secret\n"
            "sentinel down-after-milliseconds ours 1000\n"
            "sentinel failover-timeout ours 3000\n"
        )
        stack.enter_context(
            server(tmp_path / "sentinel", str(configuration), "--sentinel", *port_of(sentinel))
        )

        def knows_the_replica():
            with redis.Redis(host="127.0.0.1", port=sentinel, **its) as client:
                try:
                    return any(
                        not each["is_disconnected"] for each in client.sentinel_slaves("ours")
                    )
                except redis.RedisError:
                    return False

        wait_until(knows_the_replica, "the Sentinel knows the replica")
        yield Deployed(sentinel, its, process, options)


class Deployed:
    def __init__(self, port, its, master, options):
        self.port, self.its, self.master, self.options = port, its, master, options

    def application(self):
        # The first one is not there: the second is asked.
        url = f"sentinel://:secret@127.0.0.1:1/0;sentinel://:secret@127.0.0.1:{self.port}/0"
        transport = {"master_name": "ours", "socket_timeout": 2.0}
        tls = {}
        if self.options:
            transport["sentinel_kwargs"] = self.its
            its = {**self.options, "ssl_cert_reqs": "required"}
            tls = {"broker_use_ssl": its, "redis_backend_use_ssl": its}
        return application(
            url,
            broker_transport_options=transport,
            result_backend_transport_options=transport,
            **tls,
        )

    def connect(self):
        manager = redis.sentinel.Sentinel(
            [("127.0.0.1", self.port)], sentinel_kwargs=self.its, **self.its
        )
        return manager.master_for("ours", password="secret", socket_timeout=2)  # noqa: S106


@pytest.mark.timing
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_sentinels_lead_to_the_new_master(sentinels, end):
    async def call(work, number):
        try:
            async with asyncio.timeout(8):
                return await (await work.adelay(number))
        except (OperationalError, TimeoutError) as error:
            return error  # what the dead master had not told the new one is lost with it

    async def main(app):
        began = time.monotonic()
        await within(use(app))
        assert time.monotonic() - began < 3  # a Sentinel that is away is passed over
        work = app.tasks[double.name]
        sentinels.master.send_signal(end)
        ended = []
        while True:
            batch = [call(work, number) for number in range(20)]
            some = await within(asyncio.gather(*batch))
            ended += some
            if not any(isinstance(each, Exception) for each in some):
                break
            assert time.monotonic() - began < 60
            await asyncio.sleep(0.05)
        await within(use(app))
        return ended

    with sentinels.application() as app, Consumer(sentinels.connect, app):
        ended = asyncio.run(main(app))
    assert all(isinstance(each, int | OperationalError | TimeoutError) for each in ended)
    assert sum(isinstance(each, int) for each in ended) >= 20


# Loops, tasks and processes


def finish(client, app, value, queue=QUEUE):
    """Do what a node does with the next operation."""
    task_id = json.loads(client.rpop(queue))["headers"]["id"]
    Consumer(None, app).store(client, task_id, value)
    return task_id


@pytest.fixture
def app(valkey_url):
    with application(valkey_url) as app:
        yield app


@pytest.fixture
def client(valkey_url):
    with redis.Redis.from_url(valkey_url) as client:
        yield client


def test_a_loop_that_ends_closes_its_connections_and_the_next_has_its_own(app, client):
    work = app.tasks[double.name]
    before = len(client.client_list())
    for number in range(3):

        async def main():
            result = await work.adelay(number)  # noqa: B023  it runs before the next
            finish(client, app, 5)
            return await result

        assert asyncio.run(within(main())) == 5
        wait_until(lambda: len(client.client_list()) == before, "they are closed")


def test_a_loop_that_nobody_ended_is_forgotten_when_it_is_closed(app, client):
    work = app.tasks[double.name]

    def use_and_leave():
        loop = asyncio.new_event_loop()
        loop.run_until_complete(work.adelay(1))
        loop.close()
        return weakref.ref(loop)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        left = [use_and_leave() for _ in range(3)]
        asyncio.run(within(work.adelay(2)))  # the next loop
        gc.collect()
    assert [each() for each in left] == [None] * 3
    assert client.llen(QUEUE) == 4


def test_loops_of_several_threads_have_connections_of_their_own(app, valkey_url):
    with Consumer(lambda: redis.Redis.from_url(valkey_url), app):
        errors = []

        def run():
            try:
                asyncio.run(within(use(app)))
            except BaseException as error:  # noqa: BLE001  the test shows it
                errors.append(error)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
    assert not errors


def test_a_process_that_is_forked_has_connections_of_its_own(app, client, valkey_url):
    work = app.tasks[double.name]

    async def main():
        result = await work.adelay(1)
        waiting = asyncio.create_task(value_of(result))
        await asyncio.sleep(0.1)
        child = os.fork()
        if not child:
            try:
                asyncio.run(within(in_the_child()))
                os._exit(0)
            except BaseException:  # noqa: BLE001  the code tells
                traceback.print_exc()
                os._exit(1)
        ended = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(ended[1]) == 0
        finish(client, app, 4)  # the child has finished the parent's first one
        again = await work.adelay(3)
        return await waiting, again.id

    async def in_the_child():
        its = await work.adelay(2)
        with redis.Redis.from_url(valkey_url) as own:
            first = finish(own, app, 2)  # the parent's
            assert first != its.id
            finish(own, app, 40)
            assert await its == 40
            await work.adelay(4)

    value, _ = asyncio.run(within(main()))
    assert value == 2


def test_applications_of_one_process_do_not_meet(tmp_path, client, valkey_url):
    with (
        EmbeddedServer(tmp_path) as other,
        application(valkey_url) as one,
        application(other.url) as two,
        redis.Redis.from_url(other.url) as its_client,
    ):

        async def main():
            first, second = await asyncio.gather(
                one.tasks[double.name].adelay(1), two.tasks[double.name].adelay(2)
            )
            finish(client, one, "one")
            finish(its_client, two, "two")
            return await first, await second

        assert asyncio.run(within(main())) == ("one", "two")


def test_a_group_of_tasks_that_is_cancelled_leaves_the_others_alone(app, client):
    work, unique = app.tasks[double.name], app.tasks[once.name]

    async def fail():
        await asyncio.sleep(0.05)
        raise ValueError("enough")

    async def group_that_fails(kept):
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(value_of(await work.adelay(number)))
                group.create_task(value_of(kept))
            group.create_task(fail())

    async def main():
        kept = await work.adelay(0)
        awaited = asyncio.create_task(value_of(kept))
        with pytest.raises(ExceptionGroup) as caught:
            await group_that_fails(kept)
        assert [type(each) for each in caught.value.exceptions] == [ValueError]
        # In the middle of publishing:
        calls = [asyncio.create_task(work.adelay(number)) for number in range(20)]
        calls += [asyncio.create_task(unique.adelay(number)) for number in range(20)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended[::2])
        assert all(hasattr(each, "id") for each in ended[1::2])
        finish(client, app, "kept")
        return await awaited, asyncio.all_tasks()

    value, _ = asyncio.run(within(main()))
    assert value == "kept"


def test_a_cancellation_while_the_connection_is_made_leaves_no_other_database(
    app, client, valkey_url
):
    """What is published next is published as who and where it should be."""
    unique = app.tasks[once.name]

    async def main():
        for turns in range(30):
            call = asyncio.create_task(unique.adelay(turns))
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
        return await unique.adelay(100)

    with redis.Redis.from_url(valkey_url.removesuffix("/1")) as first:
        before = first.llen(QUEUE)
        result = asyncio.run(within(main()))
        assert first.llen(QUEUE) == before
    assert result.id in {json.loads(each)["headers"]["id"] for each in client.lrange(QUEUE, 0, -1)}


def test_a_time_limit_ends_each_wait(app):
    work = app.tasks[double.name]

    async def main():
        result = await work.adelay(1)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await result

    asyncio.run(within(main()))


# Answers of the server


def test_who_may_not_subscribe_is_told(valkey, client):
    client.acl_setuser(
        "mute", enabled=True, passwords=["+p"], keys="*", commands=["+@all"], reset_channels=True
    )
    with application(f"redis://mute:p@{address_of(valkey)}/1") as app:

        async def main():
            result = await app.tasks[double.name].adelay(1)
            with pytest.raises(OperationalError, match=r"(?i)permission"):
                await result

        asyncio.run(within(main(), 10))
    client.acl_deluser("mute")


def test_a_result_that_nobody_can_read_fails_who_waits_for_it_alone(app, client):
    work = app.tasks[double.name]

    async def main():
        broken, good = await work.adelay(1), await work.adelay(2)
        waiting = asyncio.create_task(value_of(broken))
        also = asyncio.create_task(value_of(good))
        await asyncio.sleep(0.1)
        key = app.backend.get_key_for_task(broken.id)
        client.rpop(QUEUE)
        client.set(key, "no result")
        client.publish(key, "no result")
        with pytest.raises(Exception, match="Expecting value"):
            await waiting
        finish(client, app, 4)
        assert await also == 4
        with pytest.raises(Exception, match="Expecting value"):
            await broken

    asyncio.run(within(main()))


@pytest.mark.timing
def test_who_waits_on_a_connection_that_everybody_forgot_gets_the_result(valkey, client):
    port = int(address_of(valkey).rpartition(":")[2])
    with (
        Proxy(port) as proxy,
        application(f"redis://127.0.0.1:{proxy.port}/1") as app,
    ):

        async def main():
            result = await app.tasks[double.name].adelay(1)
            waiting = asyncio.create_task(value_of(result))
            await asyncio.sleep(0.1)
            proxy.silence()  # new connections work
            finish(client, app, 3)
            return await waiting

        assert asyncio.run(within(main(), 10)) == 3
