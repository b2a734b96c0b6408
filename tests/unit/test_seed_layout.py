"""The seed's layout, without files: names, translation both ways, what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from partition_proto.v1 import seed_pb2 as seed
from partition_proto.v1 import types_pb2 as types
from partition_replica.core import limits
from partition_replica.core.model import Configuration, HardState
from partition_replica.errors import ImportRefused
from partition_replica.ids import LSN, MemberID, Term
from partition_replica.offline.seed import layout
from partition_replica.offline.seed.layout import (
    BODY_BYTES_MAX,
    LSN_MAX,
    MANIFEST,
    MANIFEST_BYTES_MAX,
    PAYLOADS_MAX,
    RAFT,
    RAFT_BYTES_MAX,
    base36,
    check_file_size,
    check_names,
    encode_manifest,
    entry_name,
    export_normal,
    inlined,
    make_body,
    make_raft,
    parse_entry_name,
    parse_manifest,
    parse_raft,
)
from partition_replica.offline.seed.state_files import (
    encode_conf_state,
    encode_hard_state,
    parse_conf_state,
    parse_hard_state,
)

from tests.support.proposals import (
    copy,
    delete_key,
    link,
    mkdir,
    opening,
    payload,
    proposal,
    remove,
    set_key,
)

EVERY_KIND = [
    set_key(b"k", b"v"),
    set_key(b"empty", b""),
    delete_key(b"k"),
    mkdir(b"d", 0o700),
    mkdir(b"\xff\xfe", 0),
    link(b"d/f", 1),
    link(b"d/g", 36),
    copy(b"d/f", b"h"),
    remove(b"h"),
]


# --- names ------------------------------------------------------------------------------------


@given(st.integers(1, LSN_MAX))
def test_entry_names_sort_as_their_lsns(lsn: int) -> None:
    name = entry_name(LSN(lsn))
    assert (len(name), int(name, 36), parse_entry_name(name)) == (13, lsn, lsn)
    assert entry_name(LSN(lsn + 1)) > name


def test_the_names_that_the_seed_writes() -> None:
    assert entry_name(LSN(1)) == "0000000000001"
    assert entry_name(LSN(36 * 36 + 35)) == "000000000010z"
    assert [base36(n) for n in (1, 9, 10, 35, 36)] == ["1", "9", "a", "z", "10"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1",
        "0000000000000",  # LSN 0
        "000000000000A",
        "00000000000_1",
        "+000000000001",
        "00000000000001",
        "zzzzzzzzzzzzz",  # above 2^63
        "000000000000\u0661",  # a digit, and not ours
        "000000000000\udcff",
        "0000000000001\n",
    ],
)
def test_other_names_are_no_entries(name: str) -> None:
    with pytest.raises(ImportRefused, match="is not an entry; allowed are"):
        parse_entry_name(name)


def test_what_an_entry_holds() -> None:
    assert check_names(LSN(1), [MANIFEST]) == (False, 0)
    every = [MANIFEST, RAFT, *(base36(n) for n in range(1, 41))]
    assert check_names(LSN(1), reversed(every)) == (True, 40)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "MANIFEST"),
        ([RAFT, "1"], "MANIFEST"),
        ([MANIFEST, "0"], "'0'"),
        ([MANIFEST, "01"], "'01'"),
        ([MANIFEST, "A"], "'A'"),
        ([MANIFEST, "manifest"], "'manifest'"),
        ([MANIFEST, "RAFT.tmp"], "'RAFT.tmp'"),
        ([MANIFEST, "2"], r"000000000000a/1\) is missing"),
        ([MANIFEST, "1", "3"], r"000000000000a/2\) is missing"),
        ([MANIFEST, *(base36(n) for n in range(1, 10)), "b"], r"000000000000a/a\) is missing"),
        ([MANIFEST, *map(base36, range(1, PAYLOADS_MAX + 2))], "8193 payloads; at most 8192"),
    ],
)
def test_other_contents_are_refused(names: list[str], says: str) -> None:
    with pytest.raises(ImportRefused, match=says) as raised:
        check_names(LSN(10), names)
    assert "entry 10 (000000000000a" in str(raised.value)


def test_sizes_have_limits() -> None:
    for name, most in (
        (MANIFEST, MANIFEST_BYTES_MAX),
        (RAFT, RAFT_BYTES_MAX),
        ("1", limits.PAYLOAD_BYTES_MAX),
    ):
        check_file_size(LSN(1), name, most)
        with pytest.raises(ImportRefused, match=f"/{name}.* has {most + 1} bytes; at most"):
            check_file_size(LSN(1), name, most + 1)


# --- RAFT -------------------------------------------------------------------------------------


def test_raft_as_the_seed_writes_it() -> None:
    # raftpb.Entry{Type: 0, Term: 7, Index: 300}: fields 1 to 3 are written, zeros too.
    found = parse_raft(LSN(300), b"\x08\x00\x10\x07\x18\xac\x02")
    assert (found.term, found.kind, found.explained) == (7, 0, False)
    assert layout.encode_raft(LSN(300), Term(7), 0, b"") == b"\x08\x00\x10\x07\x18\xac\x02"
    made = parse_raft(LSN(300), make_raft(LSN(300), Term(7)))
    assert (made.term, made.kind, made.explained) == (7, 0, True)
    change = parse_raft(LSN(300), layout.encode_raft(LSN(300), Term(7), 2, b"\xff"))
    assert (change.kind, change.explained) == (2, True)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "has 0 bytes"),
        (b"\x10\x07\x18\x05", "lacks its type"),
        (b"\x08\x00\x18\x05", "lacks its term"),
        (b"\x08\x00\x10\x07", "lacks its index"),
        (b"\x08\x00\x10\x07\x18", "does not decode"),
        (b"\x08\x00\x10\x07\x18\x05\x22\x09abc", "does not decode"),
        (b"\x08\x00\x10\x07\x18\x06", "has index 6"),
        (b"\x08\x00\x10\x00\x18\x05", "has term 0"),
        (b"\x08\x03\x10\x07\x18\x05", "has type 3"),
        (b"\x0a\x00\x10\x07\x18\x05", "lacks its type"),  # another wire type
    ],
)
def test_damaged_raft_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(ImportRefused, match=f"entry 5 .*/RAFT.* {says}"):
        parse_raft(LSN(5), content)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_raft_or_refused(content: bytes) -> None:
    try:
        found = parse_raft(LSN(5), content)
    except ImportRefused:
        return
    assert found.term >= 1


# --- MANIFEST ---------------------------------------------------------------------------------


def test_every_operation_comes_back() -> None:
    links = [link(b"f%d" % n, n) for n in range(1, 37)]
    found = parse_manifest(LSN(1), encode_manifest(EVERY_KIND + links), 36)
    assert found.operations == EVERY_KIND + links
    assert (found.verbatim, found.mode_bits_dropped) == (False, 0)


def test_a_manifest_as_the_seed_writes_it() -> None:
    """Defaults are left out; a directory's mode is Go's."""
    manifest = seed.Manifest.FromString(encode_manifest(EVERY_KIND))
    assert manifest.operations[0].set_key == seed.SetKey(key=b"k", value=b"v")
    assert not manifest.operations[1].set_key.HasField("value")
    assert manifest.operations[3].create_directory.mode == 0x80000000 | 0o700
    first = manifest.operations[5].create_hard_link
    assert (first.source_path, first.HasField("source_in_storage")) == (b"1", False)
    assert manifest.operations[6].create_hard_link.source_path == b"10"
    assert manifest.operations[7].create_hard_link.source_in_storage
    assert encode_manifest([set_key(b"k", b"v")]) == b"\x52\x08\x22\x06\x0a\x01k\x12\x01v"


@pytest.mark.parametrize(
    "extra",
    [
        b"\x5a\x01x",  # an unknown field
        b"\x08\x01",  # another in front of the known ones' number
        b"\x52\x0a\x22\x08\x0a\x01k\x12\x01v\x18\x05",  # one inside an operation
    ],
)
def test_unknown_fields_are_kept(extra: bytes) -> None:
    content = encode_manifest([set_key(b"k", b"v")]) + extra
    found = parse_manifest(LSN(1), content, 0)
    assert found.verbatim
    body = make_body(found, content, None, [])
    assert body.imported.manifest == content
    files = export_normal(LSN(1), Term(0), body, whole=False, outcomes=b"")
    assert (files.manifest, files.raft) == (content, None)


@pytest.mark.parametrize("mode", [0o755, 0x80000000 | 0x01000000 | 0o755, 0x80100000 | 0o700])
def test_other_modes_are_kept_and_cut_to_permissions(mode: int) -> None:
    create = seed.CreateDirectory(path=b"d", mode=mode)
    manifest = seed.Manifest(operations=[seed.Operation(create_directory=create)])
    found = parse_manifest(LSN(1), manifest.SerializeToString(), 0)
    assert found.operations == [mkdir(b"d", mode & 0o777)]
    assert (found.verbatim, found.mode_bits_dropped) == (True, int(mode > 0o777))


def s_link(**fields: object) -> seed.Operation:
    return seed.Operation(create_hard_link=seed.CreateHardLink(**fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("operations", "payloads", "says"),
    [
        ([], 1, r"/1\) is a payload that no operation .*truncated after an operation"),
        (
            [s_link(source_path=b"1", destination_path=b"f")],
            2,
            r"/2\) is a payload that no operation",
        ),
        ([s_link(source_path=b"2", destination_path=b"f")], 1, r"payload 2, but .*/2\) is missing"),
        ([s_link(source_path=b"01", destination_path=b"f")], 1, "links the payload '01'"),
        ([s_link(source_path=b"\xff", destination_path=b"f")], 1, "links the payload"),
        ([s_link(destination_path=b"f")], 0, "links the payload ''"),
        ([s_link(source_path=b"1", destination_path=b"../f")], 1, r"operation 1.*'\.\.'"),
        ([s_link(source_path=b"1")], 1, "operation 1.* is empty"),
        ([s_link(source_path=b"/a", source_in_storage=True, destination_path=b"f")], 0, "absolute"),
        ([seed.Operation()], 0, "operation 1 is of a kind that this version"),
        ([seed.Operation(set_key=seed.SetKey(value=b"v"))], 0, "key has 0 bytes"),
        ([seed.Operation(delete_key=seed.DeleteKey(key=b"k" * 65_001))], 0, "key has 65001 bytes"),
        (
            [seed.Operation(set_key=seed.SetKey(key=b"k", value=bytes(512 * 1024 + 1)))],
            0,
            "value has 524289 bytes",
        ),
        (
            [seed.Operation(create_directory=seed.CreateDirectory(path=b"a\0b"))],
            0,
            "NUL",
        ),
        (
            [seed.Operation(remove_directory_entry=seed.RemoveDirectoryEntry(path=b"p" * 4_096))],
            0,
            "4096 bytes",
        ),
        ([seed.Operation(delete_key=seed.DeleteKey(key=b"k"))] * 8193, 0, "8193 operations"),
    ],
)
def test_what_cannot_be_applied_is_refused(
    operations: list[seed.Operation], payloads: int, says: str
) -> None:
    content = seed.Manifest(operations=operations).SerializeToString()
    with pytest.raises(ImportRefused, match=says) as raised:
        parse_manifest(LSN(10), content, payloads)
    assert str(raised.value).startswith("entry 10 (000000000000a/")


OPERATIONS = st.lists(
    st.one_of(
        st.builds(set_key, st.binary(min_size=1, max_size=8), st.binary(max_size=8)),
        st.builds(delete_key, st.binary(min_size=1, max_size=8)),
        st.builds(mkdir, st.sampled_from([b"a", b"a/b", b"\xff"]), st.integers(0, 0o777)),
        st.builds(copy, st.sampled_from([b"a", b"b"]), st.sampled_from([b"c", b"d/e"])),
        st.builds(remove, st.sampled_from([b"a", b"b/c"])),
    ),
    max_size=6,
)


@given(operations=OPERATIONS, payloads=st.integers(0, 40))
def test_our_operations_need_no_copy_of_the_manifest(
    operations: list[types.Operation], payloads: int
) -> None:
    operations = operations + [link(b"f%d" % n, n) for n in range(1, payloads + 1)]
    found = parse_manifest(LSN(1), encode_manifest(operations), payloads)
    assert (found.operations, found.verbatim) == (operations, False)


@given(cut=st.integers(0, 200), operations=OPERATIONS)
def test_a_cut_manifest_is_refused_or_shorter(cut: int, operations: list[types.Operation]) -> None:
    content = encode_manifest([*operations, link(b"f", 1)])
    if cut >= len(content):
        return
    with pytest.raises(ImportRefused, match=r"does not decode|no operation|does not know"):
        parse_manifest(LSN(1), content[:cut], 1)


# --- entries ----------------------------------------------------------------------------------


def body_of(sizes: list[int], operations: list[types.Operation] | None = None) -> types.EntryBody:
    found = layout.ManifestFile(operations or [], False, 0)
    return make_body(found, b"", None, [(size, 0o400) for size in sizes])


def test_small_payloads_are_inline_as_long_as_the_entry_is_small() -> None:
    inline = limits.PAYLOAD_INLINE_BYTES_MAX
    assert inlined(body_of([0, 1, inline, inline + 1])) == [True, True, True, False]
    assert inlined(body_of([60_000] * 20 + [10, 0])) == [True] * 17 + [False] * 3 + [True, True]
    big = [set_key(b"k%d" % n, bytes(500_000)) for n in range(2)]
    assert inlined(body_of([60_000, 40_000], big)) == [False, True]
    more = [set_key(b"k%d" % n, bytes(524_288)) for n in range(2)]
    assert inlined(body_of([1, 0], more)) == [False, True]


@given(st.lists(st.integers(0, 70_000), max_size=60), st.integers(0, 900_000))
def test_an_entry_with_its_inline_payloads_keeps_its_limit(sizes: list[int], value: int) -> None:
    values = [set_key(b"k", bytes(size)) for size in (value // 2, value - value // 2)]
    body = body_of(sizes, values)
    for found, inline in zip(body.imported.payloads, inlined(body), strict=True):
        if inline:
            found.data = bytes(found.size)
    assert body.ByteSize() <= BODY_BYTES_MAX


def test_proposals_go_out_without_what_had_no_effect() -> None:
    payloads = [payload(b"%d" % n) for n in range(1, 5)]
    operations = [
        link(b"a", 3),
        link(b"b", 1),
        set_key(b"k", b"v"),
        link(b"c", 3),
        mkdir(b"d"),
        link(b"e", 4),
    ]
    found = types.EntryBody(proposal=proposal(1, 1, operations, payloads))
    outcomes = bytes([1, types.OUTCOME_PARENT_NOT_FOUND, 1, 1, types.OUTCOME_DESTINATION_EXISTS, 1])
    files = export_normal(LSN(4), Term(2), found, whole=False, outcomes=outcomes)
    # Payloads 1 and 2 are linked by nothing that is left; the others are numbered anew.
    kept = [link(b"a", 1), set_key(b"k", b"v"), link(b"c", 1), link(b"e", 2)]
    assert files.manifest == encode_manifest(kept)
    assert list(files.payloads) == [payloads[2], payloads[3]]
    assert (files.dropped, files.raft) == (2, make_raft(LSN(4), Term(2)))
    everything = export_normal(LSN(4), Term(0), found, whole=False, outcomes=b"")
    assert (len(everything.payloads), everything.dropped, everything.raft) == (3, 0, None)
    nothing = export_normal(LSN(4), Term(2), found, whole=True, outcomes=b"")
    assert (nothing.manifest, list(nothing.payloads), nothing.dropped) == (b"", [], 6)
    assert nothing.raft


def test_what_the_layout_does_not_know_goes_out_empty() -> None:
    closing = types.EntryBody(close_session=types.CloseSession(session_id=1))
    for found in (opening(), closing):
        files = export_normal(LSN(4), Term(2), found, whole=False, outcomes=b"")
        assert (files.manifest, files.reduced) == (b"", {"sessions"})
    conditional = proposal(1, 1, preconditions=[types.Precondition(key_absent=b"k")])
    files = export_normal(
        LSN(4), Term(2), types.EntryBody(proposal=conditional), whole=False, outcomes=b""
    )
    assert files.reduced == {"preconditions"}
    assert export_normal(LSN(4), Term(0), types.EntryBody(), whole=False, outcomes=b"").raft is None


def test_imported_entries_go_out_as_they_came_in_whatever_they_did() -> None:
    raft = make_raft(LSN(4), Term(1)) + b"\x28\x01"
    content = encode_manifest([mkdir(b"d"), link(b"f", 1)])
    parsed = parse_manifest(LSN(4), content, 1)
    found = make_body(parsed, content, raft, [(1, 0o400)])
    assert not found.imported.HasField("manifest")
    files = export_normal(LSN(4), Term(9), found, whole=False, outcomes=b"\x02\x04")
    assert (files.manifest, files.raft, files.dropped) == (content, raft, 0)
    assert len(files.payloads) == 1


def test_whatever_is_proposed_fits_when_it_comes_back() -> None:
    """The layout's operations are larger than ours: the import's limit has room for that."""
    count = limits.PROPOSAL_OPERATIONS_MAX
    for operations in (
        [mkdir(b"%0115d" % n, 0) for n in range(count)],
        [copy(b"%060d" % n, b"%054d" % n) for n in range(count)],
        [link(b"%0116d" % n, 1024) for n in range(count)],
    ):
        size = proposal(1, 1, operations).ByteSize()
        assert 0.9 * limits.PROPOSAL_BYTES_MAX < size <= limits.PROPOSAL_BYTES_MAX
        assert len(encode_manifest(operations)) <= MANIFEST_BYTES_MAX


# --- hard and configuration state -------------------------------------------------------------


def test_states_come_back() -> None:
    hard = HardState(Term(4), MemberID(2), LSN(10))
    assert parse_hard_state("f", encode_hard_state(hard)) == hard
    assert encode_hard_state(HardState(Term(1), MemberID(0), LSN(0))) == b"\x08\x01\x10\x00\x18\x00"
    configuration = Configuration((1, 2, 3), (4,), (1, 2), (2,), True)
    assert parse_conf_state("f", encode_conf_state(configuration)) == configuration


@pytest.mark.parametrize("content", [b"", b"\xff", b"\x08\x01", b"\x18\x01"])
def test_damaged_hard_states_are_refused(content: bytes) -> None:
    with pytest.raises(ImportRefused, match="the file"):
        parse_hard_state("the file", content)


@pytest.mark.parametrize(
    "state",
    [
        seed.ConfState(auto_leave=False),
        seed.ConfState(voters=[0, 1]),
        seed.ConfState(voters=[1, 1]),
        seed.ConfState(voters=[1], learners=[1]),
    ],
)
def test_configurations_that_cannot_be_are_refused(state: seed.ConfState) -> None:
    with pytest.raises(ImportRefused, match="the file has voters"):
        parse_conf_state("the file", state.SerializeToString())
