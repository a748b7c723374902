"""Operations behave as Celery tasks do, within the pool's times."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from celery import Celery, chain, chord, group, signature
from celery.exceptions import TimeLimitExceeded, WorkerLostError
from deployment import DEADLINE, Deployment, wait_until

from pooltasks import Pool
from pooltasks.errors import CheckoutTimeout, DeadlineExceeded, OperationTimeout

pytestmark = pytest.mark.long


@pytest.fixture
def step(serving: Deployment):
    def make(name: str, *args: object, **options: object):
        return signature(
            f"sample_operations.{name}", args=args, app=serving.app, queue="pool.code", **options
        )

    return make


def test_groups_chains_and_chords_work(step) -> None:
    assert group(step("echo", i) for i in range(5))().get(timeout=DEADLINE) == [0, 1, 2, 3, 4]
    assert chain(step("add", 1, 2), step("add", 4))().get(timeout=DEADLINE) == 7
    assert chord((step("add", i, i) for i in range(4)), step("add"))().get(timeout=DEADLINE) == 12


def test_an_error_of_the_operation_reaches_the_caller_as_it_was_raised(step) -> None:
    with pytest.raises(ValueError, match="as it was told"):
        step("fail").apply_async().get(timeout=DEADLINE)


def test_an_operation_is_stopped_at_its_timeout(serving: Deployment) -> None:
    with pytest.raises(OperationTimeout, match=r"sample_operations\.sleep was stopped after"):
        serving.pool.submit("sample_operations.sleep", [30]).get(timeout=DEADLINE)


def test_an_operation_that_ignores_its_timeout_is_killed(serving: Deployment) -> None:
    with pytest.raises(TimeLimitExceeded):
        serving.pool.submit("sample_operations.ignore_the_soft_limit").get(timeout=DEADLINE)
    assert serving.pool.execute("ping")["status"] == "ok"


def test_the_deadline_covers_waiting_and_running(serving: Deployment) -> None:
    started = time.monotonic()
    with pytest.raises(OperationTimeout):
        serving.pool.submit("sample_operations.occupy", [20], timeout=0.5).get(timeout=DEADLINE)
    assert time.monotonic() - started < 5


def test_a_retry_has_its_own_deadline_unless_the_caller_gave_one(serving: Deployment) -> None:
    serving.app.loader.import_task_module("sample_operations")
    serving.app.finalize()
    task = serving.app.tasks["sample_operations.try_again_later"]
    later = 2.2  # more than the checkout timeout and the operation timeout together
    assert task.delay(later).get(timeout=DEADLINE) == 1
    with pytest.raises(DeadlineExceeded):
        task.apply_async((later,), deadline=1.5).get(timeout=DEADLINE)


def test_celery_s_restart_of_all_workers_is_refused_in_one_sentence(serving: Deployment) -> None:
    (reply,) = serving.app.control.pool_restart(reply=True, limit=1, timeout=DEADLINE)
    (answer,) = reply.values()
    assert answer["error"].startswith("pool_restart: the workers of a pool cannot be restarted")
    assert serving.pool.execute("ping")["status"] == "ok"


def test_an_operation_that_reaches_a_worker_after_its_deadline_is_not_run(
    serving: Deployment,
) -> None:
    blockers = [serving.pool.submit("sample_operations.occupy", [1.5]) for _ in range(4)]
    key = "started-after-its-deadline"
    late = serving.pool.submit("sample_operations.die_once", [key], timeout=0.2)
    with pytest.raises(DeadlineExceeded, match="was not run"):
        late.get(timeout=DEADLINE)
    assert serving.redis.get(key) is None
    for blocker in blockers:
        blocker.get(timeout=DEADLINE)


def test_what_waited_longer_than_the_checkout_timeout_is_not_run(deployment: Deployment) -> None:
    app = deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 1
        checkout_timeout = 0.5
    """)
    late = Pool("code", app=app).submit("sample_operations.die_once", ["late"])
    sent_at = time.monotonic()
    wait_until(lambda: time.monotonic() - sent_at > 0.6, "the checkout timeout passes")
    deployment.start_node("-Q", "pool.code")
    with pytest.raises(CheckoutTimeout, match=r"longer than its checkout timeout of 0\.5 s"):
        late.get(timeout=DEADLINE)
    assert deployment.redis.get("late") is None


def test_an_operation_whose_worker_dies_runs_again(serving: Deployment) -> None:
    result = serving.pool.submit("sample_operations.die_once", ["deliveries"])
    assert result.get(timeout=DEADLINE) == 2


def test_an_operation_that_is_not_idempotent_does_not_run_again(serving: Deployment) -> None:
    key = "deliveries-not-idempotent"
    # Sent by name it carries no task options: the node knows them.
    result = serving.pool.submit("sample_operations.die_once_not_idempotent", [key])
    with pytest.raises(WorkerLostError):
        result.get(timeout=DEADLINE)
    assert serving.redis.get(key) == "1"


def test_a_lost_connection_is_retried_with_backoff(serving: Deployment) -> None:
    result = serving.pool.submit("sample_operations.fail_until", ["attempts", 4])
    assert result.get(timeout=DEADLINE) == 4
    with pytest.raises(ConnectionError):
        serving.pool.submit("sample_operations.fail_until", ["attempts-2", 9]).get(timeout=DEADLINE)
    assert serving.redis.get("attempts-2") == "4"


def test_a_result_tells_wait_and_run(serving: Deployment) -> None:
    result = serving.pool.submit("sample_operations.occupy", [0.2])
    result.get(timeout=DEADLINE)
    timing = serving.app.backend.get_task_meta(result.id)["timing"]
    assert 0 <= timing["wait"] < 5
    assert 0.2 <= timing["run"] < 5


def test_a_stock_celery_client_sends_to_a_pool(serving: Deployment) -> None:
    stock = Celery("stock", broker=serving.url, backend=serving.url, set_as_current=False)
    result = stock.send_task("sample_operations.echo", ["stock"], queue="pool.code")
    assert result.get(timeout=DEADLINE) == "stock"


INSTALLED = """
from celery import Celery
import pooltasks

app = Celery("theirs", broker={url!r}, backend={url!r})
app.conf.task_default_queue = "theirs"

@app.task
def plain(x):
    return x

pooltasks.install(app)
from sample_operations import echo
if __name__ == "__main__":
    assert echo.app is app
    print(echo.delay("installed").get(timeout=20), pooltasks.Pool("code").execute("ping")["status"])
"""


def test_pools_are_added_to_an_application_that_exists(serving: Deployment) -> None:
    (serving.folder / "theirs.py").write_text(INSTALLED.format(url=serving.url))
    completed = subprocess.run(
        [sys.executable, "theirs.py"],
        env=serving.environment,
        cwd=serving.folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert completed.stdout == "installed ok\n", completed.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-Q", "celery"], "names no pool's queue"),
        (["-Q", "pool.code,pool.other"], "exactly one pool"),
        (["-Q", "pool.other"], "There is no pool 'other'. Pools: code"),
        (["-P", "threads"], "leave out -P"),
        (["-P", "solo", "-c", "3"], "leave out -c 3"),
        (["--autoscale", "10,1"], "leave out --autoscale"),
    ],
)
def test_a_node_refuses_what_it_cannot_serve(
    serving: Deployment, options: list[str], message: str
) -> None:
    completed = serving.run("celery", "-A", "pooltasks", "worker", *options)
    assert completed.returncode == 1
    assert message in completed.stderr
    assert "Traceback" not in completed.stderr
