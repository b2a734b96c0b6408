"""Generates the operator's types of spec and status, and the rules of each field, from the CRDs.

datamodel-code-generator makes the TypedDicts. It ignores the rules, so they follow as a table. The
table includes CEL rules that read one field only (`self.matches(…)`, `self in […]`,
`self.size() <= …`). The other rules are written by hand in api/validation.py.
"""

import ast
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MODULE = "operator/partition_operator/api/schema.py"
HEADER = '''\
"""The types of spec and status in the CRDs, and the rules of single fields.

Generated from charts/partition-operator by `make generate`. docs/reference describes the fields.
"""
'''

IMPORT = "from partition_operator.api.rule import Rule"

SPECIAL_NAMES = {
    "PartitionSpec.snapshots": "Snapshots",
    "PartitionSpec.storage": "Storage",
    "Bootstrap.objectStore": "RestoreStore",
    "PartitionStatus.snapshots": "SnapshotsStatus",
    "PartitionStatus.storage": "StorageStatus",
    "PartitionStatus.certificates": "CertificatesStatus",
    "PartitionStatus.clients": "ClientStates",
    "PartitionSnapshotStatus.destination": "StoredIn",
    "PodTemplate.metadata": "PodMarks",
    "StoredIn.volume": "StoredInVolume",
    "Bootstrap.snapshotRef": "SnapshotRef",
}
"""Names of objects whose field's name is taken by another object, or is too short."""

Schema = dict[str, Any]


class Types:
    """Every object with fields, by its name. Equal objects share a type."""

    def __init__(self, schemas: dict[str, Schema]) -> None:
        self.found: dict[str, Schema] = {}
        self.of_spec: set[str] = set()
        """Names of the objects that are in a spec."""
        for kind, schema in schemas.items():
            self._add(kind, schema)

    def _add(self, name: str, schema: Schema, *, of_spec: bool = False) -> None:
        if of_spec:
            self.of_spec.add(name)
        content = {key: value for key, value in schema.items() if key != "description"}
        before = self.found.get(name)
        if before is not None:
            known = {key: value for key, value in before.items() if key != "description"}
            assert known == content, f"two objects are called {name}: add one to SPECIAL_NAMES"
            return
        self.found[name] = schema
        for field, inner in schema["properties"].items():
            found = self.object_of(name, field, inner)
            if found is not None:
                self._add(*found, of_spec=of_spec or field == "spec")

    def object_of(self, owner: str, field: str, schema: Schema) -> tuple[str, Schema] | None:
        """Returns (name, schema) of the object in a field, or of the items of a list; None if the
        field has no object."""
        inner = schema.get("items", schema)
        if "properties" not in inner:
            return None
        if field in ("spec", "status"):
            return owner + field.capitalize(), inner
        name = SPECIAL_NAMES.get(f"{owner}.{field}", field[0].upper() + field[1:])
        return (name.removesuffix("s") if inner is not schema else name), inner


def write(target: Path, schemas: dict[str, Schema]) -> None:
    """Writes `MODULE` below `target`."""
    types = Types(schemas)
    text = HEADER + _typed_dicts(types) + _rules(types)
    file = target / MODULE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    ruff = [sys.executable, "-m", "ruff", "format", "--quiet", "--isolated", "--line-length=100"]
    subprocess.run([*ruff, file], check=True)


def _typed_dicts(types: Types) -> str:
    definitions = {name: _plain(types, name, schema) for name, schema in types.found.items()}
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "schema.json", Path(folder) / "schema.py"
        # Only the kinds: the other types are reachable from them.
        kinds = [name for name in definitions if f"{name}Spec" in definitions]
        root = {"anyOf": [{"$ref": f"#/$defs/{kind}"} for kind in kinds]}
        given.write_text(json.dumps(root | {"title": "Root", "$defs": definitions}))
        command = [sys.executable, "-m", "datamodel_code_generator"]
        command += ["--input", given, "--input-file-type", "jsonschema", "--output", made]
        command += ["--output-model-type", "typing.TypedDict", "--target-python-version", "3.11"]
        command += ["--enum-field-as-literal", "all", "--use-standard-collections"]
        command += ["--use-union-operator", "--disable-future-imports", "--disable-timestamp"]
        command += ["--formatters", "builtin"]
        subprocess.run(command, check=True)
        text = made.read_text()
    text = text[text.index("from typing") :]
    text = re.sub(r"\n+Root: TypeAlias = .*|, TypeAlias", "", text)
    return text.replace("\n\n\n", f"\n\n{IMPORT}\n\n\n", 1)


def _plain(types: Types, owner: str, schema: Schema) -> Schema:
    """Returns an object as JSON Schema, with references to its objects and without the extensions
    of Kubernetes."""
    properties = {}
    for field, inner in schema["properties"].items():
        kept = {key: inner[key] for key in ("type", "enum", "additionalProperties") if key in inner}
        found = types.object_of(owner, field, inner)
        reference = {"$ref": f"#/$defs/{found[0]}"} if found else None
        if "items" in inner:
            properties[field] = {"type": "array", "items": reference or _bare(inner["items"])}
        else:
            properties[field] = reference or kept
    return {
        "type": "object",
        "required": schema.get("required", []),
        "properties": properties,
    }


def _bare(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if not key.startswith("x-")}


def _rules(types: Types) -> str:
    """Returns the table of the rules of specs. Only the operator writes status, so it needs no
    rules.
    """
    lines = ["\n\nRULES: dict[str, dict[str, Rule]] = {"]
    for name, schema in types.found.items():
        found = _metadata_rules(schema)
        if name in types.of_spec:
            found |= {field: _rule(types, name, schema, field) for field in schema["properties"]}
        if not found:
            continue
        lines.append(f"    {name!r}: {{")
        for field, rule in found.items():
            given = ", ".join(f"{key}={value!r}" for key, value in rule.items())
            lines.append(f"        {field!r}: Rule({given}),")
        lines.append("    },")
    return "\n".join([*lines, "}", '"""By object and field."""', ""])


def _rule(types: Types, owner: str, schema: Schema, field: str) -> dict[str, Any]:
    """Returns the arguments of a field's Rule."""
    inner = schema["properties"][field]
    found = types.object_of(owner, field, inner)
    rule: dict[str, Any] = {"type": inner["type"]}
    if found is not None:
        rule["of"] = found[0]
    elif values := inner.get("additionalProperties", {}).get("type"):
        rule["values"] = values
    if field in schema.get("required", []):
        rule["required"] = True
    for key, name in (
        ("default", "default"),
        ("enum", "allowed"),
        ("minimum", "minimum"),
        ("maximum", "maximum"),
        ("maxItems", "max_items"),
        ("minLength", "min_length"),
        ("maxLength", "max_length"),
        ("pattern", "pattern"),
    ):
        if key in inner:
            rule[name] = tuple(inner[key]) if key == "enum" else inner[key]
    for cel in inner.get("x-kubernetes-validations", []):
        rule |= _of_cel(cel, "self")
    needs_words = "pattern" in rule or "required" in rule
    if needs_words and "words" not in rule and "description" in inner:
        rule["words"] = _first_sentence(inner["description"])
    return rule


def _first_sentence(text: str) -> str:
    """Returns the first sentence without its capital and its full stop, to follow a colon."""
    first = re.split(r"\.(?:\s|$)", text)[0]
    return first[0].lower() + first[1:]


def _metadata_rules(schema: Schema) -> dict[str, dict[str, Any]]:
    """Returns the rules of an object's name. In Kubernetes only the root may have them."""
    found: dict[str, Any] = {}
    for cel in schema.get("x-kubernetes-validations", []):
        found |= _of_cel(cel, "self.metadata.name")
    return {"metadata.name": {"type": "string"} | found} if found else {}


def _of_cel(cel: dict[str, str], subject: str) -> dict[str, Any]:
    """Returns the Rule arguments for a CEL rule about `subject`; empty if the rule reads more."""
    rule, start = cel["rule"], re.escape(subject)
    words = re.sub(r"^[\w.]+: ", "", cel.get("message", ""))
    if match := re.fullmatch(start + r"\.matches\(('(?:[^'\\]|\\.)*')\)", rule):
        return {"pattern": ast.literal_eval(match[1]), "words": words}
    if match := re.fullmatch(start + r" in (\[[\d, ]+\])", rule):
        return {"allowed": tuple(ast.literal_eval(match[1]))}
    if match := re.fullmatch(start + r"\.size\(\) <= (\d+)", rule):
        return {"max_length": int(match[1])}
    return {}
