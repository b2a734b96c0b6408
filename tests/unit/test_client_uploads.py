"""The client's uploads: several at a time, alone, and of files that change meanwhile."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from partition_client import AsyncClient, PayloadSource, SourceFailed
from partition_client.client import link_payload
from partition_client.sources import CALL_BYTES_MAX, INLINE_BYTES_MAX, TOGETHER_BYTES_MAX
from partition_client.tree import UPLOAD_FILES_MAX, put_tree

from tests.support.stand_in_replica import StandInReplica


class Earlier(StandInReplica):
    """A replica of a version without UploadPayloads."""

    async def UploadPayloads(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


class CutShort(Earlier):
    """What grpcio tells if that answer arrives while a message is being written."""

    async def UploadPayloads(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.INTERNAL, "Internal error from Core")


@pytest.fixture(params=[StandInReplica, Earlier, CutShort])
def replica(request: pytest.FixtureRequest) -> StandInReplica:
    made: StandInReplica = request.param()
    return made


@pytest.fixture
async def client(replica: StandInReplica) -> AsyncIterator[AsyncClient]:
    async with replica.client(deadline_s=10.0) as found:
        yield found


def file_of(path: Path, size: int) -> PayloadSource:
    path.write_bytes(os.urandom(size))
    return PayloadSource.of_file(path)


async def put(client: AsyncClient, sources: list[PayloadSource]) -> None:
    links = [link_payload(number, b"f%d" % number) for number in range(1, len(sources) + 1)]
    await client.append(links, sources, wait_applied=True)


async def test_contents_arrive_as_they_are(
    replica: StandInReplica, client: AsyncClient, tmp_path: Path
) -> None:
    sizes = [INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 900_000, 900_001, 900_002]
    sizes += [TOGETHER_BYTES_MAX, TOGETHER_BYTES_MAX + 1]
    sources = [file_of(tmp_path / f"{n}", size) for n, size in enumerate(sizes)]
    sources.append(PayloadSource.of_bytes(os.urandom(100_000)))
    await put(client, sources)
    for number, source in enumerate(sources, 1):
        content = (
            source.content if isinstance(source.content, bytes) else source.content.read_bytes()
        )
        assert replica.view.contents[replica.view.nodes[b"f%d" % number].digest] == content
    assert replica.calls.get("UploadPayloads", 0) == (not isinstance(replica, Earlier))


@pytest.mark.parametrize("late", ["changed", "shorter", "gone"])
async def test_a_file_that_changed_is_named(
    replica: StandInReplica, client: AsyncClient, tmp_path: Path, late: str
) -> None:
    sources = [file_of(tmp_path / f"{n}", 100_000) for n in range(3)]
    changed = tmp_path / "1"
    if late == "gone":
        changed.unlink()
    else:
        changed.write_bytes(os.urandom(100_000 if late == "changed" else 50_000))
    with pytest.raises(SourceFailed, match=f"{changed}.*(changed while|can't be read any more)"):
        await put(client, sources)
    assert replica.view.nodes == {}


async def test_a_call_has_so_many_bytes(
    replica: StandInReplica, client: AsyncClient, tmp_path: Path
) -> None:
    """The leader works on all of them within one deadline."""
    size = CALL_BYTES_MAX // 10
    await put(client, [file_of(tmp_path / f"{n}", size) for n in range(12)])
    assert len(replica.uploads) == 12
    assert replica.calls.get("UploadPayloads", 0) == (0 if isinstance(replica, Earlier) else 2)


async def test_one_large_payload_is_uploaded_alone(
    replica: StandInReplica, client: AsyncClient, tmp_path: Path
) -> None:
    await put(client, [file_of(tmp_path / "f", 100_000)])
    assert "UploadPayloads" not in replica.calls


async def test_trees_upload_their_larger_files_together(
    replica: StandInReplica, client: AsyncClient, tmp_path: Path
) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    count = UPLOAD_FILES_MAX + 3
    for number in range(count):
        (root / f"medium-{number:03}").write_bytes(os.urandom(INLINE_BYTES_MAX + number + 1))
        (root / f"small-{number:03}").write_bytes(b"%d" % number)
    (root / "large").write_bytes(os.urandom(TOGETHER_BYTES_MAX + 1))
    done = await put_tree(client, root, b"")
    assert done.files == 2 * count + 1
    for path in root.iterdir():
        node = replica.view.nodes[path.name.encode()]
        assert replica.view.contents[node.digest] == path.read_bytes()
    assert replica.calls.get("UploadPayloads", 0) == (0 if isinstance(replica, Earlier) else 2)
