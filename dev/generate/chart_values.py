"""docs/reference/chart_values.md: the chart's values with their comments, defaults and schema."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dev.cluster.layout import ROOT
from dev.generate.pages import Row, generated, table, text_lines

PAGE = "docs/reference/chart_values.md"
CHART = "charts/partition-operator"
COLUMNS = ("type", "default", "allowed")
INTRODUCTION = """\
Set them with `helm install --set NAME=VALUE` or in a file with `--values`. Other names are refused.
[install.md](../operations/install.md) and [network.md](../operations/network.md) show how they are
used.
"""


class ValuesError(Exception):
    """A value has no comment, or is in one of values.yaml and values.schema.json alone."""


def write(target: Path) -> None:
    """Writes the page below `target`."""
    folder = ROOT / CHART
    page = target / PAGE
    page.parent.mkdir(parents=True, exist_ok=True)
    schema = json.loads((folder / "values.schema.json").read_text())
    page.write_text(page_of((folder / "values.yaml").read_text(), schema))


def page_of(values: str, schema: dict[str, Any]) -> str:
    """Returns the page. Raises ValuesError."""
    node = yaml.compose(values)
    assert isinstance(node, yaml.MappingNode)
    lines = ["# Values of the chart", "", *text_lines(INTRODUCTION), "", generated(CHART), ""]
    plain = []
    sections: list[str] = []
    for name, comment, inner, below in _fields(values.splitlines(), node, schema, ""):
        if not _documented_below(inner):
            plain.append(_row(name, comment, inner, below))
            continue
        assert isinstance(below, yaml.MappingNode)
        rows = list(_rows(values.splitlines(), below, inner, name))
        sections += [f"## {name}", "", *text_lines(comment), ""]
        sections += [*table(COLUMNS, rows, first="value"), ""]
    lines += [*table(COLUMNS, plain, first="value"), "", *sections]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _rows(
    lines: list[str], node: yaml.MappingNode, schema: dict[str, Any], path: str
) -> Iterator[Row]:
    """Returns a row for each value below an object, objects in it included."""
    for name, comment, inner, below in _fields(lines, node, schema, f"{path}."):
        if _documented_below(inner) and isinstance(below, yaml.MappingNode):
            rows = list(_rows(lines, below, inner, name))
            yield Row(name, ("object", "", ""), comment)
            yield from rows
        else:
            yield _row(name, comment, inner, below)


def _fields(
    lines: list[str], node: yaml.MappingNode, schema: dict[str, Any], path: str
) -> Iterator[tuple[str, str, dict[str, Any], yaml.Node]]:
    """Returns (dotted name, comment, schema, node) of each value of an object."""
    known = schema["properties"]
    names = [key.value for key, _ in node.value]
    for name in known:
        if name not in names and name != "global":  # Helm's own
            raise ValuesError(f"values.yaml has no value {path}{name}; values.schema.json has one")
    for key, below in node.value:
        if key.value not in known:
            raise ValuesError(f"values.schema.json does not have the value {path}{key.value}")
        comment = _comment(lines, key.start_mark.line, key.start_mark.column)
        if not comment:
            raise ValuesError(f"values.yaml: {path}{key.value} has no comment above it; write one")
        yield f"{path}{key.value}", comment, known[key.value], below


def _comment(lines: list[str], line: int, column: int) -> str:
    """Returns the comment directly above a line, at the same indentation."""
    mark, found = " " * column + "#", []
    while line > 0 and lines[line - 1].startswith(mark):
        line -= 1
        found.insert(0, lines[line].removeprefix(mark).removeprefix(" "))
    return "\n".join(found)


def _row(name: str, comment: str, schema: dict[str, Any], node: yaml.Node) -> Row:
    default = yaml.safe_load(yaml.serialize(node))
    shown = f"`{json.dumps(default)}`" if default not in ("", [], {}) else ""
    return Row(name, (_type(schema), shown, _allowed(schema)), comment)


def _documented_below(schema: dict[str, Any]) -> bool:
    """Whether an object's own fields are described, not those of a Kubernetes type."""
    return "properties" in schema


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "enum" in schema:
        return "string"
    if "items" in schema:
        return f"list of {_type(schema['items'])}"
    values = schema.get("additionalProperties")
    if isinstance(values, dict):
        return f"map to {_type(values)}"
    return str(schema["type"])


def _allowed(schema: dict[str, Any]) -> str:
    found = []
    if "enum" in schema:
        found.append(", ".join(f"`{value}`" for value in schema["enum"]))
    if "minimum" in schema:
        found.append(f"{schema['minimum']} to {schema['maximum']}")
    if "minLength" in schema or "minItems" in schema:
        found.append("not empty")
    return "; ".join(found)
