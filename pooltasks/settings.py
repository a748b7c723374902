"""Schema and defaults of every setting; environment over TOML over defaults.

``Settings.load()`` is the only way in: it reads ``POOLTASKS_…`` from the
environment, then the TOML file that ``POOLTASKS_CONFIG`` names (or
``config/pools.toml`` in the working directory, which may be absent), and turns
everything that is wrong into one :class:`~pooltasks.errors.ConfigurationError`.
Where none of them names a server, that of a ``pooltasks up`` in this folder is taken.

One value of one pool is ``POOLTASKS_POOLS__<POOL>__<KEY>`` in the environment.
"""

from __future__ import annotations

import logging
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from pooltasks import address, keys
from pooltasks.errors import ConfigurationError, alternatives
from pooltasks.pool_settings import DeadLetterBounds, PoolSettings
from pooltasks.running import running

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

CONVENTIONAL_FILE = Path("config/pools.toml")
_POOL_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
VERSION = re.compile(r"[A-Za-z0-9._+-]{1,64}")
"""The form of the version of a deployment's code."""
_KEY_PREFIX = re.compile(r"[!-~]{0,100}")


def _redis_url(secret: SecretStr) -> SecretStr:
    address.check(secret.get_secret_value())
    return secret


def _key_prefix(prefix: str) -> str:
    if not _KEY_PREFIX.fullmatch(prefix):
        raise ValueError(f"{prefix!r} has spaces, or letters beyond ASCII, or more than 100")
    return prefix


def _as_list(keys: Any) -> Any:
    """Return the keys of a variable of the environment, which has commas between them."""
    return [key.strip() for key in keys.split(",")] if isinstance(keys, str) else keys


Keys = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_as_list)]
"""Secrets, the newest first."""
_SHORTEST_KEY = 32


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
        for key in ("config", "health_file", "pool"):
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

    redis_url: Annotated[SecretStr, AfterValidator(_redis_url)] = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="the server: redis://, rediss://, unix:// or sentinel://",
    )
    key_prefix: Annotated[str, AfterValidator(_key_prefix)] = Field(
        default="", description="before every key: deployments that share a server have one each"
    )
    config: Path | None = Field(default=None, description="the TOML file")
    pool: str | None = Field(default=None, description="the pool that this process serves")
    version: str = Field(
        default="",
        pattern=rf"^({VERSION.pattern})?$",
        description="of the code that a node runs: a rollout tells nodes apart by it",
    )
    health_file: Path | None = Field(
        default=None,
        description="a file in which a node writes every 2 s whether it is ready, for its host",
    )
    pools: dict[str, PoolSettings] = Field(default={}, description="the pools by their names")
    broker_transport: Literal["pooltasks", "stock"] = Field(
        default="pooltasks", description="how a node reserves; stock is kombu's own"
    )
    signing_keys: Keys = Field(
        default=(),
        description="sign messages; the first key signs, each verifies; at least 32 letters each",
    )
    signing_required: bool = Field(
        default=True, description="false: nodes with signing_keys run unsigned messages too"
    )
    encryption_keys: Keys = Field(
        default=(),
        description="Fernet's, encrypt arguments and results; the first encrypts, each decrypts",
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="what nodes and workers log: Celery's lines or JSON objects"
    )
    log_events: bool = Field(
        default=False, description="nodes and workers log every event of pooltasks.telemetry"
    )
    session_ttl: float = Field(
        default=3600.0, ge=1, description="seconds that a session lives after its last use"
    )
    result_expires: float = Field(default=86400.0, ge=1, description="seconds a result is kept")

    @field_validator("signing_keys")
    @classmethod
    def _long_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for number, key in enumerate(keys, 1):
            if len(key.get_secret_value()) < _SHORTEST_KEY:
                message = (
                    f"key {number} has less than {_SHORTEST_KEY} letters; "
                    "make one with: openssl rand -hex 32"
                )
                raise ValueError(message)
        return keys

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
        """Read and check every setting; find the server of ``pooltasks up`` if none is named.

        Args:
            **overrides: Values that win over the environment and the file.

        Raises:
            ConfigurationError: As :meth:`read`.
        """
        settings = cls.read(**overrides)
        found = running() if "redis_url" not in settings.model_fields_set else None
        if found is None:
            return settings
        settings = settings.model_copy(update={"redis_url": SecretStr(found.redis_url)})
        _say_once(
            f"Server: {address.without_login(found.redis_url)}, of `pooltasks up` in this folder."
        )
        return settings

    @classmethod
    def read(cls, **overrides: Any) -> Settings:
        """Read and check every setting, and nothing that runs.

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
        if not settings.pools and not os.environ.get("POOLTASKS_CONFIG"):
            path = CONVENTIONAL_FILE.absolute()
            if not path.exists():
                _say_once(
                    f"No pools are configured: there is no {path}, and POOLTASKS_CONFIG names no "
                    "other file. A pool of any name has the default settings."
                )
        return settings

    def dead_letters_of(self, queue: str) -> DeadLetterBounds:
        """Return how many dead letters of a queue are kept, whether or not it is a pool's."""
        pool = self.pools.get(queue.removeprefix(keys.QUEUE_PREFIX))
        return pool.dead_letters if pool else DeadLetterBounds()

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
        if name == keys.CONTROL_POOL:
            return _CONTROL_POOL_SETTINGS
        if self.pools or not _POOL_NAME.fullmatch(name):
            known = ", ".join(sorted(self.pools)) or "none configured"
            raise ConfigurationError(
                f"There is no pool {name!r}. Pools: {known}. "
                f"Add [pools.{name}] to the TOML file or use one of these."
            )
        return PoolSettings()


_said: set[str] = set()


def _say_once(warning: str) -> None:
    """Log what may surprise; once, as settings are read by each application."""
    if warning not in _said:
        _said.add(warning)
        logger.warning(warning)


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
            allowed = [f"POOLTASKS_{name.upper()}" for name in Settings.model_fields]
            raise ConfigurationError(
                f"The environment variable {variable} names no setting; "
                f"{alternatives(variable, allowed)}."
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
            known = _allowed_keys(problem["loc"])
            message = f"unknown key; {alternatives(str(problem['loc'][-1]), known)}"
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
