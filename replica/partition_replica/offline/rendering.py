"""Renders entries, positions and reports as text and as JSON. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from google.protobuf.json_format import MessageToDict
from partition_proto.v1 import types_pb2 as types

from partition_replica.core.model import LogEntry, QuorumRecovery, VerifyReport
from partition_replica.core.payloads import payloads_of
from partition_replica.recovery.finding import Finding

SHOWN_BYTES = 64
KINDS = {0: "normal", 1: "configuration", 2: "configuration"}


def entry_json(entry: LogEntry) -> dict[str, Any]:
    """The entry as JSON. As in protobuf's JSON, bytes are base64, and 64-bit numbers inside the
    body are strings."""
    found: dict[str, Any] = {
        "lsn": int(entry.index),
        "term": int(entry.term),
        "kind": KINDS.get(entry.kind, str(entry.kind)),
    }
    if entry.kind == 0 and entry.data:
        body = types.EntryBody.FromString(entry.data)
        found["body"] = MessageToDict(body, preserving_proto_field_name=True)
    return found


def entry_text(entry: LogEntry) -> str:
    """One line for the entry, one per operation, and one per payload."""
    kind = KINDS.get(entry.kind, str(entry.kind))
    lines = [f"entry {entry.index}  term {entry.term or '-'}  {kind}"]
    if entry.kind or not entry.data:
        lines.append("  no operations")
        return "\n".join(lines)
    body = types.EntryBody.FromString(entry.data)
    match body.WhichOneof("body"):
        case "open_session":
            lines.append(f"  opens session {entry.index}")
        case "close_session":
            lines.append(f"  closes session {body.close_session.session_id}")
        case "imported":
            lines.append("  imported")
            lines += map(_operation, body.imported.operations)
        case "proposal":
            proposal = body.proposal
            lines.append(f"  session {proposal.session_id}  sequence {proposal.sequence}")
            lines += [f"  if {_one_line(condition)}" for condition in proposal.preconditions]
            lines += map(_operation, proposal.operations)
    for number, payload in enumerate(payloads_of(body), 1):
        where = "inline" if payload.data or not payload.size else "blob"
        lines.append(
            f"  payload {number}: {payload.size} bytes, mode {payload.mode:#o}, {where} "
            f"{payload.digest.hex()}"
        )
    return "\n".join(lines)


def _operation(operation: types.Operation) -> str:
    match operation.WhichOneof("operation"):
        case "set_key":
            value = operation.set_key.value
            shown = f"{value[:SHOWN_BYTES]!r}" + ("…" if len(value) > SHOWN_BYTES else "")
            return f"  set {operation.set_key.key!r} = {shown} ({len(value)} bytes)"
        case "delete_key":
            return f"  delete {operation.delete_key.key!r}"
        case "create_directory":
            create = operation.create_directory
            return f"  mkdir {create.path!r} mode {create.mode:#o}"
        case "remove_directory_entry":
            return f"  remove {operation.remove_directory_entry.path!r}"
        case "create_hard_link":
            link = operation.create_hard_link
            source = (
                f"payload {link.payload}"
                if link.WhichOneof("source") == "payload"
                else f"{link.source_path!r}"
            )
            return f"  link {link.destination_path!r} to {source}"
    return "  an operation that this version does not know"


def _one_line(message: Any) -> str:
    return " ".join(str(message).split())


def positions_text(values: Mapping[str, Any]) -> str:
    """One aligned line per name and value."""
    width = max(map(len, values))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in values.items())


def finding_values(found: Finding) -> dict[str, Any]:
    """What a recovery of a lost quorum found, by name. The token only if it may recover."""
    values: dict[str, Any] = {
        "member": f"{found.member:x}",
        "cluster": str(found.cluster),
        "term": int(found.term),
        "last index": int(found.last.index),
        "last term": int(found.last.term),
        "committed": int(found.committed),
        "applied": int(found.applied),
        "configuration": _members(asdict(found.configuration)) | {"as of": int(found.configured)},
        "changed later": [f"{member:x}" for member in sorted(found.changed)],
    }
    return values if found.refusal else values | {"token": found.token}


def _members(configuration: dict[str, Any]) -> dict[str, Any]:
    return {
        name: [f"{member:x}" for member in value] if isinstance(value, tuple) else value
        for name, value in configuration.items()
    }


def recovery_values(recovery: QuorumRecovery) -> dict[str, Any]:
    """A recovery of a lost quorum, by name."""
    return {
        "step": str(recovery.step),
        "cluster": str(recovery.cluster_id),
        "former cluster": str(recovery.former_cluster_id),
        "last index of the former cluster": int(recovery.last.index),
        "last term of the former cluster": int(recovery.last.term),
    }


def terms_text(runs: Iterable[tuple[int, int, int]]) -> str:
    return "\n".join(f"{first} to {last}  term {term or '-'}" for first, last, term in runs)


def report_text(report: VerifyReport) -> str:
    counts = [f"{name.replace('_', ' ')}: {count}" for name, count in report.counts.items()]
    lines = ["read: " + ", ".join(counts)]
    lines += [f"not checked: {text}" for text in report.unchecked]
    lines += [f"WRONG: {text}" for text in report.findings]
    whole = "no findings in what was checked" if report.unchecked else "no findings"
    lines.append(f"{report.counts.get('findings', 0)} findings" if report.findings else whole)
    return "\n".join(lines)
