"""The client's trees and key ranges: paths as people write them, and everything in the way."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from partition_client import AsyncClient, NotFound, RequestRefused, TreeMismatch
from partition_client.paths import file_path, prefix_end, tree_path
from partition_client.tree import TreeSummary, digest_directory, digest_tree, get_tree, put_tree
from partition_replica.core.model import TreeEntry
from partition_replica.core.paths import parent

from tests.support.stand_in_replica import StandInReplica


@pytest.fixture
def replica() -> StandInReplica:
    return StandInReplica()


@pytest.fixture
async def client(replica: StandInReplica) -> AsyncIterator[AsyncClient]:
    async with replica.client(deadline_s=10.0) as found:
        yield found


def make(root: Path, **files: str) -> Path:
    """Files by name, with __ for a slash."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def files(replica: StandInReplica) -> dict[bytes, bytes]:
    """The tree's files with their content, its directories with b"/"."""
    return {
        path: b"/" if node.directory else replica.view.contents[node.digest]
        for path, node in replica.view.nodes.items()
    }


@pytest.mark.parametrize("start", [".", "./", "..", "../source", "../source/.", "//"])
async def test_every_way_to_name_a_directory_puts_the_same_files(
    replica: StandInReplica,
    client: AsyncClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start: str,
) -> None:
    source = make(tmp_path / "source", a__f="1", ab__f="2", conf__x="3", f="4")
    monkeypatch.chdir(source / "a" if start == ".." else source)
    root = Path(f"/{source}" if start == "//" else start)
    await put_tree(client, root, b"t")
    assert files(replica) == {
        b"t": b"/",
        b"t/a": b"/",
        b"t/a/f": b"1",
        b"t/ab": b"/",
        b"t/ab/f": b"2",
        b"t/conf": b"/",
        b"t/conf/x": b"3",
        b"t/f": b"4",
    }
    assert digest_directory(root) == digest_directory(source) == await digest_tree(client, b"t")


@pytest.mark.parametrize(
    "under", [b"some/where", b"some/where/", b"/some//where", b"./some/./where/."]
)
async def test_every_way_to_name_a_directory_of_the_tree(
    replica: StandInReplica, client: AsyncClient, tmp_path: Path, under: bytes
) -> None:
    source = make(tmp_path / "source", d__f="1")
    await put_tree(client, source, under)
    assert files(replica)[b"some/where/d/f"] == b"1"
    await get_tree(client, under, tmp_path / "out")
    assert digest_directory(tmp_path / "out") == await digest_tree(client, under)


@pytest.mark.parametrize("root", [b"", b".", b"/", b"./"])
async def test_the_root_of_the_tree(
    replica: StandInReplica, client: AsyncClient, tmp_path: Path, root: bytes
) -> None:
    source = make(tmp_path / "source", d__f="1", g="2")
    await put_tree(client, source, root)
    assert files(replica) == {b"d": b"/", b"d/f": b"1", b"g": b"2"}
    await get_tree(client, root, tmp_path / "out")
    assert digest_directory(tmp_path / "out") == await digest_tree(client, root)


async def test_names_that_are_no_text(
    replica: StandInReplica, client: AsyncClient, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    os.makedirs(os.fsencode(source) + b"/\xff")
    (source / os.fsdecode(b"\xff") / " ").write_text("1")
    await put_tree(client, source, b"\xfe")
    assert files(replica)[b"\xfe/\xff/ "] == b"1"
    await get_tree(client, b"\xfe", tmp_path / "out")
    assert digest_directory(tmp_path / "out") == digest_directory(source)


async def test_a_file_in_the_place_of_a_directory_is_said(
    replica: StandInReplica, client: AsyncClient, tmp_path: Path
) -> None:
    replica.put(b"d", b"a file")
    (tmp_path / "empty" / "d").mkdir(parents=True)
    with pytest.raises(TreeMismatch, match="b'd' is a file of the tree"):
        await put_tree(client, tmp_path / "empty", b"")
    with pytest.raises(TreeMismatch, match="b'd/f' was not written: its parent"):
        await put_tree(client, make(tmp_path / "full", d__f="1"), b"")
    with pytest.raises(TreeMismatch, match="b'd/e' was not written: its parent"):
        await put_tree(client, make(tmp_path / "deep", d__e__f="1"), b"")
    assert files(replica) == {b"d": b"a file"}


async def test_under_a_file_is_said(
    replica: StandInReplica, client: AsyncClient, tmp_path: Path
) -> None:
    replica.put(b"f", b"a file")
    source = tmp_path / "source"
    source.mkdir()
    with pytest.raises(TreeMismatch, match="b'f' is a file of the tree"):
        await put_tree(client, source, b"f")
    with pytest.raises(TreeMismatch, match="b'f/g' was not written: its parent"):
        await put_tree(client, source, b"f/g")
    for under in (b"f", b"none"):
        with pytest.raises(NotFound, match="is not a directory of the tree"):
            await get_tree(client, under, tmp_path / "out")
        with pytest.raises(NotFound, match="is not a directory of the tree"):
            await digest_tree(client, under)
    assert not (tmp_path / "out").exists()


async def test_a_directory_with_content_in_the_place_of_a_file_is_said(
    client: AsyncClient, tmp_path: Path
) -> None:
    await put_tree(client, make(tmp_path / "one", a__f="1"), b"")
    with pytest.raises(TreeMismatch, match="b'a' was not written: the path exists in the tree"):
        await put_tree(client, make(tmp_path / "two", a="2"), b"")


async def test_directories_that_are_there_are_kept(
    replica: StandInReplica, client: AsyncClient, tmp_path: Path
) -> None:
    await put_tree(client, make(tmp_path / "one", d__f="1"), b"t")
    (tmp_path / "two" / "d").mkdir(parents=True)
    (tmp_path / "two" / "e").mkdir()
    for _ in range(2):
        done = await put_tree(client, tmp_path / "two", b"t")
        assert done.directories == 2
    assert files(replica) == {b"t": b"/", b"t/d": b"/", b"t/d/f": b"1", b"t/e": b"/"}


class Shared(StandInReplica):
    """Notes the kinds of operations, and puts what `somebody` names into each new directory."""

    def __init__(self, somebody: dict[bytes, bytes]) -> None:
        super().__init__()
        self.somebody = somebody
        self.kinds: list[str | None] = []

    def _apply(self, operations: Any, payloads: Any) -> bytes:
        self.kinds += [one.WhichOneof("operation") for one in operations]
        outcomes = super()._apply(operations, payloads)
        for path in [path for path in self.somebody if parent(path) in self.view.nodes]:
            content = self.somebody.pop(path)
            if content == b"/":
                self.view.put_tree_entry(path, TreeEntry(True, 0o755))
            else:
                self.put(path, content)
        return outcomes


async def test_files_of_new_directories_replace_nothing(tmp_path: Path) -> None:
    replica = Shared({})
    source = make(tmp_path / "source", d__f="1", d__g="2")
    async with replica.client(deadline_s=10.0) as client:
        await put_tree(client, source, b"t")
        assert "remove_directory_entry" not in replica.kinds
        make(source, d__f="3", e__f="4")
        await put_tree(client, source, b"t")
    assert replica.kinds.count("remove_directory_entry") == 2, "of the directory that was there"
    assert files(replica) == {
        b"t": b"/",
        b"t/d": b"/",
        b"t/d/f": b"3",
        b"t/d/g": b"2",
        b"t/e": b"/",
        b"t/e/f": b"4",
    }


async def test_files_that_somebody_else_puts_meanwhile_are_replaced(tmp_path: Path) -> None:
    replica = Shared({b"t/f": b"other", b"t/d/g": b"other", b"t/d/mine": b"other"})
    source = make(tmp_path / "source", f="1", d__f="2", d__g="3")
    async with replica.client(deadline_s=10.0) as client:
        done = await put_tree(client, source, b"t")
    assert done.files == 3
    assert files(replica) == {
        b"t": b"/",
        b"t/f": b"1",
        b"t/d": b"/",
        b"t/d/f": b"2",
        b"t/d/g": b"3",
        b"t/d/mine": b"other",
    }


async def test_a_directory_that_somebody_else_fills_meanwhile_is_said(tmp_path: Path) -> None:
    replica = Shared({b"t/f": b"/", b"t/f/mine": b"other"})
    source = make(tmp_path / "source", f="1")
    async with replica.client(deadline_s=10.0) as client:
        with pytest.raises(TreeMismatch, match="b't/f' was not written: the path exists"):
            await put_tree(client, source, b"t")
    assert files(replica)[b"t/f/mine"] == b"other"


async def test_the_first_failure_is_raised_itself(
    replica: StandInReplica, client: AsyncClient, tmp_path: Path
) -> None:
    for name in (b"a", b"b"):
        replica.put(name, b"1")
        # Damaged on its way: the digest does not match.
        replica.view.contents[replica.view.nodes[name].digest] = b"other"
    with pytest.raises(TreeMismatch, match="don't match their digest"):
        await get_tree(client, b"", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == [], "what is not whole is kept"
    with pytest.raises(TreeMismatch, match="don't match their digest"):
        await digest_tree(client, b"")


async def test_a_target_with_content_is_refused(
    replica: StandInReplica, client: AsyncClient, tmp_path: Path
) -> None:
    replica.put(b"f", b"1")
    out = make(tmp_path / "out", f="mine")
    with pytest.raises(TreeMismatch, match="is not empty"):
        await get_tree(client, b"", out)
    assert (out / "f").read_text() == "mine"
    with pytest.raises(OSError, match="out/f"):
        await get_tree(client, b"", out / "f")


async def test_a_file_of_somebody_else_is_left_where_it_is(
    replica: StandInReplica, client: AsyncClient, tmp_path: Path
) -> None:
    """It came after the target was found to be empty."""
    replica.put(b"f", b"1")
    out = tmp_path / "out"
    with pytest.raises(FileExistsError, match="out/f"):
        await get_tree(client, b"", out, begin=lambda _: bool((out / "f").write_text("mine")))
    assert (out / "f").read_text() == "mine"


async def test_the_size_of_a_tree_is_told_before_its_first_file(
    replica: StandInReplica, client: AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the one list that the files are moved by."""
    source = make(tmp_path / "source", d__f="12", g="345")
    told: list[tuple[str, int]] = []
    scanned: list[str] = []
    scandir = os.scandir

    def scan(path: Path) -> object:
        scanned.append(os.fspath(path))
        return scandir(path)

    def begin(size: int) -> None:
        told.append(("begin", size))

    def progress(_: int, size: int) -> None:
        told.append(("progress", size))

    monkeypatch.setattr("partition_client.tree.os.scandir", scan)
    await put_tree(client, source, b"t", progress, begin)
    assert told == [("begin", 5), ("progress", 5)]
    assert sorted(scanned) == [str(source), str(source / "d")]
    told.clear()
    await get_tree(client, b"t", tmp_path / "out", progress, begin)
    assert told[0] == ("begin", 5)
    assert sorted(told[1:]) == [("progress", 2), ("progress", 3)]
    assert replica.calls["ListTree"] == 1


def test_what_a_partition_does_not_hold_is_named(tmp_path: Path) -> None:
    source = make(tmp_path / "source", f="1")
    wanted = digest_directory(source)
    (source / "link").symlink_to("f")
    summary = TreeSummary()
    assert digest_directory(source, summary) == wanted
    assert summary.skipped == [str(source / "link")]


@pytest.mark.parametrize("local", ["none", "f"])
def test_a_local_path_that_is_no_directory(tmp_path: Path, local: str) -> None:
    make(tmp_path, f="1")
    with pytest.raises(OSError, match=local):
        digest_directory(tmp_path / local)


def test_paths() -> None:
    for text, wanted in ((b"site/", b"site"), (b"/", b""), (b".", b""), (b"./a//b/.", b"a/b")):
        assert tree_path(text) == wanted
    assert tree_path(b"...") == b"..."
    assert file_path(b"/a/./f") == b"a/f"
    for text in (b"..", b"a/../b", b"/.."):
        with pytest.raises(RequestRefused, match=r"contains '\.\.'"):
            tree_path(text)
    for text in (b"", b"/", b"a/", b"a/."):
        with pytest.raises(RequestRefused, match="names a directory"):
            file_path(text)


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        (b"", b""),
        (b"p", b"q"),
        (b"p\xfe", b"p\xff"),
        (b"p\xff", b"q"),
        (b"p\xff\xff", b"q"),
        (b"\xff", b""),
        (b"\xff\xff", b""),
        (b"\x00", b"\x01"),
    ],
)
def test_the_end_of_a_prefix(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end
    keys = [bytes([a, b]) for a in (0, 111, 112, 113, 255) for b in (0, 254, 255)]
    keys += [key + b"\xff" for key in keys] + [b"\x00", b"\xff", b"p"]
    for key in keys:
        inside = prefix <= key and (not end or key < end)
        assert inside == key.startswith(prefix)
