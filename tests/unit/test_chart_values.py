"""The page of the chart's values: made of their comments, defaults and schema."""

from typing import Any

import pytest

from dev.generate.chart_values import ValuesError, page_of

VALUES = """\
# How many.
replicas: 2

# The network.
# Two lines.
network:
  # Whether it is on.
  enabled: false
  # DNS.
  dns:
    # Its ports.
    ports: [53]
"""


def an_object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


PORTS = {"type": "array", "minItems": 1, "items": {"type": "integer"}}
SCHEMA = an_object(
    replicas={"type": "integer", "minimum": 1, "maximum": 3},
    network=an_object(enabled={"type": "boolean"}, dns=an_object(ports=PORTS)),
)
HEAD = "| value | type | default | allowed | description |"


def test_every_value_has_a_row_with_its_dotted_name() -> None:
    lines = page_of(VALUES, SCHEMA).splitlines()
    assert "| `replicas` | integer | `2` | 1 to 3 | How many. |" in lines
    section = lines[lines.index("## network") :]
    assert section[2] == "The network. Two lines."
    assert section[4] == HEAD
    assert "| `network.enabled` | boolean | `false` |  | Whether it is on. |" in section
    assert "| `network.dns` | object |  |  | DNS. |" in section
    assert "| `network.dns.ports` | list of integer | `[53]` | not empty | Its ports. |" in section


def test_the_types_of_maps_and_shared_definitions() -> None:
    values = "# A.\na: {}\n# B.\nb: []\n# C.\nc: x\n"
    schema = an_object(
        a={"type": "object", "additionalProperties": {"type": "string"}},
        b={"type": "array", "items": {"$ref": "#/definitions/peer"}},
        c={"enum": ["x", "y"]},
    )
    page = page_of(values, schema)
    assert "| `a` | map to string |  |  | A. |" in page
    assert "| `b` | list of peer |  |  | B. |" in page
    assert '| `c` | string | `"x"` | `x`, `y` | C. |' in page


@pytest.mark.parametrize(
    ("values", "schema", "words"),
    [
        ("a: 1\n", {"a": {"type": "integer"}}, "a has no comment above it"),
        ("# A.\n\na: 1\n", {"a": {"type": "integer"}}, "a has no comment above it"),
        ("# A.\na: 1\n", {}, "values.schema.json does not have the value a"),
        ("# A.\na: {}\n", {"a": an_object(b={})}, "values.yaml has no value a.b"),
    ],
)
def test_what_is_missing_is_named(values: str, schema: dict[str, Any], words: str) -> None:
    with pytest.raises(ValuesError, match=words):
        page_of(values, an_object(**schema))
