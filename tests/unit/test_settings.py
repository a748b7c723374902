"""Settings: where they come from, and that a wrong one is one readable error."""

from __future__ import annotations

import os

import pytest

from pooltasks import address
from pooltasks.errors import ConfigurationError
from pooltasks.keys import CONTROL_POOL
from pooltasks.pool_settings import PoolSettings
from pooltasks.settings import Settings

PASSWORD = "sesame-open"  # noqa: S105  that it never shows is what is tested


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """A working directory without a file, and an environment without settings."""
    for name in [name for name in os.environ if name.upper().startswith("POOLTASKS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def toml(folder):
    """Write the conventional file."""

    def write(content):
        path = folder / "config" / "pools.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        return path

    return write


def error_of(**overrides):
    with pytest.raises(ConfigurationError) as raised:
        Settings.load(**overrides)
    return str(raised.value)


# Where a value comes from


def test_without_a_file_and_an_environment_the_defaults_hold():
    settings = Settings.load()
    assert settings.redis_url.get_secret_value() == "redis://127.0.0.1:6379/0"
    assert settings.pools == {}
    assert settings.pool is None
    assert settings.session_ttl == 3600


def test_most_defaults_are_those_of_the_requirements_document():
    its = PoolSettings()
    assert (its.init_timeout, its.operation_timeout) == (30, 60)
    assert (its.strategy, its.lazy) == ("lifo", False)
    assert (its.health_check_interval, its.max_health_failures) == (30, 3)
    assert (its.enable_optimizer, its.enable_metrics, its.metrics_interval) == (True, True, 1)


def test_the_defaults_that_differ_are_for_small_machines_and_a_quick_optimizer():
    its = PoolSettings()
    sizes = (its.pool_size, its.min_pool_size, its.max_pool_size, its.max_overflow)
    assert sizes == (4, 1, 16, 0)
    assert (its.checkout_timeout, its.optimization_interval) == (60, 1)


def test_the_file_stands_over_the_defaults(toml):
    toml("session_ttl = 60\n[pools.code]\npool_size = 3\n")
    settings = Settings.load()
    assert settings.session_ttl == 60
    assert settings.pools["code"].pool_size == 3
    assert settings.pools["code"].max_pool_size == PoolSettings().max_pool_size


def test_the_environment_stands_over_the_file_value_by_value(toml, monkeypatch):
    toml("session_ttl = 60\n[pools.code]\npool_size = 3\nspares = 2\n")
    monkeypatch.setenv("POOLTASKS_POOLS__CODE__POOL_SIZE", "5")
    monkeypatch.setenv("POOLTASKS_SESSION_TTL", "90")
    settings = Settings.load()
    assert settings.session_ttl == 90
    assert settings.pools["code"].pool_size == 5
    assert settings.pools["code"].spares == 2


def test_arguments_stand_over_the_environment(monkeypatch):
    monkeypatch.setenv("POOLTASKS_SESSION_TTL", "90")
    assert Settings.load(session_ttl=30).session_ttl == 30


def test_the_environment_may_name_the_file(folder, toml, monkeypatch):
    toml("session_ttl = 60\n")
    (folder / "other.toml").write_text("session_ttl = 61\n")
    monkeypatch.setenv("POOLTASKS_CONFIG", "other.toml")
    assert Settings.load().session_ttl == 61


def test_everything_that_a_pool_has_can_be_set_in_the_file(toml):
    toml(
        """
        [pools.code]
        imports = ["a", "b"]
        objective = { wait_ms = 20, quantile = 0.9 }
        recycle_age = 60
        [pools.code.warmup]
        strategy = "staged"
        commands = [{ operation = "a.b", args = [1, "x"], kwargs = { y = 2 } }]
        """
    )
    pool = Settings.load().pool_settings("code")
    assert pool.imports == ("a", "b")
    assert pool.objective.quantile == 0.9
    assert pool.recycle_age == 60
    assert pool.warmup.commands[0].args == (1, "x")
    assert pool.warmup.commands[0].kwargs == {"y": 2}


# What is wrong


def test_a_file_that_is_named_and_missing_is_an_error(monkeypatch):
    monkeypatch.setenv("POOLTASKS_CONFIG", "missing.toml")
    message = error_of()
    assert "POOLTASKS_CONFIG" in message
    assert "missing.toml" in message
    assert "does not exist" in message


def test_a_file_that_is_not_toml_is_an_error_with_its_line(toml):
    toml("\n[pools.code\n")
    message = error_of()
    assert "pools.toml is not valid TOML" in message
    assert "line 2" in message


def test_a_file_that_cannot_be_read_is_an_error(toml):
    path = toml("")
    path.unlink()
    path.mkdir()
    assert "pools.toml cannot be read" in error_of()


def test_a_file_that_is_not_utf_8_is_an_error(toml):
    toml("").write_bytes(b"\xff")
    assert "pools.toml cannot be read" in error_of()


@pytest.mark.parametrize("key", ["config", "pool"])
def test_what_belongs_to_one_process_is_refused_in_the_file(toml, key):
    toml(f"{key} = 'x'\n")
    message = error_of()
    assert f"{key} is of one process" in message
    assert f"POOLTASKS_{key.upper()}" in message


def test_an_unknown_variable_is_an_error_that_names_the_known_ones(monkeypatch):
    monkeypatch.setenv("POOLTASKS_REDIS_ULR", f"redis://:{PASSWORD}@host/0")
    message = error_of()
    assert "POOLTASKS_REDIS_ULR" in message
    assert "POOLTASKS_REDIS_URL" in message
    assert PASSWORD not in message


@pytest.mark.parametrize("value", ["{", "7"])
def test_a_variable_that_cannot_be_read_is_an_error(monkeypatch, value):
    monkeypatch.setenv("POOLTASKS_POOLS", value)
    assert "pools" in error_of()


@pytest.mark.parametrize(
    ("line", "key", "allowed"),
    [
        ("pool_size = 0", "pool_size", "greater than or equal to 1"),
        ("pool_size = 'many'", "pool_size", "valid integer"),
        ("pool_size = 1.5", "pool_size", "valid integer"),
        ("max_overflow = -1", "max_overflow", "greater than or equal to 0"),
        ("min_pool_size = 9\nmax_pool_size = 8", "min_pool_size is 9", "1 to max_pool_size"),
        ("max_pool_size = 2", "pool_size is 4 (the default; set it)", "(1 to 2)"),
        ("pool_size = 20", "pool_size is 20", "(1 to 16)"),
        ("pool_size = 2\nmin_pool_size = 3", "pool_size is 2", "(3 to 16)"),
        ("strategy = 'random'", "strategy", "'lifo' or 'fifo'"),
        ("policy = 'magic'", "policy", "'objective', 'rules', 'schedule' or 'fixed'"),
        ("warmup = { strategy = 'x' }", "warmup.strategy", "'parallel', 'sequential' or 'staged'"),
        ("warmup = { commands = [{}] }", "warmup.commands.0.operation", "required"),
        (
            "warmup = { commands = [{ operation = 'a', argz = [] }] }",
            "warmup.commands.0.argz",
            "args, kwargs, operation",
        ),
        ("warmup = { strategi = 'staged' }", "warmup.strategi", "commands, strategy"),
        ("objective = { wait = 5 }", "objective.wait", "quantile, wait_ms"),
        ("objective = { quantile = 1 }", "objective.quantile", "less than 1"),
        ("checkout_timeout = inf", "checkout_timeout", "finite number"),
        ("operation_timeout = 0", "operation_timeout", "greater than 0"),
        ("recycle_age = 0", "recycle_age", "greater than 0"),
        ("lazy = 'perhaps'", "lazy", "valid boolean"),
        ("imports = 'a'", "imports", "valid tuple"),
        ("pool_sise = 4", "pool_sise", "pool_size"),
    ],
)
def test_a_wrong_value_of_a_pool_names_pool_key_and_what_is_allowed(toml, line, key, allowed):
    toml(f"[pools.code]\n{line}\n")
    message = error_of()
    assert len(message.splitlines()) == 2
    assert "pool 'code': " in message
    assert key in message
    assert allowed in message


@pytest.mark.parametrize(
    ("line", "key", "allowed"),
    [
        ("session_ttl = 0", "session_ttl", "greater than or equal to 1"),
        ("result_expires = 0", "result_expires", "greater than or equal to 1"),
        ("sesion_ttl = 5", "sesion_ttl", "session_ttl"),
        ("pools = 7", "pools", "valid dictionary"),
        ("[pools]\ncode = 7", "pool 'code'", "valid dictionary"),
    ],
)
def test_a_wrong_value_of_the_application_names_its_key(toml, line, key, allowed):
    toml(line)
    message = error_of()
    assert len(message.splitlines()) == 2
    assert key in message
    assert allowed in message


def test_everything_that_is_wrong_is_said_at_once(toml):
    toml("session_ttl = 0\n[pools.a]\npool_size = 0\n[pools.b]\nslots = 0\n")
    message = error_of()
    assert "session_ttl: " in message
    assert "pool 'a': pool_size: " in message
    assert "pool 'b': slots: " in message


def test_two_pools_on_one_queue_are_refused(toml):
    toml("[pools.code]\n[pools.Code]\n")
    message = error_of()
    assert "'code' and 'Code' share the queue 'pool.code'" in message


@pytest.mark.parametrize("name", ["", "-a", "a.b", "a b", "A", "x" * 64, "ä"])
def test_a_pool_name_that_no_queue_can_have_is_refused(name):
    message = error_of(pools={name: {}})
    assert repr(name) in message
    assert "allowed: lower-case letters" in message


# Secrets

MALFORMED = [
    f"http://:{PASSWORD}@host/0",
    f"redis://:{PASSWORD}@host:port/0",
    f"redis://:{PASSWORD}@host:0/0",
    f"redis://:{PASSWORD}@host:99999/0",
    f"redis://:{PASSWORD}@[::1/0",
    f"redis://:{PASSWORD}@/0",
    f"redis://:{PASSWORD}@host/zero",
    f"redis://:{PASSWORD}@host?db=zero",
    f"unix://:{PASSWORD}@",
    f"unix://:{PASSWORD}@/run/valkey.sock?db=",
    PASSWORD,
]


@pytest.mark.parametrize("url", MALFORMED)
@pytest.mark.parametrize("source", ["environment", "file", "argument"])
def test_a_malformed_url_is_an_error_without_its_password(toml, monkeypatch, source, url):
    overrides = {}
    if source == "environment":
        monkeypatch.setenv("POOLTASKS_REDIS_URL", url)
    elif source == "file":
        toml(f"redis_url = '{url}'\n")
    else:
        overrides["redis_url"] = url
    with pytest.raises(ConfigurationError) as raised:
        Settings.load(**overrides)
    message = str(raised.value)
    assert "redis_url: " in message
    assert "redis://HOST:PORT/DB, rediss://HOST:PORT/DB, unix:///PATH?db=DB" in message
    assert PASSWORD not in message
    error = raised.value
    assert PASSWORD not in repr(error)
    assert error.__cause__ is None
    assert error.__suppress_context__  # pydantic's error; error trackers print it all the same
    assert PASSWORD not in str(error.__context__)


def test_a_url_of_a_wrong_type_is_an_error_without_its_value(toml):
    toml(f"redis_url = ['{PASSWORD}']\n")
    message = error_of()
    assert "redis_url: " in message
    assert PASSWORD not in message


def test_a_password_is_in_no_representation(monkeypatch):
    monkeypatch.setenv("POOLTASKS_REDIS_URL", f"redis://:{PASSWORD}@host:6379/0")
    settings = Settings.load()
    for text in (repr(settings), str(settings), f"{settings}", settings.model_dump_json()):
        assert PASSWORD not in text
    assert PASSWORD in address.read(settings.redis_url.get_secret_value()).broker_url


def test_a_password_stays_out_of_the_error_about_another_value(monkeypatch):
    monkeypatch.setenv("POOLTASKS_REDIS_URL", f"redis://:{PASSWORD}@host:6379/0")
    monkeypatch.setenv("POOLTASKS_SESSION_TTL", "0")
    assert PASSWORD not in error_of()


# What the broker is told


@pytest.mark.parametrize(
    ("url", "broker_url"),
    [
        ("redis://host", "redis://host:6379/0"),
        ("rediss://host", "rediss://host:6379/0?ssl_cert_reqs=required"),
        ("sentinel://one/2?master_name=m", "sentinel://one:26379/2"),
        (
            "sentinel://:a%40b@one:1;two:2;three/0?master_name=m&sentinel_password=p",
            "sentinel://:a%40b@one:1/0;sentinel://:a%40b@two:2/0;sentinel://:a%40b@three:26379/0",
        ),
        ("redis://host/", "redis://host:6379/0"),
        ("redis://host?db=3", "redis://host:6379/3"),
        ("redis://host/1?username=user&password=a%40b", "redis://user:a%40b@host:6379/1"),
        ("redis://user@host", "redis://user:@host:6379/0"),
        ("redis://user:secret@host:6380/3", "redis://user:secret@host:6380/3"),
        (
            "rediss://host:6380/0?ssl_cert_reqs=required",
            "rediss://host:6380/0?ssl_cert_reqs=required",
        ),
        (
            "unix://:secret@/run/valkey.sock?db=1",
            "redis+socket://:secret@/run/valkey.sock?virtual_host=1",
        ),
        ("unix:///run/valkey.sock", "redis+socket:///run/valkey.sock?virtual_host=0"),
        ("unix:///run/valkey.sock?db=2", "redis+socket:///run/valkey.sock?virtual_host=2"),
    ],
)
def test_the_broker_url_is_what_kombu_reads(url, broker_url):
    assert address.read(url).broker_url == broker_url


# Which pools there are


def test_a_bare_install_has_any_pool_with_the_defaults():
    settings = Settings.load()
    assert settings.pool_settings("anything") == PoolSettings()


def test_a_bare_install_refuses_a_name_that_no_queue_can_have():
    with pytest.raises(ConfigurationError, match=r"no pool 'No Queue'. Pools: none configured"):
        Settings.load().pool_settings("No Queue")


def test_a_pool_beside_the_configured_ones_is_an_error_that_names_them(toml):
    toml("[pools.b]\n[pools.a]\n")
    with pytest.raises(ConfigurationError, match=r"no pool 'c'. Pools: a, b. Add \[pools.c\]"):
        Settings.load().pool_settings("c")


def test_the_control_pool_always_exists_and_can_be_configured(toml):
    assert Settings.load().pool_settings(CONTROL_POOL).max_pool_size == 1
    toml("[pools.code]\n")
    assert Settings.load().pool_settings(CONTROL_POOL).max_pool_size == 1
    toml("[pools.control]\npool_size = 2\n")
    assert Settings.load().pool_settings(CONTROL_POOL).pool_size == 2


def test_the_pool_of_this_process_must_exist(toml, monkeypatch):
    toml("[pools.code]\n")
    monkeypatch.setenv("POOLTASKS_POOL", "cod")
    assert "no pool 'cod'. Pools: code" in error_of()
    monkeypatch.setenv("POOLTASKS_POOL", "code")
    assert Settings.load().pool == "code"


def test_the_profile_document_has_the_requirements_documents_defaults():
    settings = Settings.load(
        pools={"big": {"profile": "document", "max_pool_size": 30}, "small": {}}
    )
    big, small = settings.pools["big"], settings.pools["small"]
    assert (big.pool_size, big.min_pool_size, big.max_pool_size, big.max_overflow) == (
        10,
        5,
        30,
        10,
    )
    assert big.checkout_timeout == 5.0
    assert small == PoolSettings()


def test_a_profile_that_there_is_not_is_refused():
    with pytest.raises(ConfigurationError, match="profile"):
        Settings.load(pools={"big": {"profile": "paper"}})
