"""The settings of one pool: schema, defaults and checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from collections.abc import Mapping


class _Table(BaseModel):
    """A TOML table: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Objective(_Table):
    """At most ``1 - quantile`` of a pool's operations wait longer than ``wait_ms``."""

    wait_ms: float = Field(
        default=50.0, gt=0, description="the wait that is allowed, in milliseconds"
    )
    quantile: float = Field(
        default=0.99, gt=0, lt=1, description="share of operations that wait less"
    )


class WarmUpCommand(_Table):
    """One operation that every worker runs on itself before it takes work."""

    operation: str = Field(min_length=1, description="its name, module.function")
    args: tuple[Any, ...] = Field(default=(), description="its positional arguments")
    kwargs: dict[str, Any] = Field(default={}, description="its keyword arguments")
    timeout: float | None = Field(
        default=None, gt=0, description="seconds; by default the command_timeout of all"
    )


DSPY_MODEL = "openai/gpt-3.5-turbo"
"""The requirements document's language model, as LiteLLM names it."""
_DSPY_TIMEOUT = 10.0
"""Seconds for each command; the requirements document's."""
_DSPY_IMPORT = 30.0
"""Seconds for the import: in many workers at once it takes ten."""


def _dspy(model: str) -> list[dict[str, Any]]:
    """Return the warm-up commands of the requirements document, for a language model."""
    question = {
        "session_id": "warm-up",
        "signature": {
            "inputs": [{"name": "question", "type": "string"}],
            "outputs": [{"name": "answer", "type": "string"}],
        },
    }
    commands: list[tuple[str, dict[str, Any]]] = [
        ("import_dspy", {}),
        ("configure_lm", {"model": model}),
        ("create_program", {**question, "program_id": "predict"}),
        (
            "create_program",
            {**question, "program_id": "chain", "program_type": "chain_of_thought"},
        ),
    ]
    return [
        {
            "operation": f"pooltasks.operations.{name}",
            "kwargs": kwargs,
            "timeout": _DSPY_IMPORT if name == "import_dspy" else _DSPY_TIMEOUT,
        }
        for name, kwargs in commands
    ]


def _named_commands(value: Any) -> Any:
    """Return the commands of a set that is named: ``dspy``, or ``dspy:MODEL``."""
    if not isinstance(value, str):
        return value
    name, _, model = value.partition(":")
    if name != "dspy":
        raise ValueError("allowed: a list of commands, or the name of a set: dspy, dspy:MODEL")
    return _dspy(model or DSPY_MODEL)


class WarmUp(_Table):
    """How the workers of a node are warmed.

    ``parallel``: all at once. ``sequential``: one at a time. ``staged``: at most
    a third of the node's workers (rounded up) at a time. ``commands`` may name a set:
    ``dspy`` (the requirements document's own) or ``dspy:MODEL``; so may the whole table.
    """

    strategy: Literal["parallel", "sequential", "staged"] = Field(
        default="parallel", description="how many workers warm up at the same time"
    )
    commands: Annotated[tuple[WarmUpCommand, ...], BeforeValidator(_named_commands)] = Field(
        default=(), description="what each worker runs before it takes work, or the name of a set"
    )
    command_timeout: float | None = Field(
        default=None, gt=0, description="seconds that each command may take"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_set(cls, value: Any) -> Any:
        """Take the name of a set for its commands."""
        return {"commands": value} if isinstance(value, str) else value


def _priorities(value: Any) -> Any:
    if isinstance(value, bool):
        return (0, 3, 6, 9) if value else ()
    steps = tuple(value) if isinstance(value, list | tuple) else value
    valid = isinstance(steps, tuple) and all(step in range(10) for step in steps)
    if not valid or (steps and steps[0] != 0) or list(steps) != sorted(set(steps)):
        raise ValueError(
            "allowed: true, or a rising list of numbers from 0 to 9 that begins with 0"
        )
    return steps


class DeadLetterBounds(_Table):
    """How many dead letters of a pool are kept, and for how long; the oldest go first."""

    most: int = Field(default=10_000, ge=1, description="how many a pool keeps")
    age: float = Field(default=30 * 86_400.0, gt=0, description="seconds that each is kept")


class RolloutSettings(_Table):
    """How carefully a new version is rolled out (``pooltasks rollout``)."""

    step_seconds: float = Field(
        default=60.0, gt=0, description="seconds that a step takes at least"
    )
    operations: int = Field(
        default=200, ge=1, description="operations of each version that a step is judged by"
    )


_PROFILES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "document": {
        "pool_size": 10,
        "min_pool_size": 5,
        "max_pool_size": 50,
        "max_overflow": 10,
        "checkout_timeout": 5.0,
        "warmup": {"command_timeout": 10.0},
    },
}
"""The defaults of each profile for settings that a pool does not set."""


class PoolSettings(_Table):
    """One pool. Times are seconds unless the name says otherwise."""

    profile: Literal["default", "document"] = Field(
        default="default",
        description="other defaults: document has those of the requirements document, "
        "for large machines",
    )

    pool_size: int = Field(default=4, ge=1, description="workers of a node at its start")
    min_pool_size: int = Field(default=1, ge=1, description="floor of the optimizer")
    max_pool_size: int = Field(default=16, ge=1, description="ceiling of the optimizer")
    max_overflow: int = Field(default=0, ge=0, description="temporary workers beyond the size")
    spares: int = Field(default=0, ge=0, description="warm workers beyond the size")
    slots: int = Field(default=1, ge=1, description="operations a worker runs at once")
    imports: tuple[str, ...] = Field(default=(), description="modules with the pool's operations")
    init_timeout: float = Field(default=30.0, gt=0, description="longest warm-up of a worker")
    checkout_timeout: float = Field(default=60.0, gt=0, description="longest wait of an operation")
    operation_timeout: float = Field(default=60.0, gt=0, description="longest run of an operation")
    strategy: Literal["lifo", "fifo"] = Field(
        default="lifo",
        description="which idle worker is next: the one idle for the shortest, "
        "or for the longest time",
    )
    lazy: bool = Field(default=False, description="a worker warms up at its first operation")
    warmup: WarmUp = Field(default=WarmUp(), description="what a worker runs before it takes work")
    health_check_interval: float = Field(
        default=30.0, gt=0, description="seconds between two checks of a worker"
    )
    max_health_failures: int = Field(
        default=3, ge=1, description="failed checks in a row before a worker is replaced"
    )
    objective: Objective = Field(default=Objective(), description="which wait the pool allows")
    max_hosts: int | None = Field(
        default=None, ge=1, description="most nodes that an external scaler is asked for"
    )
    enable_optimizer: bool = Field(default=True, description="the optimizer resizes the pool")
    policy: Literal["objective", "rules", "schedule", "fixed"] = Field(
        default="objective", description="how the optimizer decides"
    )
    optimization_interval: float = Field(
        default=1.0, ge=0.25, description="seconds between two decisions"
    )
    enable_metrics: bool = Field(default=True, description="nodes write samples")
    metrics_interval: float = Field(default=1.0, ge=0.25, description="seconds between two samples")
    priorities: Annotated[tuple[int, ...], BeforeValidator(_priorities)] = Field(
        default=(), description="priorities with lists of their own, as 0, 3, 6, 9; true: these"
    )
    max_queue: int | None = Field(
        default=None, ge=1, description="operations that may wait; more are refused at once"
    )
    max_deliveries: int = Field(default=3, ge=1, description="starts before a dead letter")
    dead_letters: DeadLetterBounds = Field(
        default=DeadLetterBounds(), description="how many dead letters are kept, and how long"
    )
    rollout: RolloutSettings = Field(
        default=RolloutSettings(), description="how carefully a new version is rolled out"
    )
    recycle_age: float | None = Field(
        default=None, gt=0, description="seconds before a worker is replaced"
    )
    recycle_operations: int | None = Field(
        default=None, ge=1, description="operations that a worker runs before it is replaced"
    )
    memory_limit_mb: float | None = Field(
        default=None, gt=0, description="resident memory above which a worker is replaced"
    )
    allow_execute_code: bool = Field(
        default=False, description="the operation execute_code may run"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_profile(cls, values: Any) -> Any:
        """Put the profile's defaults under what is set."""
        if not isinstance(values, dict):
            return values
        profile = dict(_PROFILES.get(str(values.get("profile")), {}))
        warm_up = values.get("warmup")
        if isinstance(warm_up, str):
            warm_up = {"commands": warm_up}
        if isinstance(warm_up, dict) and "warmup" in profile:
            profile["warmup"] = {**profile["warmup"], **warm_up}
            values = {name: value for name, value in values.items() if name != "warmup"}
        return {**profile, **values}

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
