"""The private interface of Celery, kombu, billiard and redis-py that the library uses: one list.

Their releases may change it without a word. So this file names all of it, and fails with the
name that a release has changed, before anything else does.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from pkgutil import walk_packages

import pytest

import pooltasks

OVERRIDDEN = {
    "billiard.pool.ApplyResult.handle_timeout": "self, soft",
    "billiard.pool.ApplyResult.ready": "self",
    "billiard.pool.Pool.TimeoutHandler": "processes, cache, t_soft, t_hard",
    "billiard.pool.Pool.close": "self",
    "billiard.pool.Pool.terminate": "self",
    "billiard.pool.Pool.terminate_job": "self, pid, sig",
    "billiard.pool.TimeoutHandler.on_hard_timeout": "self, job",
    "billiard.pool.TimeoutHandler.on_soft_timeout": "self, job",
    "billiard.pool.Worker.after_fork": "self",
    "billiard.pool.Worker.workloop": "self, debug, now, pid",
    "celery.concurrency.asynpool.AsynPool.ResultHandler": "args, kwargs",
    "celery.concurrency.asynpool.AsynPool.WorkerProcess": "self, worker",
    "celery.concurrency.asynpool.AsynPool.flush": "self",
    "celery.concurrency.asynpool.AsynPool.get_process_queues": "self",
    "celery.concurrency.asynpool.AsynPool.on_job_process_down": "self, job, pid_gone",
    "celery.concurrency.asynpool.AsynPool.on_job_process_lost": "self, job, pid, exitcode",
    "celery.concurrency.asynpool.AsynPool.on_process_alive": "self, pid",
    "celery.concurrency.asynpool.AsynPool.process_flush_queues": "self, proc",
    "celery.concurrency.asynpool.ResultHandler.on_stop_not_started": "self",
    "billiard.pool.ApplyResult._ack": "self, i, time_accepted, pid, synqW_fd",
    "billiard.pool.ApplyResult._set": "self, i, obj",
    "billiard.pool.Pool._avail_index": "self",
    "billiard.pool.Pool._join_exited_workers": "self, shutdown",
    "billiard.pool.Pool._repopulate_pool": "self, exitcodes",
    "billiard.pool.Pool._worker_active": "self, worker",
    "billiard.pool.Worker._make_protected_receive": "self, conn",
    "celery.backends.base.Backend._get_result_meta": (
        "self, result, state, traceback, request, format_date, encode"
    ),
    "celery.backends.base.BaseKeyValueStoreBackend._store_result": (
        "self, task_id, result, state, traceback, request, kwargs"
    ),
    "celery.backends.redis.RedisBackend._chord_part_return_script": "attribute",
    "celery.backends.redis.ResultConsumer._flush_pending_unsubscribe": "self",
    "celery.backends.redis.ResultConsumer._reconnect_pubsub": "self",
    "celery.concurrency.asynpool.AsynPool._create_worker_process": "self, i",
    "celery.concurrency.asynpool.AsynPool._create_write_handlers": (
        "self, hub, pack, dumps, protocol"
    ),
    "celery.concurrency.asynpool.AsynPool._event_process_exit": "self, hub, proc",
    "celery.concurrency.asynpool.AsynPool._stop_task_handler": "task_handler",
    "celery.concurrency.asynpool.AsynPool._track_child_process": "self, proc, hub",
    "celery.concurrency.asynpool.ResultHandler._make_process_result": "self, hub",
    "celery.concurrency.prefork.TaskPool._get_info": "self",
    "celery.worker.consumer.consumer.Consumer._update_prefetch_count": "self, index",
    "celery.worker.heartbeat.Heart._send": "self, event, retry",
    "celery.worker.request.Request._announce_revoked": "self, reason, terminated, signum, expired",
    "celery.worker.request.Request._context": "attribute",
    "celery.worker.worker.WorkController._process_task": "self, req",
    "kombu.message.Message._decode": "self",
}
"""What classes of the library replace, with the names of the parameters."""

READ = {
    "celery._state": {"_get_active_apps", "_tls"},
    "celery.app.amqp": {"_callback_publish_retry", "_create_task_sender", "_producer_pool"},
    "celery.app.base": {"_backend_cache", "_finalize_mutex", "_local", "_pool", "_task_from_fun"},
    "celery.app.task": {"_app", "_dump_pydantic_arguments", "_get_exec_options"},
    "celery.backends.redis": {"_transport_options"},
    "celery.concurrency.asynpool": {"_sentinel_poll"},
    "celery.result": {"_maybe_set_cache", "_set_task_join_will_block"},
    "celery.utils.collections": {"_to_keys"},
    "billiard.pool": {"_job_terminated", "_process_by_pid", "_timeout", "_worker_pid", "_write_to"},
    "billiard.process": {"_config", "_controlled_termination", "_is_alive", "_name"},
    "billiard.queues": {"_reader", "_writer"},
    "billiard.util": {"_run_after_forkers"},
    "kombu.connection": {"_reraise_as_library_errors", "_transport"},
    "kombu.messaging": {"_channel"},
    "kombu.resource": {"_dirty", "_resource"},
    "kombu.serialization": {"_decoders", "_encoders"},
    "kombu.transport.redis": {"_async_pool", "_channels", "_get_pool", "_in_poll", "_put"},
    "kombu.transport.virtual.base": {
        "_delivered",
        "_get_message_priority",
        "_inplace_augment_message",
        "_raw",
    },
    "kombu.common": {"_mutex"},
    "redis.asyncio.connection": {"_reader", "_writer"},
    "redis.connection": {"_parser", "_sock"},
    "redis._parsers.base": {"_stream"},
}
"""What the library reads, sets or calls, by the module that has it."""

OWN = {"_eager_names", "_extension", "_note", "_outq_fd", "_read"}
"""Names of the library itself, in the same lines or in another module."""
PYTHONS = {"_current_frames"}
_OTHERS = ("billiard", "celery", "kombu", "redis")
_INTERNAL = {"billiard.pool", "celery.concurrency.asynpool"}
"""Modules that document nothing: all their names are private."""
_PRIVATE = re.compile(r"_[a-z]\w*")
_ACCESS = re.compile(r"\.(_[a-z]\w*)")
_OF_TYPING = {"_abc_impl", "_is_protocol"}


def _modules():
    for module in walk_packages(pooltasks.__path__, "pooltasks."):
        if ".templates" not in module.name and not module.name.endswith("__main__"):
            yield importlib.import_module(module.name)


def _overridden() -> set[str]:
    found = set()
    names = [each for module in _modules() for each in vars(module).values()]
    for own in {each for each in names if inspect.isclass(each)}:
        if not own.__module__.startswith("pooltasks"):
            continue
        for name in vars(own).keys() - _OF_TYPING:
            base = next((each for each in own.__mro__[1:] if name in vars(each)), object)
            is_private = _PRIVATE.fullmatch(name) and base.__module__.split(".")[0] in _OTHERS
            if is_private or (base.__module__ in _INTERNAL and not name.startswith("__")):
                found.add(f"{base.__module__}.{base.__qualname__}.{name}")
    return found


def _accessed() -> set[str]:
    found = set()
    for path in Path(pooltasks.__file__).parent.rglob("*.py"):
        for line in path.read_text("utf-8").splitlines():
            code, marked, _ = line.partition("# noqa: SLF001")
            if marked:
                found |= set(_ACCESS.findall(code))
    return found


@pytest.mark.parametrize("place", OVERRIDDEN)
def test_what_is_overridden_is_there_with_its_parameters(place: str) -> None:
    owner, _, name = place.rpartition(".")
    module, _, kind = owner.rpartition(".")
    value = getattr(getattr(importlib.import_module(module), kind), name)
    parameters = ", ".join(inspect.signature(value).parameters) if callable(value) else "attribute"
    assert parameters == OVERRIDDEN[place]


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in READ.items() for name in sorted(names)]
)
def test_what_is_read_is_a_name_of_its_module(module: str, name: str) -> None:
    source = inspect.getsource(importlib.import_module(module))
    assert re.search(rf"\b{name}\b", source)


def test_the_list_names_all_that_is_overridden_and_no_more() -> None:
    assert _overridden() == OVERRIDDEN.keys()


def test_the_list_names_all_that_is_read_and_no_more() -> None:
    assert _accessed() - OWN - PYTHONS == set().union(*READ.values())
