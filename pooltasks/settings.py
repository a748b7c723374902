"""Schema and defaults of every setting; environment over TOML over defaults.

``Settings.load()`` is the only way in: it reads ``POOLTASKS_…`` from the
environment, then the TOML file that ``POOLTASKS_CONFIG`` names (or
``config/pools.toml`` in the working directory, which may be absent), and turns
everything that is wrong into one :class:`~pooltasks.errors.ConfigurationError`.

One value of one pool is ``POOLTASKS_POOLS__<POOL>__<KEY>`` in the environment.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from pooltasks import address, keys
from pooltasks.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

CONVENTIONAL_FILE = Path("config/pools.toml")
CONTROL_POOL = "control"
"""The pool of pooltasks itself: a queue and a process of its own, so that the
optimizer never waits behind the backlog it is to cure."""

_POOL_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_KEY_PREFIX = re.compile(r"[!-~]{0,100}")


class _Table(BaseModel):
    """A TOML table: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Objective(_Table):
    """At most ``1 - quantile`` of a pool's operations wait longer than ``wait_ms``."""

    wait_ms: float = Field(default=50.0, gt=0, description="milliseconds")
    quantile: float = Field(default=0.99, gt=0, lt=1, description="ratio, 0–1 exclusive")


class WarmUpCommand(_Table):
    """One operation that every worker runs on itself before it takes work."""

    operation: str = Field(min_length=1, description="task name, module.function")
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}


class WarmUp(_Table):
    """How the workers of a node are warmed.

    ``parallel``: all at once. ``sequential``: one at a time. ``staged``: at most
    a third of the node's workers (rounded up) at a time.
    """

    strategy: Literal["parallel", "sequential", "staged"] = "parallel"
    commands: tuple[WarmUpCommand, ...] = ()


class PoolSettings(_Table):
    """One pool. Times are seconds unless the name says otherwise."""

    pool_size: int = Field(default=4, ge=1, description="workers of a node at its start")
    min_pool_size: int = Field(default=1, ge=1, description="floor of the optimizer")
    max_pool_size: int = Field(default=16, ge=1, description="ceiling of the optimizer")
    max_overflow: int = Field(default=0, ge=0, description="temporary workers beyond the size")
    spares: int = Field(default=0, ge=0, description="warm workers beyond the size")
    slots: int = Field(default=1, ge=1, description="operations a worker runs at once")
    imports: tuple[str, ...] = Field(default=(), description="modules with the pool's operations")
    init_timeout: float = Field(default=30.0, gt=0, description="warm-up of one worker")
    checkout_timeout: float = Field(default=60.0, gt=0, description="longest wait")
    operation_timeout: float = Field(default=60.0, gt=0, description="longest run")
    strategy: Literal["lifo", "fifo"] = "lifo"
    lazy: bool = Field(default=False, description="warm a worker up at its first operation")
    warmup: WarmUp = WarmUp()
    health_check_interval: float = Field(default=30.0, gt=0)
    max_health_failures: int = Field(default=3, ge=1)
    objective: Objective = Objective()
    enable_optimizer: bool = True
    policy: Literal["objective", "rules", "schedule", "fixed"] = "objective"
    optimization_interval: float = Field(default=1.0, gt=0)
    enable_metrics: bool = True
    metrics_interval: float = Field(default=1.0, gt=0)
    max_deliveries: int = Field(default=3, ge=1, description="starts before a dead letter")
    recycle_age: float | None = Field(default=None, gt=0, description="seconds a worker lives")
    recycle_operations: int | None = Field(default=None, ge=1, description="per worker")
    memory_limit_mb: float | None = Field(default=None, gt=0, description="RSS of a worker")
    allow_execute_code: bool = Field(default=False, description="the execute_code operation runs")

    @model_validator(mode="after")
    def _sizes_in_order(self) -> Self:
        if self.min_pool_size > self.max_pool_size:
            message = (
                f"min_pool_size is {self.min_pool_size}, above max_pool_size "
                f"({self.max_pool_size}); allowed: 1 to max_pool_size"
            )
            raise ValueError(message)
        if not self.min_pool_size <= self.pool_size <= self.max_pool_size:
            default = "" if "pool_size" in self.model_fields_set else " (the default; set it)"
            message = (
                f"pool_size is {self.pool_size}{default}; allowed: min_pool_size to "
                f"max_pool_size ({self.min_pool_size} to {self.max_pool_size})"
            )
            raise ValueError(message)
        return self


def _redis_url(secret: SecretStr) -> SecretStr:
    address.check(secret.get_secret_value())
    return secret


def _key_prefix(prefix: str) -> str:
    if not _KEY_PREFIX.fullmatch(prefix):
        raise ValueError(f"{prefix!r} has spaces, or letters beyond ASCII, or more than 100")
    return prefix


class _TomlSource(InitSettingsSource):
    """The TOML file, with errors that name it."""

    def __init__(self, settings_cls: type[BaseSettings], path: Path, *, explicit: bool) -> None:
        content: dict[str, Any] = {}
        try:
            content = tomllib.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            if explicit:
                raise ConfigurationError(
                    f"POOLTASKS_CONFIG names {path}, which does not exist. "
                    f"Create it, or unset POOLTASKS_CONFIG."
                ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path} cannot be read: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
        for key in ("config", "pool"):
            if key in content:
                raise ConfigurationError(
                    f"{path}: {key} is of one process, not of the deployment: "
                    f"set POOLTASKS_{key.upper()} in its environment instead."
                )
        super().__init__(settings_cls, content)


class Settings(BaseSettings):
    """All settings of one application. Build it with :meth:`load`."""

    model_config = SettingsConfigDict(
        env_prefix="POOLTASKS_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    redis_url: Annotated[SecretStr, AfterValidator(_redis_url)] = SecretStr(
        "redis://127.0.0.1:6379/0"
    )
    key_prefix: Annotated[str, AfterValidator(_key_prefix)] = Field(
        default="", description="before every key: deployments that share a server have one each"
    )
    config: Path | None = Field(default=None, description="the TOML file")
    pool: str | None = Field(default=None, description="the pool that this process serves")
    pools: dict[str, PoolSettings] = {}
    broker_transport: Literal["pooltasks", "stock"] = Field(
        default="pooltasks", description="how a node reserves; stock is kombu's own"
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="what nodes and workers log: Celery's lines or JSON objects"
    )
    session_ttl: float = Field(default=3600.0, ge=1, description="seconds after the last use")
    result_expires: float = Field(default=86400.0, ge=1, description="seconds a result is kept")

    @field_validator("pools", mode="before")
    @classmethod
    def _pool_names(cls, pools: Any) -> Any:
        if not isinstance(pools, dict):
            return pools
        owners: dict[str, str] = {}
        for name in pools:
            lowered = str(name).lower()
            if lowered in owners:
                message = (
                    f"pools {owners[lowered]!r} and {name!r} share the queue "
                    f"{keys.queue(lowered)!r}; rename one"
                )
                raise ValueError(message)
            owners[lowered] = name
        for name in pools:
            if not _POOL_NAME.fullmatch(name):
                message = (
                    f"{name!r} is not a pool name; allowed: lower-case letters, digits, "
                    "'-' and '_', at most 63"
                )
                raise ValueError(message)
        return pools

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  pydantic-settings passes it
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments, environment, TOML."""
        named = os.environ.get("POOLTASKS_CONFIG")
        path = Path(named) if named else CONVENTIONAL_FILE
        toml = _TomlSource(settings_cls, path, explicit=named is not None)
        return init_settings, env_settings, toml

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Read and check every setting.

        Args:
            **overrides: Values that win over the environment and the file.

        Raises:
            ConfigurationError: Something is wrong. One message lists every
                wrong value with its pool, its key and the allowed values; it
                never contains a value that may be secret.
        """
        _refuse_unknown_environment(os.environ)
        try:
            settings = cls(**overrides)
        except ValidationError as error:
            raise ConfigurationError(_readable(error)) from None
        except SettingsError as error:
            raise ConfigurationError(f"The environment cannot be read: {error}.") from None
        if settings.pool is not None:
            settings.pool_settings(settings.pool)
        return settings

    def pool_settings(self, name: str) -> PoolSettings:
        """Return the settings of pool ``name``.

        A deployment that configures no pool at all (a bare install) may use
        any name: such a pool has the defaults. The control pool always exists.

        Raises:
            ConfigurationError: Other pools are configured, this one is not.
        """
        configured = self.pools.get(name)
        if configured is not None:
            return configured
        if name == CONTROL_POOL:
            return _CONTROL_POOL_SETTINGS
        if self.pools or not _POOL_NAME.fullmatch(name):
            known = ", ".join(sorted(self.pools)) or "none configured"
            raise ConfigurationError(
                f"There is no pool {name!r}. Pools: {known}. "
                f"Add [pools.{name}] to the TOML file or use one of these."
            )
        return PoolSettings()


_CONTROL_POOL_SETTINGS = PoolSettings(pool_size=1, min_pool_size=1, max_pool_size=1)


def _refuse_unknown_environment(environment: Mapping[str, str]) -> None:
    """Raise ConfigurationError for a ``POOLTASKS_…`` variable that names no setting.

    pydantic-settings ignores those, so a misspelt one would silently do nothing.
    """
    known = set(Settings.model_fields)
    for variable in sorted(environment):
        if not variable.upper().startswith("POOLTASKS_"):
            continue
        key = variable[len("POOLTASKS_") :].lower()
        if key.partition("__")[0] not in known:
            allowed = ", ".join(f"POOLTASKS_{name.upper()}" for name in Settings.model_fields)
            raise ConfigurationError(
                f"The environment variable {variable} names no setting; allowed: {allowed}."
            )


def _readable(error: ValidationError) -> str:
    """Return every problem of ``error`` on a line of its own."""
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        location = list(problem["loc"])
        place = ""
        if location[:1] == ["pools"] and len(location) > 1:
            place = f"pool {location[1]!r}: "
            location = location[2:]
        key = ".".join(str(part) for part in location)
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = f"unknown key; allowed: {', '.join(_allowed_keys(problem['loc']))}"
        lines.append(f"  {place}{key + ': ' if key else ''}{message}")
    return "The settings are wrong:\n" + "\n".join(lines)


def _allowed_keys(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys of the table in which the unknown key at ``location`` stands."""
    model: Any = Settings
    for part in location[:-1]:
        fields = getattr(model, "model_fields", None)
        if fields is None:  # inside a container: ``part`` is a name or an index
            model = next(a for a in reversed(get_args(model)) if a is not Ellipsis)
        else:
            model = fields[str(part)].annotation
    return sorted(model.model_fields)
