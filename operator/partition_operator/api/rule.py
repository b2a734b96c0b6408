"""What a CRD says of one field, as a value."""

from typing import NamedTuple


class Rule(NamedTuple):
    """type: JSON's. of: the TypedDict of the object, or of each item. values: JSON's type of the
    values of a map, "" if it is no map or they have several. allowed: empty for any. words: what
    is allowed, where the other fields do not say it to people."""

    type: str
    of: str = ""
    values: str = ""
    required: bool = False
    default: object = None
    allowed: tuple[object, ...] = ()
    minimum: int | None = None
    min_length: int = 0
    max_length: int | None = None
    pattern: str = ""
    words: str = ""
