"""docs/reference/partition.md and partition_snapshot.md, from the CRDs' schemas."""

import re
from pathlib import Path

from dev.generate.crd_types import Schema, Types
from dev.generate.pages import Row, escaped, generated, table, text_lines

FOLDER = "docs/reference"
PAGES = {"Partition": "partition.md", "PartitionSnapshot": "partition_snapshot.md"}
API_VERSION = "logstore.dev/v1alpha1"
COLUMNS = ("type", "default", "allowed")


def write(target: Path, schemas: dict[str, Schema]) -> None:
    """Writes both pages below `target`."""
    folder = target / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for kind, schema in schemas.items():
        (folder / PAGES[kind]).write_text(page(kind, schema))


def page(kind: str, schema: Schema) -> str:
    types = Types({kind: schema})
    lines = [f"# {kind}", "", f"`apiVersion: {API_VERSION}`, `kind: {kind}`.", ""]
    lines += [*text_lines(schema["description"]), "", generated("charts/partition-operator"), ""]
    lines += [*_rules(schema), ""]
    places = _places(types, kind)
    for name, found in types.found.items():
        if name == kind:
            continue
        where = ", ".join(f"`{place}`" for place in places[name])
        lines += [f"## {name}", "", where, ""]
        if "description" in found and len(places[name]) == 1:
            lines += [*text_lines(found["description"]), ""]
        rows = [
            Row(field, _cells(types, name, found, field), inner.get("description", ""))
            for field, inner in found["properties"].items()
        ]
        lines += [*table(COLUMNS, rows), "", *_rules(found), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _places(types: Types, kind: str) -> dict[str, list[str]]:
    """Returns the paths of each object."""
    found: dict[str, list[str]] = {kind: [""]}
    waiting = [(kind, "")]
    while waiting:
        owner, path = waiting.pop(0)
        for field, inner in types.found[owner]["properties"].items():
            below = types.object_of(owner, field, inner)
            if below is None:
                continue
            place = f"{path}.{field}".lstrip(".") + ("[]" if "items" in inner else "")
            found.setdefault(below[0], []).append(place)
            waiting.append((below[0], place))
    return found


def _cells(types: Types, owner: str, schema: Schema, field: str) -> tuple[str, str, str]:
    inner = schema["properties"][field]
    below = types.object_of(owner, field, inner)
    word = f"[{below[0]}](#{below[0].lower()})" if below else _type(inner)
    if "items" in inner:
        word = f"list of {word if below else _type(inner['items'])}"
    if field in schema.get("required", []):
        word += ", required"
    default = f"`{inner['default']}`" if inner.get("default") not in (None, {}) else ""
    return word, default, _allowed(inner)


def _type(schema: Schema) -> str:
    if schema.get("format") == "date-time":
        return "time"
    values = schema.get("additionalProperties")
    if values is not None:
        return f"map to {_type(values)}"
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    return str(schema["type"])


def _allowed(schema: Schema) -> str:
    """Returns what the schema allows, without the rules in CEL."""
    found = []
    if "enum" in schema:
        found.append(", ".join(f"`{value}`" for value in schema["enum"]))
    if "minimum" in schema:
        found.append(f"at least {schema['minimum']}")
    if "maxLength" in schema:
        found.append(f"at most {schema['maxLength']} characters")
    if "minLength" in schema:
        found.append("not empty")
    if "pattern" in schema:
        found.append(f"`{schema['pattern']}`")
    if "maxProperties" in schema:
        found.append(f"at most {schema['maxProperties']}")
    return "; ".join(found)


def _rules(schema: Schema) -> list[str]:
    """Returns the messages of the CEL rules of an object and of its fields."""
    # Fields that are objects have their own sections.
    fields = [inner for inner in schema["properties"].values() if "properties" not in inner]
    rules = [
        cel for found in (schema, *fields) for cel in found.get("x-kubernetes-validations", [])
    ]
    if not rules:
        return []
    words = [f"- {escaped(_message(cel))}" for cel in rules]
    return ["If a rule is broken, the API server answers with its message:", "", *words]


def _message(cel: dict[str, str]) -> str:
    """Returns a rule's message. In a computed message, … replaces the computed parts."""
    if "message" in cel:
        return cel["message"]
    found, depth = [], 0
    for part in re.findall(r"'(?:[^'\\]|\\.)*'|[()]|[^'()]+", cel["messageExpression"]):
        if part in "()":
            depth += 1 if part == "(" else -1
        elif part.startswith("'") and not depth:
            found.append(part.strip("'"))
    return " … ".join(text.strip() for text in found)
