"""Limits of a program as flags of its command line: `--limit NAME=VALUE`, any number of times."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    L = TypeVar("L", bound=DataclassInstance)
else:
    L = TypeVar("L")

logger = logging.getLogger(__name__)

LIMIT_MAX = 2**63 - 1
"""The largest value of a limit. It fits a signed integer of 64 bits, as C libraries and protobuf
have them."""

_KINDS = {int: "a whole number", float: "a number"}


def override(
    limits: L,
    flags: Sequence[str],
    *,
    positive: bool = True,
    zero: Collection[str] = (),
    deprecated: Mapping[str, str] | None = None,
) -> L:
    """Returns `limits` with the values of `flags`, each NAME=VALUE; the last one of a name counts.

    A value has the type that the field has in `limits`, int or float, and is at most LIMIT_MAX.
    positive: it is above 0; else it is 0 or above, and the class of `limits` may refuse more.
    zero: names that may also be 0.
    deprecated: earlier names of fields, each with today's; using one writes a warning to the log.

    Raises ValueError, which begins with "--limit", names the flag, and says what is allowed. It
    names all flags if only their combination is refused.
    """
    kinds = {field.name: type(getattr(limits, field.name)) for field in fields(limits)}
    values: dict[str, float] = {}
    given: dict[str, str] = {}
    for flag in flags:
        name, _, text = flag.partition("=")
        if deprecated and name in deprecated:
            logger.warning("--limit %s is deprecated: use %s", name, deprecated[name])
            name = deprecated[name]
        if name not in kinds:
            raise ValueError(f"--limit {name}: known are {', '.join(kinds)}")
        try:
            value = kinds[name](text)
        except ValueError as error:
            raise ValueError(f"--limit {flag}: must be {_KINDS[kinds[name]]}") from error
        above_zero = positive and name not in zero
        in_range = 0 < value <= LIMIT_MAX if above_zero else 0 <= value <= LIMIT_MAX  # nor nan
        if not in_range:
            lowest = "above 0" if above_zero else "of 0 or above"
            raise ValueError(f"--limit {flag}: must be a number {lowest}, at most {LIMIT_MAX}")
        values[name], given[name] = value, flag
    try:
        return replace(limits, **values)
    except ValueError as error:  # the class's own check
        raise _refusal(limits, values, given, error) from error


def _refusal(
    limits: L, values: Mapping[str, float], given: Mapping[str, str], error: ValueError
) -> ValueError:
    """Names the first flag that is refused by itself. given: the flags, by the field's name."""
    for name, value in values.items():
        try:
            replace(limits, **{name: value})
        except ValueError as own:
            return ValueError(f"--limit {given[name]}: {own}")
    return ValueError(f"--limit {' '.join(given.values())}: {error}")
