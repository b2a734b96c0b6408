"""The rules of a CRD for one field, as a value."""

from typing import NamedTuple


class Rule(NamedTuple):
    """type: the JSON type. of: the TypedDict of the object, or of each item. values: the JSON type
    of the values of a map; "" if the field is not a map or its values have several types. allowed:
    the allowed values, empty for any. words: what is allowed, for messages, if the other fields do
    not show it."""

    type: str
    of: str = ""
    values: str = ""
    required: bool = False
    default: object = None
    allowed: tuple[object, ...] = ()
    minimum: int | None = None
    maximum: int | None = None
    max_items: int | None = None
    min_length: int = 0
    max_length: int | None = None
    pattern: str = ""
    words: str = ""
