"""Limits as flags: `--limit NAME=VALUE`, any number of times."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    L = TypeVar("L", bound=DataclassInstance)
else:
    L = TypeVar("L")

LIMIT_MAX = 2**63 - 1
"""The largest number that every user of a limit can hold."""


def override(limits: L, flags: Sequence[str], *, positive: bool = True) -> L:
    """`limits` with the fields that `flags` name set to their values. A field's type, int or float,
    is that of its default. positive: a value is above 0 and at most LIMIT_MAX; else the limits' own
    class checks it. Raises ValueError that names the flag and what is allowed."""
    kinds = {field.name: type(getattr(limits, field.name)) for field in fields(limits)}
    values: dict[str, float] = {}
    for flag in flags:
        name, _, text = flag.partition("=")
        if name not in kinds:
            raise ValueError(f"--limit {name}: known are {', '.join(kinds)}")
        try:
            value = kinds[name](text)
        except ValueError as error:
            raise ValueError(f"--limit {flag}: not a {kinds[name].__name__}") from error
        if positive and not 0 < value <= LIMIT_MAX:  # nor nan
            raise ValueError(f"--limit {flag}: must be a number above 0, at most {LIMIT_MAX}")
        values[name] = value
    return replace(limits, **values)
