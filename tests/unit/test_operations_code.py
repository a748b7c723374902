"""execute_code and the operations about a worker and a session, called as a worker calls them."""

from __future__ import annotations

import os
import sys
import time

import fakeredis
import pytest

from pooltasks import app, operations
from pooltasks.app import Extension
from pooltasks.errors import OperationRefusedError, ProgramError, SessionNotFoundError
from pooltasks.operations.program_cache import process_cache
from pooltasks.pool_settings import PoolSettings
from pooltasks.programs import programs_of
from pooltasks.settings import Settings


@pytest.fixture(autouse=True)
def worker(monkeypatch):
    """Make this process look like a worker of the pool ``code``, on fakeredis."""
    settings = Settings(
        pools={"code": PoolSettings(allow_execute_code=True), "safe": PoolSettings()}
    )
    with fakeredis.FakeRedis() as client:
        extension = Extension(settings, pool="code", client=client)
        monkeypatch.setattr(app, "_extension", extension)
        yield extension


def execute(code, inputs=None):
    return operations.execute_code.run(code, inputs)


def test_the_variable_result_is_the_result():
    assert execute("result = 1 + 1\n'last'") == {"result": 2, "stdout": ""}


def test_else_the_last_expression_is_the_result():
    assert execute("x = 20\nx + 1")["result"] == 21


@pytest.mark.parametrize("code", ["", "# nothing", "x = 1"])
def test_else_the_result_is_none(code):
    assert execute(code)["result"] is None


def test_the_last_expression_runs_once():
    assert execute("calls = []\ncalls.append(1)\nlen(calls)")["result"] == 1


def test_the_code_finds_its_inputs():
    assert execute("a * b", {"a": 6, "b": 7})["result"] == 42


def test_each_run_has_a_fresh_namespace():
    execute("left_over = 1")
    with pytest.raises(NameError, match="left_over"):
        execute("left_over")


def test_functions_see_each_other():
    source = "def f(n): return 1 if n < 2 else n * f(n - 1)\nf(5)"
    assert execute(source)["result"] == 120


def test_what_is_printed_is_returned(capsys):
    assert execute("print('a')\nprint('b')\n3") == {"result": 3, "stdout": "a\nb\n"}
    assert capsys.readouterr().out == ""


def test_stdout_is_put_back_after_an_error():
    before = sys.stdout
    with pytest.raises(ZeroDivisionError):
        execute("print('a'); 1 / 0")
    assert sys.stdout is before


def test_annotations_are_evaluated_as_in_a_file_of_its_own():
    assert execute("def f(x: int): ...\nf.__annotations__['x'] is int")["result"] is True


def test_source_that_is_not_python_raises_where():
    with pytest.raises(SyntaxError) as caught:
        execute("x = 1\nif x")
    assert caught.value.lineno == 2


def test_a_call_of_exit_does_not_end_the_worker():
    with pytest.raises(ProgramError, match=r"sys\.exit\(3\)"):
        execute("import sys\nsys.exit(3)")


def test_a_pool_that_does_not_allow_it_refuses(worker):
    worker.pool = "safe"
    with pytest.raises(OperationRefusedError, match=r"'safe' does not allow.*\[pools\.safe\]"):
        execute("open('/tmp/never', 'w')")


def test_a_process_that_serves_no_pool_refuses(worker):
    worker.pool = None
    with pytest.raises(OperationRefusedError, match="only in a worker"):
        execute("1")


def test_ping_says_which_worker_answers():
    answer = operations.ping.run()
    assert answer["status"] == "ok"
    assert answer["pid"] == os.getpid()
    assert answer["pool"] == "code"
    assert answer["timestamp"] == pytest.approx(time.time(), abs=5)
    assert 0 <= answer["uptime"] <= time.monotonic()


# Other tests' libraries may have left threads behind, of which Python 3.12 warns at a fork.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_uptime_is_that_of_the_forked_worker():
    reader, writer = os.pipe()
    parents = operations.ping.run()["uptime"]
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, repr(operations.ping.run()["uptime"]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        childs = float(pipe.read())
    os.waitpid(pid, 0)
    assert 0 <= childs < parents + 5
    assert childs < operations.ping.run()["uptime"]


def test_stats_tell_about_worker_and_session():
    programs_of(app).put("s", "p", {})
    process_cache().get("s", "p", "r", lambda: "built")
    stats = operations.get_stats.run(session_id="s")
    assert (stats["pid"], stats["pool"]) == (os.getpid(), "code")
    assert stats["programs_cached"] == 1
    assert stats["session"]["session_id"] == "s"
    assert stats["session"]["programs"] == 1
    operations.cleanup_session.run(session_id="s")


def test_stats_without_a_session_are_those_of_the_anonymous_one():
    stats = operations.get_stats.run()
    assert stats["session"]["session_id"] == "anonymous"
    assert stats["session"]["programs"] == 0


def test_stats_of_a_missing_session_raise():
    with pytest.raises(SessionNotFoundError, match="'s'"):
        operations.get_stats.run(session_id="s")


def test_cleanup_deletes_the_session_and_what_the_worker_kept_of_it(worker):
    programs_of(app).put("s", "p", {})
    process_cache().get("s", "p", "r", lambda: "built")
    assert operations.cleanup_session.run(session_id="s") == {"session_id": "s", "deleted": True}
    assert len(process_cache()) == 0
    assert worker.client.keys() == []


def test_cleanup_of_a_session_that_is_gone_is_no_error():
    assert operations.cleanup_session.run(session_id="s") == {"session_id": "s", "deleted": False}


def test_the_operations_have_their_public_names():
    for name in operations.__all__:
        assert getattr(operations, name).name == f"pooltasks.operations.{name}"


def test_each_run_is_logged_without_the_code(caplog):
    execute("result = 'a secret'")
    assert "code of 19 characters runs, sha256 " in caplog.text
    assert "a secret" not in caplog.text
