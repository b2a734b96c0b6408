"""The file that fences a volume: durable before it counts, understood whatever is in it."""

from pathlib import Path

import pytest
from partition_replica.core.model import Fence
from partition_replica.errors import StorageFailed
from partition_replica.storage import files
from partition_replica.storage.fence import put_fence, read_fence, remove_fence

from tests.support.power_loss import Recorder

FENCE = Fence(7, "operator", "cluster", 0x1CC5)


def test_it_is_durable_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(tmp_path)
    monkeypatch.setattr(files, "disk", recorder)
    assert read_fence(tmp_path) is None
    put_fence(tmp_path, FENCE)
    assert read_fence(tmp_path) == FENCE
    kinds = [operation.kind for operation in recorder.operations]
    assert kinds == ["create", "write", "sync", "rename", "sync_directory"]
    put_fence(tmp_path, Fence(8))
    assert read_fence(tmp_path) == Fence(8)
    recorder.operations.clear()
    remove_fence(tmp_path)
    remove_fence(tmp_path)
    assert read_fence(tmp_path) is None
    assert [o.kind for o in recorder.operations] == ["remove", "sync_directory"]


@pytest.mark.parametrize("content", [b"", b"by hand", b"{}", b"\xff\xfe", b"[1]"])
def test_whatever_is_in_it_it_fences(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "fence").write_bytes(content)
    assert read_fence(tmp_path) == Fence()


def test_what_an_interrupted_one_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "fence.new").write_bytes(b"half")
    assert read_fence(tmp_path) is None
    put_fence(tmp_path, FENCE)
    assert read_fence(tmp_path) == FENCE


def test_a_disk_that_fails_is_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(files.Disk):
        def sync(self, descriptor: int) -> None:
            raise OSError(5, "input/output error")

    monkeypatch.setattr(files, "disk", Failing())
    with pytest.raises(StorageFailed):
        put_fence(tmp_path, FENCE)
    assert read_fence(tmp_path) is None
