"""Submitting many operations: each accepted once, and a failure says exactly which were."""

from __future__ import annotations

import base64
import json
import os
import signal
from itertools import count, islice
from urllib.parse import urlsplit

import pytest
import redis
from celery import signals
from celery.result import ResultSet
from kombu.exceptions import OperationalError
from tcp_proxy import Proxy

from pooltasks import Pool
from pooltasks.app import Extension, PoolApp
from pooltasks.broker.serialization import SERIALIZER
from pooltasks.errors import SubmissionError
from pooltasks.settings import Settings
from pooltasks.task import Operation

QUEUE = "pool.code"
CHUNK = 500


def make_app(url, **settings):
    app = PoolApp("submission", set_as_current=False)
    app._extension = Extension(Settings.load(redis_url=url, pools={"code": {}}, **settings))

    @app.task(base=Operation, shared=False, name="jobs.run", serializer=SERIALIZER)
    def run(number):
        return number

    return app


@pytest.fixture
def app(valkey_url):
    app = make_app(valkey_url)
    yield app
    app.close()


@pytest.fixture
def proxy(valkey):
    with Proxy(urlsplit(valkey.url).port) as proxy:
        yield proxy


@pytest.fixture
def far_app(proxy, valkey_url):
    """The application behind the proxy."""
    app = make_app(valkey_url.replace(str(urlsplit(valkey_url).port), str(proxy.port)))
    yield app
    app.close()


@pytest.fixture
def server(valkey_url):
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        yield client


def waiting(server):
    """Return id and argument of each message, the oldest first."""
    messages = map(json.loads, reversed(server.lrange(QUEUE, 0, -1)))
    return [
        (message["headers"]["id"], json.loads(base64.b64decode(message["body"]))[0][0])
        for message in messages
    ]


def calls(many):
    return ((number,) for number in range(many))


def test_all_are_submitted_in_their_order(app, server):
    results = Pool("code", app=app).submit_many("jobs.run", calls(1234))
    assert waiting(server) == list(zip(results.ids, range(1234), strict=True))
    assert len(results) == 1234
    assert results[7].id == results[7:9].ids[0] == results.ids[7]
    app.backend.store_result(results[3].id, "value", "SUCCESS")
    assert results[3].get(timeout=10) == "value"
    assert ResultSet(results).completed_count() == 1


def test_a_message_is_that_of_a_single_call(app, server):
    pool = Pool("code", app=app)
    (result,) = pool.submit_many(app.tasks["jobs.run"], [{"number": 1}], timeout=7)
    other = pool.submit("jobs.run", kwargs={"number": 1}, timeout=7)
    texts = server.lrange(QUEUE, 0, -1)
    one, many = (
        json.loads(text.replace(r.id, "")) for text, r in zip(texts, [other, result], strict=True)
    )
    for message in (one, many):
        del message["properties"]["delivery_tag"]
        headers = message["headers"]
        assert headers.pop("deadline") - headers.pop("published_at") == pytest.approx(7)
    assert many == one


def test_hundreds_go_with_one_command_and_leave_nothing_for_ever(app, server):
    pool = Pool("code", app=app)
    pool.submit_many("jobs.run", calls(1))
    server.config_resetstat()
    pool.submit_many("jobs.run", calls(100))
    counts = server.info("commandstats")
    assert counts["cmdstat_eval"]["calls"] <= 100 // 10  # a slow machine sends smaller chunks
    assert not any(name in counts for name in ("cmdstat_subscribe", "cmdstat_sadd"))
    assert all(server.ttl(key) > 0 for key in server.keys("pooltasks:*"))


def test_who_listens_hears_of_each(app):
    heard = []

    def before(body, **_):
        heard.append(("before", body[0]))

    def after(body, **_):
        heard.append(("after", body[0]))

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    try:
        Pool("code", app=app).submit_many("jobs.run", calls(3))
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(after)
    told = [("before", (n,)) for n in range(3)], [("after", (n,)) for n in range(3)]
    assert [heard[:3], heard[3:]] == list(told)


def test_nothing_is_submitted_if_the_first_call_is_wrong(app, server):
    for wrong in ([()], [(1, 2)], ["1"], [(object(),)]):
        with pytest.raises(Exception, match=r"argument|JSON"):
            Pool("code", app=app).submit_many("jobs.run", wrong)
    assert server.llen(QUEUE) == 0


def test_a_wrong_call_stops_what_comes_after_it(app, server):
    pool = Pool("code", app=app)
    wrong = [*calls(1200), (), *calls(3)]
    with pytest.raises(SubmissionError, match=r"jobs\.run, [\d,]+ were accepted") as raised:
        pool.submit_many("jobs.run", wrong)
    error = raised.value
    assert isinstance(error.__cause__, TypeError)
    assert [task_id for task_id, _ in waiting(server)] == error.accepted.ids
    assert len(error.unknown) == 0
    rest = list(error.rest)
    assert rest == wrong[len(error.accepted) :]
    rest.remove(())
    pool.submit_many("jobs.run", rest)
    assert [number for _, number in waiting(server)] == [*range(1200), *range(3)]


def cutting_at(number, cut):
    """Yield calls without end; do something before call ``number``."""
    for n in count():
        if n == number:
            cut()
        yield (n,)


def test_an_answer_that_is_lost_submits_nothing_twice(far_app, proxy, server):
    cut = cutting_at(2 * CHUNK + 7, proxy.cut_before_the_next_answer)
    results = Pool("code", app=far_app).submit_many("jobs.run", islice(cut, 4 * CHUNK))
    assert waiting(server) == list(zip(results.ids, range(4 * CHUNK), strict=True))


def test_a_connection_that_breaks_for_good_leaves_one_chunk_unknown(far_app, proxy, server):
    def cut():
        proxy.cut_before_the_next_answer(and_stop=True)

    with pytest.raises(SubmissionError) as raised:
        Pool("code", app=far_app).submit_many("jobs.run", cutting_at(2 * CHUNK + 7, cut))
    error = raised.value
    assert isinstance(error.__cause__, OperationalError)
    accepted, unknown = len(error.accepted), len(error.unknown)
    assert 0 < unknown <= CHUNK
    assert error.unknown_calls == [(n,) for n in range(accepted, accepted + unknown)]
    # This one was accepted, as can be seen from here.
    ids = [*error.accepted.ids, *error.unknown.ids]
    assert waiting(server) == list(zip(ids, range(accepted + unknown), strict=True))
    assert next(iter(error.rest)) == (accepted + unknown,)


def test_what_was_not_sent_can_be_submitted_again(far_app, app, proxy, server):
    far = Pool("code", app=far_app).submit_many
    with pytest.raises(SubmissionError) as raised:
        far("jobs.run", islice(cutting_at(2 * CHUNK + 7, proxy.stop), 3 * CHUNK))
    assert len(raised.value.unknown) == 0
    results = Pool("code", app=app).submit_many("jobs.run", raised.value.rest)
    ids = [*raised.value.accepted.ids, *results.ids]
    assert waiting(server) == list(zip(ids, range(3 * CHUNK), strict=True))


def test_where_celery_has_to_publish_they_go_one_by_one(app, server):
    app.conf.task_send_sent_event = True
    results = Pool("code", app=app).submit_many("jobs.run", calls(3))
    assert waiting(server) == [(result.id, n) for n, result in enumerate(results)]
    with pytest.raises(SubmissionError) as raised:
        Pool("code", app=app).submit_many("jobs.run", [(1,), (), (2,)])
    assert len(raised.value.accepted) == 1
    assert list(raised.value.rest) == [(), (2,)]


def test_an_eager_application_runs_them(app, server):
    app.conf.task_always_eager = True
    results = Pool("code", app=app).submit_many("jobs.run", calls(3))
    assert [result.get() for result in results] == [0, 1, 2]
    assert server.llen(QUEUE) == 0


def lanes(server):
    return server.keys("pooltasks:*submission:*")


def test_thousands_of_submissions_leave_one_key_in_the_slot_of_the_queue(app, server):
    pool = Pool("code", app=app)
    for number in range(2000):
        pool.submit_many("jobs.run", [(number,)])
    (key,) = lanes(server)
    assert key.startswith(f"pooltasks:{{{QUEUE}}}:submission:")
    assert server.get(key) == "2000"
    assert 0 < server.ttl(key) <= 3600
    assert server.llen(QUEUE) == 2000


def test_the_deployment_s_prefix_stands_before_the_key_and_in_its_tag(valkey_url, server):
    app = make_app(valkey_url, key_prefix="one:")
    Pool("code", app=app).submit_many("jobs.run", [(1,)])
    app.close()
    (key,) = server.keys("*submission:*")
    assert key.startswith(f"one:pooltasks:{{one:{QUEUE}}}:submission:")


def test_submissions_at_the_same_time_have_a_lane_each(app, server):
    pool = Pool("code", app=app)

    def numbers():
        for number in range(CHUNK + 1):
            if number % CHUNK == 0:
                pool.submit_many("jobs.run", [(-1,)])
            yield (number,)

    pool.submit_many("jobs.run", numbers())
    pool.submit_many("jobs.run", numbers())
    assert len(lanes(server)) == 2
    assert server.llen(QUEUE) == 2 * (CHUNK + 1) + 4


def test_a_lane_whose_last_chunk_is_in_doubt_is_not_used_again(far_app, proxy, server):
    far_app.conf.task_publish_retry = False
    pool = Pool("code", app=far_app)
    pool.submit_many("jobs.run", [(1,)])
    proxy.cut_before_the_next_answer()
    with pytest.raises(SubmissionError):
        pool.submit_many("jobs.run", [(2,)])
    pool.submit_many("jobs.run", [(3,)])
    assert sorted(server.get(key) for key in lanes(server)) == ["1", "2"]


def test_a_forked_process_has_lanes_of_its_own(app, server):
    pool = Pool("code", app=app)
    pool.submit_many("jobs.run", [(1,)])
    child = os.fork()
    if child == 0:
        # It ends here whatever happens: it must neither go on with the tests nor be waited for.
        signal.alarm(10)
        try:
            pool.submit_many("jobs.run", [(2,)])
        except BaseException:  # noqa: BLE001  the exit code says it
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    pool.submit_many("jobs.run", [(3,)])
    assert sorted(server.get(key) for key in lanes(server)) == ["1", "2"]
    assert server.llen(QUEUE) == 3
