"""The reference implementation of the state: dictionaries, without durability. Conformance tests
use it as the model for the state in LMDB."""

from partition_replica.core.model import ProposalResult, Session, TreeEntry
from partition_replica.ids import Digest, SessionID


class MemoryView:
    """`core.ports.StateView` on dictionaries; changes take effect at once."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.nodes: dict[bytes, TreeEntry] = {}
        self.payloads: dict[Digest, int] = {}
        self.contents: dict[Digest, bytes] = {}
        self.sessions: dict[SessionID, Session] = {}
        self.results: dict[tuple[SessionID, int], ProposalResult] = {}
        self.members: dict[int, str] = {}
        self.time_ms = 0
        self.clock_ms = 0

    def get_value(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def put_value(self, key: bytes, value: bytes) -> None:
        self.values[key] = value

    def delete_value(self, key: bytes) -> None:
        self.values.pop(key, None)

    def get_tree_entry(self, path: bytes) -> TreeEntry | None:
        return self.nodes.get(path)

    def put_tree_entry(self, path: bytes, node: TreeEntry) -> None:
        self.nodes[path] = node

    def delete_tree_entry(self, path: bytes) -> None:
        self.nodes.pop(path, None)

    def has_children(self, path: bytes) -> bool:
        return any(other.startswith(path + b"/") for other in self.nodes)

    def add_payload_reference(self, digest: Digest, size: int, data: bytes | None) -> None:
        if digest not in self.payloads and data is not None:
            self.contents[digest] = data
        self.payloads[digest] = self.payloads.get(digest, 0) + 1

    def drop_payload_reference(self, digest: Digest) -> None:
        self.payloads[digest] -= 1
        if not self.payloads[digest]:
            del self.payloads[digest]
            self.contents.pop(digest, None)

    def get_session(self, session: SessionID) -> Session | None:
        return self.sessions.get(session)

    def put_session(self, session: SessionID, row: Session) -> None:
        self.sessions[session] = row

    def delete_session(self, session: SessionID) -> None:
        self.sessions.pop(session, None)
        self.drop_results_below(session, 1 << 64)

    def expired_sessions(self, clock_ms: int) -> list[SessionID]:
        return sorted(s for s, row in self.sessions.items() if row.expired(clock_ms))

    def session_count(self) -> int:
        return len(self.sessions)

    def get_result(self, session: SessionID, sequence: int) -> ProposalResult | None:
        return self.results.get((session, sequence))

    def put_result(self, session: SessionID, sequence: int, result: ProposalResult) -> None:
        self.results[session, sequence] = result

    def drop_results_below(self, session: SessionID, sequence: int) -> None:
        gone = [key for key in self.results if key[0] == session and key[1] < sequence]
        for key in gone:
            del self.results[key]

    def put_member(self, member: int, address: str) -> None:
        self.members[member] = address

    def delete_member(self, member: int) -> None:
        self.members.pop(member, None)
