"""What the users of the server may not do; that they can work: test_protected_deployment.py."""

from __future__ import annotations

import re
import time
from urllib.parse import urlsplit

import pytest
import redis
from flow import QUEUE, make_app, make_operation
from node_session import Node

from pooltasks import Pool, acl
from pooltasks.broker.dead_letters import letter
from pooltasks.broker.limit_store import Limit, LimitStore
from pooltasks.broker.limiting import Limits
from pooltasks.broker.purging import purge
from pooltasks.broker.uniqueness import Lock, Unique
from pooltasks.broker.wire import pack
from pooltasks.errors import PoolSaturated
from pooltasks.metrics.rollout_store import RolloutStore, with_rollouts

OF_THE_SERVER = """
acl list|acl setuser x on|acl getuser x|acl deluser x|acl log|acl genpass|bgrewriteaof|bgsave
client kill id 1|client list|client pause 9|client no-evict on|client unblock 1
cluster reset|cluster info|config get *|config set dir /tmp|config rewrite
config resetstat|debug sleep 0|dbsize|failover|flushall|flushdb|function flush|function list
keys *|lastsave|latency reset|memory stats|module list|module load x|monitor|psync ? -1
randomkey|replicaof no one|role|save|script flush|script kill|shutdown|slowlog get|swapdb 0 1|sync
"""
OF_OTHERS = """
get other|set other x|del other|lrange other 0 -1|lpush other x|hgetall other|unlink other
eval return 1 1 other|xadd other * a b|zadd other 1 a|expire other 1|copy other another
dump other|restore other 0 x|migrate h 1 other 0 1|object encoding other|rename other another
publish other x|subscribe other|psubscribe *|sort other|getdel other|setrange other 0 x
"""
OF_WAITING_OPERATIONS = """
rpop pool.code|lmove pool.code pool.code RIGHT LEFT|lpop pool.code|lset pool.code 0 x
lrem pool.code 0 x|linsert pool.code BEFORE x y|sort pool.code|rename pool.code x
hset pooltasks:{pool.code}:unacked:n 1 x|hdel pooltasks:{pool.code}:unacked:n 1
zadd pooltasks:{pool.code}:leases 1 n|del pooltasks:{pool.code}:leases
set pooltasks:{pool.code}:lock 1|xadd pooltasks:{pool.code}:samples:n * a b
zadd pooltasks:{pool.code}:flow:held 0 x|hset pooltasks:{pool.code}:flow:running x 1
hdel pooltasks:{pool.code}:flow:messages x|del pooltasks:{pool.code}:unique:1
publish pooltasks:{pool.code}:alive x
"""
FORBIDDEN = {
    "producer": OF_WAITING_OPERATIONS
    + """
del pool.code|lrange pool.code 0 -1|ltrim pool.code 0 0|set pool.code x
hgetall pooltasks:{pool.code}:dead|hdel pooltasks:{pool.code}:dead x|scan 0
hgetall pooltasks:{pool.code}:unacked:n|hgetall pooltasks:{pool.code}:delayed:messages
del pooltasks:{pool.code}:delayed|set pooltasks:{pool.code}:paused 1
rpush pooltasks:{pool.code}:hosts node|publish /0.celery.pidbox x|psubscribe /0.celeryev/*
hget pooltasks:session:s data:x|info|pubsub channels
hset pooltasks:{pool.code}:totals done 1|lpush pooltasks:{pool.code}:totals x
hset pooltasks:{pool.code}:flow:limits x y|hset pooltasks:{pool.code}:flow:running x 1
hgetall pooltasks:{pool.code}:flow:messages|zadd pooltasks:{pool.code}:flow:held 0 x
zrange pooltasks:{pool.code}:flow:held 0 -1
lpush pooltasks:{pool.code}:unique:1 x|lpush pooltasks:{pool.code}:room x
hget pooltasks:{pool.code}:errors:examples x|del pooltasks:{pool.code}:announced
""",
    "node": """
lset pool.code 0 x|lrem pool.code 0 x|sort pool.code|rename pool.code x|pubsub channels
publish other x|subscribe other
""",
    "dashboard": OF_WAITING_OPERATIONS
    + "\nscan 0|hset pooltasks:session:s data:x 1|pubsub channels",
    "operator": OF_WAITING_OPERATIONS.replace("set pooltasks:{pool.code}:lock 1|", "")
    + "\nscan 0|hset pooltasks:session:s data:x 1|pubsub channels",
    "exporter": OF_WAITING_OPERATIONS
    + """
lpush pool.code x|del pool.code|hdel pooltasks:{pool.code}:dead x
subscribe pooltasks:{pool.code}:due|set pooltasks:{pool.code}:paused 1
publish /0.celery.pidbox x|get celery-task-meta-1
""",
    "scaler": OF_WAITING_OPERATIONS
    + """
lrange pooltasks:{pool.code}:hosts 0 -1|rpush pooltasks:{pool.code}:hosts node|llen pool.code
get celery-task-meta-1|del pooltasks:{pool.code}:hosts
""",
}
CORRECT = "correct horse"
ALLOWED = {
    "producer": "lpush pool.code x|get celery-task-meta-1|subscribe celery-task-meta-1|ping|time",
    "node": "lmove pool.code pooltasks:{pool.code}:incoming:n RIGHT LEFT|set celery-task-meta-1 b",
    "dashboard": "xrevrange pooltasks:{pool.code}:samples:n + -|publish /0.celery.pidbox x",
    "operator": "xrevrange pooltasks:{pool.code}:samples:n + -|publish /0.celery.pidbox x|info",
    "exporter": "xrevrange pooltasks:{pool.code}:samples:n + -|info",
    "scaler": "llen pooltasks:{pool.code}:hosts",
}


def commands(text: str) -> list[list[str]]:
    return [
        each.split()
        for each in re.split(r"[|\n]+", text.replace("return 1 1", "return_1 1"))
        if each
    ]


@pytest.fixture
def server(redis_url):
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client
        for role in acl.ROLES:
            client.execute_command("ACL", "DELUSER", f"{acl.USER}{role}")


def give(server, **options):
    for line in acl.lines(**options):
        _, name, *rules = _parts(line)
        server.execute_command("ACL", "SETUSER", name, "reset", *rules)


def _parts(line: str) -> list[str]:
    """The parts of a line, a selector being one."""
    return re.findall(r"\([^)]*\)|\S+", line)


def may(server, role, command):
    """Whether a role may give a command; None if this server does not know it."""
    try:
        return server.execute_command("ACL", "DRYRUN", f"{acl.USER}{role}", *command) == "OK"
    except redis.ResponseError as error:
        assert "not found" in str(error), (command, str(error))  # noqa: PT017  of an older server
        return None


@pytest.mark.parametrize("role", acl.ROLES)
def test_what_is_no_business_of_a_role_is_refused(server, role):
    give(server)
    forbidden = commands(OF_THE_SERVER + OF_OTHERS + FORBIDDEN[role])
    verdicts = {" ".join(each): may(server, role, each) for each in forbidden}
    assert [*verdicts.values()].count(False) >= 60
    assert [each for each, allowed in verdicts.items() if allowed] == []
    assert [each for each in commands(ALLOWED[role]) if not may(server, role, each)] == []


def test_users_of_one_pool_reach_no_other(server):
    give(server, pools=["code"])
    for role in ("producer", "node"):
        assert may(server, role, ["lpush", "pool.code", "x"])
        assert may(server, role, ["lpush", "pool.code\x06\x163", "x"])
        assert not may(server, role, ["lpush", "pool.codec", "x"])
        assert not may(server, role, ["lpush", "pool.code-2", "x"])
        assert not may(server, role, ["lpush", "pool.other", "x"])
    assert not may(server, "node", ["hgetall", "pooltasks:{pool.other}:dead"])


def test_deployments_with_a_key_prefix_are_kept_apart(server):
    give(server, prefix="a[1]*:", result_prefix="a[1]*:")
    assert may(server, "producer", ["lpush", "a[1]*:pool.code", "x"])
    assert may(server, "node", ["hset", "a[1]*:pooltasks:{a[1]*:pool.code}:unacked:n", "1", "x"])
    assert not may(server, "producer", ["lpush", "pool.code", "x"])
    assert not may(server, "producer", ["lpush", "a1xx:pool.code", "x"])


def test_without_a_password_a_user_is_off_and_with_one_only_its_digest_is_written(server):
    give(server, passwords={"producer": CORRECT})
    assert CORRECT not in "".join(acl.lines(passwords={"producer": CORRECT}))
    address = server.connection_pool.connection_kwargs
    login = {"host": address["host"], "port": address["port"], "username": "pooltasks-producer"}
    with redis.Redis(**login, password=CORRECT) as producer:
        assert producer.ping()
    with (
        redis.Redis(**login, password=CORRECT[1:]) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()
    assert "off" in server.execute_command("ACL", "GETUSER", "pooltasks-node")["flags"]


@pytest.fixture
def of(server, redis_url):
    """Return the URL of a role's user; in the end the server has refused nothing to any of them."""
    give(server, passwords=dict.fromkeys(acl.ROLES, "secret"), database=1)
    server.execute_command("ACL", "LOG", "RESET")
    its = urlsplit(redis_url)

    def url(role):
        return its._replace(netloc=f"{acl.USER}{role}:secret@{its.netloc}").geturl()

    yield url
    assert [f"{each['username']}: {each['object']}" for each in server.acl_log(100)] == []


@pytest.fixture
def app(of):
    app = make_app(of("producer"), max_queue=6)
    yield app
    app.close()


@pytest.fixture
def node(of):
    node = Node(of("node"), QUEUE, limited=True)
    yield node
    node.die()


@pytest.fixture
def operator(of):
    with redis.Redis.from_url(of("operator")) as client:
        yield client


@pytest.fixture(params=["operator", "dashboard"])
def leader(request, of):
    """One who may lead a rollout by hand."""
    with redis.Redis.from_url(of(request.param)) as client:
        yield client


def test_each_role_may_do_its_part_of_flow_control(app, node, operator, of, server):
    limits = Limits(key="note", concurrency=2, rate=1000.0, burst=2)
    operation = make_operation(
        app, "jobs.run", limits=limits, unique=Unique(("number",), seconds=9)
    )
    node.session.send_until_done(pack(("HSET", node.names.limits, "code jobs.run", limits.text())))
    node.settle()
    pool = Pool("code", app=app)
    accepted = pool.submit_many(operation, [{"number": n, "note": "a"} for n in (1, 2, 3, 4, 1)])
    assert accepted.duplicates == {4}
    first, second = (reservation for reservation, _ in node.reserve())
    operation.apply_async((5, "a"), countdown=0.01)
    node.turn_until(lambda: server.llen(QUEUE) == 1, "the one that is due")
    with pytest.raises(PoolSaturated):
        pool.submit_many(operation, [(n, "b") for n in range(10, 30)])
    pool.record_metrics(queue_depth=1.0)

    store = LimitStore(operator, "code")
    assert store.operations() == ["jobs.run"]
    assert [(state.running, state.held) for state in store.states()] == [(2, 2)]
    for value in (None, "a"):
        store.change("jobs.run", value, Limit(5, None, None))
        store.change("jobs.run", value, None)

    digest = operation.unique.digest(operation, (1, "a"), {})
    owner = f"{accepted.ids[0]}:0"
    lock = Lock(node.names.unique(digest), owner, 9 * 10**12, is_free_at_start=False)
    node.reservations.controlled.update({first: lock, second: None})
    node.reservations.acknowledge(first)
    node.settle()
    assert server.pexpiretime(lock.key) == lock.till
    server.hset(node.names.of_limits[0], "!jobs.run/a", "1 1")
    by_hand = make_app(of("operator"))
    assert purge(by_hand, "code") == (5, 0, 1)
    by_hand.close()
    node.reservations.bury(second, letter(b"{}", "why", at=time.time()), None)
    node.settle()
    assert node.refusals == []


def test_each_role_may_do_its_part_of_a_rollout(of, leader, server):
    # The user of the node is that of the control node too.
    with redis.Redis.from_url(of("node")) as control:
        old = Node(of("node"), QUEUE, version="1")
        rollouts = RolloutStore(leader, "code")
        assert rollouts.start("1", "2")
        new = Node(of("node"), QUEUE, version="2")
        judge = RolloutStore(control, "code")
        assert with_rollouts(control, ["code"]) == ["code"]
        assert judge.step(judge.read(), 100, "it is there")
        server.lpush(QUEUE, '{"properties": {"correlation_id": "one"}}')
        old.turn_until(lambda: old.session.track, "the rollout")
        old.reserve()
        assert len(new.reserve()) == 1
        new.turn_until(lambda: server.hget(new.names.room, "aside"), "a look", old)
        assert rollouts.change(rollouts.read(), paused=1)
        assert rollouts.end(rollouts.read(), "aborted", "by hand")
        new.turn_until(lambda: new.session.is_retired, "the end")
        assert rollouts.start("1", "3")
        assert judge.end(judge.read(), "done", "it is there")
        assert rollouts.forget()
        for node in (old, new):
            assert node.refusals == []
            node.die()
