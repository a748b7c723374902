"""The page of every setting, made from the models that read them."""

from __future__ import annotations

import inspect
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

from pooltasks.pool_settings import PoolSettings
from pooltasks.settings import Settings
from website.markdown import Undocumented, plain, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic.fields import FieldInfo

_INTRODUCTION = """\
# Settings

The environment wins over the TOML file, and the file wins over the defaults. The file is
`config/pools.toml` in the working directory, or the one that `POOLTASKS_CONFIG` names.
Everything that is wrong is said at once, before anything starts. Times are
seconds unless the key says otherwise.

## Of a deployment

In the environment each key is `POOLTASKS_<KEY>`, for example `POOLTASKS_REDIS_URL`.
"""
_OF_A_POOL = """\
## Of a pool

In the file these are keys of `[pools.<name>]`. In the environment
`POOLTASKS_POOLS__SHOP__POOL_SIZE=8` sets one value of the pool `shop`.
"""


class Setting(NamedTuple):
    """A setting as its table shows it."""

    key: str
    type: str
    default: str
    meaning: str


def settings() -> str:
    """Return the page of every setting."""
    parts = [
        _INTRODUCTION,
        _settings_table(Settings),
        _OF_A_POOL,
        _settings_table(PoolSettings),
    ]
    for owner, key, model in _tables(PoolSettings):
        parts += [
            f"### `{key}` {{#{owner}{key}}}\n",
            plain(inspect.getdoc(model) or "") + "\n",
            _settings_table(model),
        ]
    return "\n".join(parts)


def settings_of(model: type[BaseModel]) -> list[Setting]:
    """Return the settings of a table.

    Raises:
        Undocumented: One of them has no description.
    """
    return [_setting(model, key, field) for key, field in model.model_fields.items()]


def _setting(model: type[BaseModel], key: str, field: FieldInfo) -> Setting:
    if not field.description:
        raise Undocumented(f"{model.__name__}.{key} has no description")
    bounds = ", ".join(filter(None, map(_bound, field.metadata)))
    return Setting(
        f"`{key}`",
        _type(field.annotation) + (f", {bounds}" if bounds else ""),
        _default(field),
        field.description[:1].upper() + field.description[1:] + ".",
    )


def _settings_table(model: type[BaseModel]) -> str:
    return table(("key", "type", "default", "meaning"), settings_of(model))


def _tables(model: type[BaseModel], owner: str = "") -> Iterator[tuple[str, str, type[BaseModel]]]:
    """Yield each table of a model, with the keys that lead to it."""
    for key, field in model.model_fields.items():
        for found in _models(field.annotation):
            yield owner, key, found
            yield from _tables(found, f"{owner}{key}-")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _type(annotation: Any) -> str:
    """Return the values that a TOML file or an environment may hold, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return _type(next(it for it in arguments if it is not type(None)))
    if origin is tuple:
        return f"list of {_PLURALS.get(arguments[0], 'values')}"
    if origin is dict:
        return "table"
    if issubclass(annotation, BaseModel):
        return f"table, [below](#{_anchor(annotation)})"
    return _NAMES[annotation]


_NAMES: Mapping[Any, str] = {
    bool: "true or false",
    float: "number",
    int: "integer",
    str: "text",
    Path: "path",
    SecretStr: "URL",
}
_PLURALS: Mapping[Any, str] = {int: "integers", str: "texts"}


def _anchor(model: type[BaseModel]) -> str:
    return next(owner + key for owner, key, found in _tables(PoolSettings) if found is model)


def _bound(constraint: Any) -> str | None:
    for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
        if (value := getattr(constraint, name, None)) is not None:
            return f"{sign} {value}"
    return None


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if value is None or value in ((), {}, ""):
        return "–"
    if isinstance(value, SecretStr):
        return f"`{value.get_secret_value()}`"
    if isinstance(value, BaseModel):
        return "below"
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"
