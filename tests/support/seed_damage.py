"""Damage to a log directory or a base of the seed, and the words in which an import refuses it."""

import hashlib
import os

from partition_proto.v1 import seed_pb2 as seed
from partition_replica.core import limits

from tests.support.seed_logs import (
    LARGE,
    Change,
    Member,
    at,
    base_members,
    cut,
    drop,
    kv_pair,
    kv_state,
    raft_entry,
    raft_of,
    replaced,
    s_copy,
    s_link,
    s_mkdir,
    s_set,
    symlink,
    tar,
    tar_header,
    tar_member,
    write,
)

BLOB = hashlib.sha256(LARGE).hexdigest()

DAMAGE: list[tuple[str, Change, str]] = [
    ("a hole", drop(at(5)), r"entry 5 .* is missing"),
    ("no MANIFEST", drop(at(4, "MANIFEST")), r"entry 4 .*MANIFEST\) is missing"),
    ("a MANIFEST cut inside", cut(at(4, "MANIFEST"), 5), r"entry 4 .*MANIFEST\) does not decode"),
    (
        "a MANIFEST cut to nothing",
        cut(at(4, "MANIFEST"), 0),
        r"entry 4 .*/1\) is a payload that no",
    ),
    ("a payload gone", drop(at(4, "1")), r"entry 4 .*/1\) is missing"),
    ("a payload gone in front", drop(at(5, "1")), r"entry 5 .*/1\) is missing"),
    ("RAFT of nothing", cut(at(3, "RAFT"), 0), r"entry 3 .*RAFT\) has 0 bytes"),
    ("RAFT cut", cut(at(3, "RAFT"), 3), r"entry 3 .*RAFT\)"),
    ("another's RAFT", raft_of(3, raft_entry(4, 1)), r"entry 3 .*has index 4"),
    (
        "a falling term",
        raft_of(8, raft_entry(8, 1)),
        r"entry 8 .*has term 1, .*2; terms never fall",
    ),
    ("term 0", raft_of(3, raft_entry(3, 0)), r"entry 3 .*term 0"),
    ("a link out", symlink(at(4, "1"), "/etc/passwd"), r"entry 4 .*symbolic link"),
    ("an entry as link", symlink(at(5), "../other"), r"entry 5 .*symbolic link"),
    ("a path out", replaced(9, [s_set(b"k", b"v"), s_mkdir(b"../up")], []), r"entry 9.*\.\."),
    ("an absolute path", replaced(9, [s_link(b"/etc/f")], [b"x"]), r"entry 9.*absolute"),
    ("a source out", replaced(9, [s_copy(b"a/../../b", b"c")], []), r"entry 9.*\.\."),
    ("a payload by path", replaced(9, [s_link(b"f", b"../1")], [b"x"]), r"entry 9.*'\.\./1'"),
    ("a key too long", replaced(9, [s_set(b"k" * 65_001, b"v")], []), r"entry 9.*65001 bytes"),
    ("nothing known", replaced(9, [seed.Operation()], []), r"entry 9.*does not know"),
    ("a stranger's file", lambda log: write(log / "notes", b""), r"'notes'"),
    ("a stranger inside", lambda log: write(at(4, "x.tmp")(log), b""), r"entry 4 .*'x.tmp'"),
    ("a pipe", lambda log: os.mkfifo(at(4, "2")(log)), r"entry 4 .*pipe"),
]

FS = Member(b"fs", kind=b"5", mode=0o755)
NO_KEYS = kv_state()
TOO_LONG = (b"d/" * limits.PATH_BYTES_MAX)[: limits.PATH_BYTES_MAX] + b"x"


def damaged(content: bytes) -> bytes:
    """The third member's header, changed: its checksum is wrong."""
    at = 3 * 512
    return content[:at] + b"X" + content[at + 1 :]


REFUSED: list[tuple[str, bytes, str]] = [
    ("no member", bytes(1024), "begins with nothing|truncated or damaged"),
    ("nothing at all", b"", "truncated or damaged"),
    ("no archive", b"what is this" * 100, "truncated or damaged"),
    ("no keys", tar(FS), "begins with 'fs'; the first member"),
    ("keys later", tar(FS, NO_KEYS), "begins with 'fs'"),
    ("keys twice", tar(NO_KEYS, NO_KEYS), "contains b'kv-state'"),
    ("a stranger", tar(NO_KEYS, FS, Member(b"other", b"x")), "contains b'other'"),
    ("the tree a file", tar(NO_KEYS, Member(b"fs", b"x")), "b'fs' .*is a file"),
    ("a path out", tar(NO_KEYS, FS, Member(b"fs/../up", b"x")), r"component '\.\.'"),
    ("a path out of the root", tar(NO_KEYS, Member(b"../fs", b"x")), r"contains b'\.\./fs'"),
    ("an absolute path", tar(NO_KEYS, Member(b"/fs/x", b"x")), "contains b'/fs/x'"),
    ("a dot", tar(NO_KEYS, FS, Member(b"fs/./a", b"x")), r"component '\.'"),
    ("two slashes", tar(NO_KEYS, FS, Member(b"fs//a", b"x")), "component ''|absolute"),
    (
        "a path too long",
        tar(NO_KEYS, FS, Member(b"fs/" + TOO_LONG, b"x")),
        f"has {limits.PATH_BYTES_MAX + 1} bytes",
    ),
    (
        "a symbolic link",
        tar(NO_KEYS, FS, Member(b"fs/l", kind=b"2", link=b"/etc/passwd")),
        "b'fs/l' .*symbolic link to '/etc/passwd'",
    ),
    ("a hard link", tar(NO_KEYS, FS, Member(b"fs/l", kind=b"1", link=b"fs/x")), "hard link"),
    ("a device", tar(NO_KEYS, FS, Member(b"fs/d", kind=b"3")), "b'fs/d' .*a device"),
    ("a block device", tar(NO_KEYS, FS, Member(b"fs/d", kind=b"4")), "b'fs/d' .*a device"),
    ("a pipe", tar(NO_KEYS, FS, Member(b"fs/p", kind=b"6")), "b'fs/p' .*a pipe"),
    ("of no known kind", tar(NO_KEYS, FS, Member(b"fs/p", kind=b"Q")), "b'fs/p' "),
    ("a sparse file", tar(NO_KEYS, FS, Member(b"fs/p", kind=b"S")), "b'fs/p' .*sparse"),
    (
        "a path twice",
        tar(NO_KEYS, FS, Member(b"fs/a", b"1"), Member(b"fs/a", b"2")),
        "b'a' .*exists twice",
    ),
    (
        "a file and a directory",
        tar(NO_KEYS, FS, Member(b"fs/a", b"1"), Member(b"fs/a/", kind=b"5")),
        "b'a' .*exists twice",
    ),
    ("no directory", tar(NO_KEYS, FS, Member(b"fs/a/b", b"1")), "b'a/b' .*no parent directory"),
    (
        "below a file",
        tar(NO_KEYS, FS, Member(b"fs/a", b"1"), Member(b"fs/a/b", b"1")),
        "b'a/b' .*no parent directory",
    ),
    ("a key twice", tar(kv_state((b"k", b"1"), (b"k", b"2"))), "the key b'k' twice"),
    ("an empty key", tar(kv_state((b"", b"1"))), "pair 1 of kv-state .*0 bytes"),
    (
        "a key too long",
        tar(kv_state((b"k", b""), (b"k" * (limits.KEY_BYTES_MAX + 1), b"1"))),
        f"pair 2 of kv-state .*{limits.KEY_BYTES_MAX + 1} bytes",
    ),
    (
        "a value too long",
        tar(kv_state((b"k", bytes(limits.VALUE_BYTES_MAX + 1)))),
        f"pair 1 .*{limits.VALUE_BYTES_MAX + 1} bytes",
    ),
    ("a pair too long", tar(Member(b"kv-state", b"\xff\xff\xff\x7f")), "268435455 bytes"),
    ("a length without an end", tar(Member(b"kv-state", b"\xff" * 9)), "takes more than"),
    ("a length cut", tar(Member(b"kv-state", b"\xff")), "ends inside its length"),
    ("a pair cut", tar(Member(b"kv-state", kv_pair(b"k", b"v")[:-1])), "and only 5 are left"),
    ("no pair", tar(Member(b"kv-state", b"\x02\xff\xff")), "does not decode"),
    ("an unknown field", tar(Member(b"kv-state", b"\x05\x0a\x01k\x18\x01")), "does not know"),
    ("cut in a member", tar(*base_members())[:3000], "early: it is truncated|truncated or damaged"),
    ("cut between members", tar_member(NO_KEYS) + tar_member(FS), "truncated or damaged"),
    ("cut in its end", tar(NO_KEYS, FS)[:-512], "lacks the end of its archive"),
    ("cut in a header", (tar_member(NO_KEYS) + tar_member(FS))[:-100], "truncated or damaged"),
    ("a damaged header", damaged(tar(NO_KEYS, FS, Member(b"fs/a"), Member(b"fs/b"))), "damaged at"),
    ("something behind", tar(NO_KEYS, FS) + bytes(512) + b"x" * 512, "has data after the end"),
    (
        "a size that is not there",
        tar_member(NO_KEYS) + tar_member(Member(b"fs/a", b"x", size=10**9)),
        "too early|truncated",
    ),
    (
        "a file too large",
        tar(
            NO_KEYS,
            Member(b"fs/a", kind=b"x", content=b"23 size=99999999999999\n"),
            Member(b"fs/a"),
        ),
        r"b'fs/a' .*99999999999999 bytes",
    ),
    (
        "a negative size",
        tar(NO_KEYS, Member(b"PaxHeaders/x", b"17 size=-1048576\n", b"x"), Member(b"fs/a", b"x")),
        "points backwards|truncated or damaged|bytes; at most",
    ),
    (
        "a long name without a bound",
        tar_member(NO_KEYS) + tar_header(Member(b"x", kind=b"L", size=1 << 31)),
        "header of .* bytes",
    ),
    (
        "records without a bound",
        tar_member(NO_KEYS) + tar_header(Member(b"x", kind=b"x", size=1 << 31)),
        "header of .* bytes",
    ),
    (
        "records in front of records",
        tar(NO_KEYS, *[Member(b"x", b"6 a=b\n", b"x")] * 5000),
        "truncated or damaged",
    ),
]
