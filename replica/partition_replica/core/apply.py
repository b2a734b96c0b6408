"""Applies entries to the state. Pure, total and deterministic on every replica.

The operations are those of Gitaly's write-ahead log, made total. If the original ignores an error
("exists", "does not exist"), our operation has no effect, and its Outcome reports that.
"""

from collections.abc import Sequence

from partition_proto.v1 import types_pb2 as types

from partition_replica.core.limits import SESSIONS_MAX
from partition_replica.core.model import Applied, ProposalResult, Session, TreeEntry
from partition_replica.core.paths import parent
from partition_replica.core.payloads import is_blob
from partition_replica.core.ports import StateView
from partition_replica.core.sessions import NEW, WITHOUT_EFFECT, advance_clock, judge
from partition_replica.ids import LSN, Digest, SessionID, Term

APPLIED = types.OUTCOME_APPLIED


def apply_body(view: StateView, index: LSN, term: Term, body: types.EntryBody | None) -> Applied:
    """Applies one normal entry. `body` is None for an entry without data."""
    if body is None:
        return Applied(index, term, "empty")
    view.clock_ms = advance_clock(view.clock_ms, body)
    view.time_ms = body.time_ms or view.time_ms
    match body.WhichOneof("body"):
        case "proposal":
            return _apply_proposal(view, index, term, body)
        case "imported":
            outcomes = _apply_operations(view, body.imported.operations, body.imported.payloads)
            return Applied(index, term, "imported", ProposalResult(index, term, outcomes=outcomes))
        case "open_session":
            return _open_session(view, index, term, body.open_session)
        case "close_session":
            view.delete_session(SessionID(body.close_session.session_id))
            return Applied(index, term, "session_closed")
        case _:
            return Applied(index, term, "empty")


def _open_session(view: StateView, index: LSN, term: Term, opening: types.OpenSession) -> Applied:
    for session in view.expired_sessions(view.clock_ms):
        view.delete_session(session)
    session = SessionID(opening.session_id or int(index))
    if view.get_session(session) is not None:
        return Applied(index, term, "session_exists")
    if view.session_count() >= SESSIONS_MAX:
        return Applied(index, term, "sessions_full")
    view.put_session(session, Session(opening.time_to_live_ms, view.clock_ms, 1))
    return Applied(index, term, "session_opened")


def _apply_proposal(view: StateView, index: LSN, term: Term, body: types.EntryBody) -> Applied:
    proposal = body.proposal
    session, sequence = SessionID(proposal.session_id), proposal.sequence
    row = view.get_session(session)
    if row is None or row.expired(view.clock_ms):
        view.delete_session(session)
        return Applied(index, term, "session_expired")
    acknowledged_below = row.acknowledged_below
    earlier = view.get_result(session, sequence)
    verdict = judge(sequence, body.content_digest, acknowledged_below, earlier)
    if verdict is not NEW:
        view.put_session(session, Session(row.time_to_live_ms, view.clock_ms, acknowledged_below))
        return Applied(index, term, WITHOUT_EFFECT[verdict], earlier)

    result = _result(view, index, body, proposal)
    view.put_result(session, sequence, result)
    if proposal.acknowledged_below > acknowledged_below:
        acknowledged_below = proposal.acknowledged_below
        view.drop_results_below(session, acknowledged_below)
    view.put_session(session, Session(row.time_to_live_ms, view.clock_ms, acknowledged_below))
    return Applied(index, term, "proposal", result)


def _result(
    view: StateView, index: LSN, body: types.EntryBody, proposal: types.Proposal
) -> ProposalResult:
    preconditions = proposal.preconditions[:]
    failed = bool(preconditions) and not all(_holds(view, found) for found in preconditions)
    outcomes = b""
    if not failed:
        outcomes = _apply_operations(view, proposal.operations, proposal.payloads)
    # Not the entry's own term, which a backfill changes: a replay must produce the same row.
    return ProposalResult(index, Term(body.term), failed, outcomes, body.content_digest)


def _holds(view: StateView, precondition: types.Precondition) -> bool:
    match precondition.WhichOneof("precondition"):
        case "key_equals":
            return view.get_value(precondition.key_equals.key) == precondition.key_equals.value
        case "key_absent":
            return view.get_value(precondition.key_absent) is None
        case "path_absent":
            return view.get_tree_entry(precondition.path_absent) is None
        case "path_digest_equals":
            node = view.get_tree_entry(precondition.path_digest_equals.path)
            return node is not None and node.digest == precondition.path_digest_equals.digest
        case _:
            return False


def _apply_operations(
    view: StateView, operations: Sequence[types.Operation], payloads: Sequence[types.Payload]
) -> bytes:
    """One byte (types.Outcome) per operation; empty if all were applied."""
    # A copy: iterating over a repeated field takes longer than all that most entries have to do.
    outcomes = bytes([_apply_operation(view, found, payloads) for found in operations[:]])
    return b"" if outcomes.count(APPLIED) == len(outcomes) else outcomes


def _apply_operation(
    view: StateView, operation: types.Operation, payloads: Sequence[types.Payload]
) -> types.Outcome:
    match operation.WhichOneof("operation"):
        case "set_key":
            setting = operation.set_key
            view.put_value(setting.key, setting.value)
            return APPLIED
        case "delete_key":
            view.delete_value(operation.delete_key.key)
            return APPLIED
        case "create_hard_link":
            return _link(view, operation.create_hard_link, payloads)
        case "create_directory":
            create = operation.create_directory
            outcome = _destination(view, create.path)
            if outcome == APPLIED:
                view.put_tree_entry(create.path, TreeEntry(True, create.mode))
            return outcome
        case "remove_directory_entry":
            return _remove(view, operation.remove_directory_entry.path)
        case _:
            return types.OUTCOME_SOURCE_NOT_FOUND


def _link(
    view: StateView, link: types.CreateHardLink, payloads: Sequence[types.Payload]
) -> types.Outcome:
    outcome = _destination(view, link.destination_path)
    if outcome != APPLIED:
        return outcome
    if link.WhichOneof("source") == "payload":
        payload = payloads[link.payload - 1]
        inlined = None if is_blob(payload) else payload.data
        digest = Digest(payload.digest)
        view.add_payload_reference(digest, payload.size, inlined)
        view.put_tree_entry(
            link.destination_path, TreeEntry(False, payload.mode, payload.size, digest)
        )
        return APPLIED
    source = view.get_tree_entry(link.source_path)
    if source is None or source.directory:
        return types.OUTCOME_SOURCE_NOT_FOUND
    view.add_payload_reference(source.digest, source.size, None)
    view.put_tree_entry(link.destination_path, source)
    return APPLIED


def _destination(view: StateView, path: bytes) -> types.Outcome:
    if view.get_tree_entry(path) is not None:
        return types.OUTCOME_DESTINATION_EXISTS
    directory = parent(path)
    if directory:
        node = view.get_tree_entry(directory)
        if node is None or not node.directory:
            return types.OUTCOME_PARENT_NOT_FOUND
    return APPLIED


def _remove(view: StateView, path: bytes) -> types.Outcome:
    node = view.get_tree_entry(path)
    if node is None:
        return types.OUTCOME_SOURCE_NOT_FOUND
    if node.directory:
        if view.has_children(path):
            return types.OUTCOME_DIRECTORY_NOT_EMPTY
    else:
        view.drop_payload_reference(node.digest)
    view.delete_tree_entry(path)
    return APPLIED
