"""The text of an error that may be told: secrets masked, numbers and identifiers folded."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MASK = "***"

_SECRET_NAME = re.compile(
    r"passw|passphrase|pwd|secret|token|credential|api_?key|access_?key|private_?key|auth|cookie"
    r"|card_?number|iban|cvv|ssn",
    re.IGNORECASE,
)
"""The parts of names whose values are secret."""
# Each is bounded or begins with a rare text: one long word takes no longer than other texts.
_SECRET_VALUES = (
    (re.compile(r"(://[^/\s:@]{0,100}:)[^/\s@]{1,500}(@)"), rf"\1{MASK}\2"),  # in a URL
    (re.compile(r"\b(Bearer|Basic)(\s{1,3})[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1\2{MASK}"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"), MASK),  # a JSON web token
    (re.compile(r"\b(?:sk|pk|rk|ghp|gho|xox[abp]|AKIA)[-_]?[A-Za-z0-9_-]{16,}"), MASK),
    (
        re.compile(
            rf"((?:{_SECRET_NAME.pattern})[\w-]{{0,40}}[\"']?\s{{0,3}}[=:]\s{{0,3}})"
            r"(\"[^\"]*\"|'[^']*'|[^\s,;)&}\]]+)",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
)
_PLAIN = (str, int, float, bool, type(None))
_DEEPEST = 4
_MANY = 20
"""Elements of a collection that are shown."""
_WORD, _LINE = 200, 1000
"""Characters that are shown of a value, and of all arguments."""

_VARIES = re.compile(
    r"0x[0-9a-fA-F]+"  # an address
    r"|\b(?=[\w-]*\d)[\w-]{16,}"  # an identifier
    r"|[-+]?\d(?:[\d.,:_]*\d)?(?:[eE][-+]?\d+)?"  # a number, a date, a time
)
LONGEST = 500
"""Characters of a text that is folded; as long as a dead letter keeps an error."""


def masked(text: str) -> str:
    """Return a text without the passwords, tokens and keys in it that can be recognized."""
    for pattern, replacement in _SECRET_VALUES:
        text = pattern.sub(replacement, text)
    return text


def folded(text: str) -> str:
    """Return a text with ``#`` for each number and identifier: two cases then have the same text.

    Secrets are masked, and no more than :data:`LONGEST` characters are read.
    """
    return " ".join(_VARIES.sub("#", masked(text[:LONGEST])).split())


def told_arguments(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Return arguments as ``name=value``, cut, without the values that are secret.

    Args:
        function: The function that they were for.
        args: The positional ones. Where they do not fit they have numbers instead of names.
        kwargs: The others.
    """
    named = _named(function, args, kwargs)
    text = _joined(
        (f"{name}=", MASK if is_secret(name) else masked(_shown(value, _DEEPEST)))
        for name, value in named.items()
    )
    return text if len(text) <= _LINE else f"{text[:_LINE]}…"


def _named(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        signature = inspect.signature(function)
        its = signature.bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return {**{f"#{place}": value for place, value in enumerate(args)}, **kwargs}
    found: dict[str, Any] = {}
    for name, value in its.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            found.update(value)
        else:
            found[name] = value
    return found


def is_secret(name: object) -> bool:
    """Return whether a name says that its value is a secret."""
    return isinstance(name, str) and _SECRET_NAME.search(name) is not None


def _shown(value: Any, depth: int) -> str:
    if isinstance(value, Mapping):
        pairs = (
            (f"{key!r}: ", MASK if is_secret(key) else _shown(its, depth - 1))
            for key, its in value.items()
        )
        return f"{{{_joined(pairs) if depth else '…'}}}"
    if isinstance(value, list | tuple):
        return f"[{_joined(('', _shown(its, depth - 1)) for its in value) if depth else '…'}]"
    # Arguments are JSON, which pickle of a plain Celery task may not be.
    if isinstance(value, str):
        value = value[: _WORD + 1]
    text = repr(value) if isinstance(value, _PLAIN) else f"<{type(value).__name__}>"
    return text if len(text) <= _WORD else f"{text[:_WORD]}…"


def _joined(parts: Iterable[tuple[str, str]]) -> str:
    """Return the first parts, joined; the others are not even made."""
    shown: list[str] = []
    size = 0
    for name, text in parts:
        if len(shown) >= _MANY or size > _LINE:
            shown.append("…")
            break
        shown.append(name + text)
        size += len(shown[-1])
    return ", ".join(shown)
