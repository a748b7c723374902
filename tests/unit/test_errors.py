"""Errors: one root, a message each, and the same class on both sides of the wire."""

from __future__ import annotations

import inspect
import json

import click
import fakeredis
import pytest
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from kombu.exceptions import EncodeError, OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from pooltasks import errors
from pooltasks.app import Extension, PoolApp
from pooltasks.errors import Category, PooltasksError, categorize
from pooltasks.settings import Settings

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value)
    and issubclass(value, PooltasksError)
    and value.__module__ == errors.__name__
]


@pytest.fixture
def backend(monkeypatch, tmp_path):
    """The result backend of a producer: it encodes and rebuilds exceptions, without a server."""
    monkeypatch.chdir(tmp_path)
    with fakeredis.FakeRedis() as client:
        app = PoolApp("errors", set_as_current=False)
        app._extension = Extension(Settings(), client=client)
        yield app.backend


def test_there_is_one_root():
    assert len(CLASSES) > 10
    assert all(
        issubclass(value, PooltasksError)
        for value in vars(errors).values()
        if inspect.isclass(value)
        and issubclass(value, Exception)
        and value.__module__ == errors.__name__
    )


@pytest.mark.parametrize("error_class", CLASSES)
def test_an_error_is_rebuilt_from_its_args(error_class):
    error = error_class("what happened")
    again = error_class(*error.args)
    assert str(again) == str(error) == "what happened"
    assert again.args == error.args


@pytest.mark.parametrize("error_class", CLASSES)
def test_an_error_survives_the_result_backend(backend, error_class):
    stored = json.loads(json.dumps(backend.prepare_exception(error_class("what happened"))))
    rebuilt = backend.exception_to_python(stored)
    assert type(rebuilt) is error_class
    assert str(rebuilt) == "what happened"
    assert rebuilt.category is error_class.category


@pytest.mark.parametrize(
    "error_class", [value for value in CLASSES if value is not errors.ConfigurationError]
)
def test_the_message_defaults_to_the_docstring(error_class):
    assert str(error_class()) == inspect.getdoc(error_class).partition("\n")[0]


def test_a_class_without_a_docstring_has_its_name_for_a_message():
    class UndocumentedError(PooltasksError):
        __doc__ = None

    assert str(UndocumentedError()) == "UndocumentedError"


def test_a_command_prints_a_configuration_error_as_one_message(capsys):
    @click.command()
    def command():
        raise errors.ConfigurationError("pool 'code': pool_size is wrong")

    with pytest.raises(SystemExit) as exit_:
        command([])
    assert exit_.value.code == 1
    assert capsys.readouterr().err == "Error: pool 'code': pool_size is wrong\n"


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (errors.PooltasksError(), Category.SYSTEM),
        (errors.ConfigurationError("wrong"), Category.INITIALIZATION),
        (errors.CheckoutTimeout(), Category.RESOURCE),
        (errors.DeadlineExceeded(), Category.TIMEOUT),
        (errors.OperationTimeout(), Category.TIMEOUT),
        (errors.MessageTooLargeError(), Category.COMMUNICATION),
        (errors.WarmUpError(), Category.INITIALIZATION),
        (errors.SessionNotFoundError(), Category.SESSION),
        (errors.ProgramNotFoundError(), Category.SESSION),
        (errors.ProgramError(), Category.PYTHON),
        (ConnectionError(), Category.CONNECTION),
        (ConnectionResetError(), Category.CONNECTION),
        (OperationalError(), Category.CONNECTION),
        (RedisConnectionError(), Category.CONNECTION),
        (RedisTimeoutError(), Category.CONNECTION),
        (SoftTimeLimitExceeded(), Category.TIMEOUT),
        (TimeLimitExceeded(1), Category.TIMEOUT),
        (TimeoutError(), Category.TIMEOUT),
        (WorkerLostError(), Category.COMMUNICATION),
        (MemoryError(), Category.RESOURCE),
        (ValueError(), Category.PYTHON),
        (EncodeError(), Category.PYTHON),
        (KeyboardInterrupt(), Category.PYTHON),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value.value,
)
def test_every_error_has_a_category(error, category):
    assert categorize(error) is category
