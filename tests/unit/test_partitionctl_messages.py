"""What a person gets wrong at the command line is one line on standard error and an exit code."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from partition_client.__main__ import answer, main, parse
from partition_client.pending_append import PROPOSAL_BYTES_MAX
from partition_client.snapshots import limits_within
from partition_client.terminal import INPUT_BYTES_MAX
from partition_snapshots.limits import SnapshotLimits

from tests.support.stand_in_replica import StandInReplica

WITHIN_S = 60.0
"""For a start of Python on a machine under load."""


@pytest.fixture
async def replica() -> AsyncIterator[StandInReplica]:
    found = StandInReplica()
    async with found.serving():
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`file`, `source/f`, `locked`."""
    (tmp_path / "file").write_text("1")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "f").write_text("1")
    return tmp_path


async def run(
    replica: StandInReplica, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    """(exit code, standard output, standard error)."""
    options = parse(["--endpoints", replica.address, "--deadline", "5", *words])
    code = await answer(options)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ("put x --file {}/none", 1, "{}/none: No such file or directory"),
        ("put x --file {}", 1, "{}: Is a directory"),
        ("put k v --file {}/file", 2, "give only one"),
        ("put k", 2, "give VALUE, -"),
        ("put --file {}/file trailing/", 1, "b'trailing/' names a directory"),
        ("put --file {}/file .", 1, "b'.' names a directory"),
        ("put --file {}/file a/../b", 1, "contains '..'"),
        ("put --file {}/file no/such/f", 1, "its parent is not a directory of the tree"),
        ("get none", 1, "there is no key 'none'"),
        ("get --file none", 1, "is not a file of the tree"),
        ("get --file f/", 1, "b'f/' names a directory"),
        ("get --file d", 1, "is not a file of the tree"),
        ("get k --stale-from https://localhost", 2, "'https://localhost' is a URL"),
        ("rm --file none", 1, "is not in the tree"),
        ("rm --file f/", 1, "is not a directory of the tree"),
        ("rm --file d", 1, "was not removed"),
        ("ls none", 1, "is not a directory of the tree"),
        ("ls f", 1, "is not a directory of the tree"),
        ("ls ..", 1, "contains '..'"),
        ("ls --keys -r", 2, "remove --recursive"),
        ("put-tree {}/none", 2, "{}/none is not a directory"),
        ("put-tree {}/file", 2, "{}/file is not a directory"),
        ("put-tree {}/source --under ..", 1, "contains '..'"),
        ("put-tree {}/source --under f", 1, "b'f/f' was not written"),
        ("get-tree {}/out --under none", 1, "is not a directory of the tree"),
        ("get-tree {}/out --under f", 1, "is not a directory of the tree"),
        ("get-tree {}/source", 1, "{}/source is not empty"),
        ("get-tree {}/file", 1, "{}/file: File exists"),
        ("get-tree {}/file/below", 1, "{}/file/below: Not a directory"),
        ("get-tree /proc/none", 1, "/proc/none: No such file"),
        ("digest-tree --under none", 1, "is not a directory of the tree"),
        ("digest-tree --local {}/none", 1, "{}/none: No such file"),
        ("digest-tree --local {}/file", 1, "{}/file: Not a directory"),
        ("digest-tree --local {}/source --under x", 2, "remove --under"),
        ("--endpoints= status", 2, "--endpoints is empty"),
        ("--endpoints https://localhost:1 get k", 2, "'https://localhost:1' is a URL"),
        ("--endpoints localhost get k", 2, "'localhost' has no port"),
        ("--endpoints localhost:1,,localhost:2 get k", 2, "'' is empty"),
        ("--endpoints localhost:1,\xa0localhost:2 get k", 2, "contains a space"),
        ("--endpoints localhost:1,\udcff:2 get k", 2, "not allowed in a host name"),
        ("--server-name x get k", 2, "give --tls-dir, too"),
        ("consumer ls --replica svc", 2, "'svc' has no port"),
        ("consumer rm none", 1, "there is no consumer 'none' at 127.0.0.1:"),
        ("consumer rm none --replica https://x:1", 2, "'https://x:1' is a URL"),
        ("--endpoints a:1,b:1 consumer rm none", 2, "name it with --replica HOST:PORT"),
    ],
)
async def test_a_mistake_is_one_line(
    replica: StandInReplica,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    words: str,
    code: int,
    why: str,
) -> None:
    replica.put(b"f", b"content")
    for path in ("d", "d/e"):
        await run(replica, capsys, "put-tree", str(folder / "source"), "--under", path)
    before = dict(replica.view.nodes)
    found, out, err = await run(replica, capsys, *words.replace("{}", str(folder)).split(" "))
    assert (found, out) == (code, "")
    assert why.replace("{}", str(folder)) in err
    assert err.startswith("partitionctl: ")
    assert len(err.splitlines()) == 1, err
    assert replica.view.nodes == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--deadline nan get k", "'nan' is not a number of seconds"),
        ("--deadline inf get k", "'inf' is not a number of seconds"),
        ("--deadline 0 get k", "'0' is not a number of seconds"),
        ("--deadline=-1 get k", "'-1' is not a number of seconds"),
        ("--deadline soon get k", "'soon' is not a number of seconds"),
        ("log tail --from -5", "'-5' is not a number from 0"),
        ("log tail --from 18446744073709551616", "is not a number from 0"),
        ("log tail -n -5", "'-5' is not a number from 0"),
        ("log tail -n x", "'x' is not a number from 0"),
        ("consumer", "the following arguments are required: action"),
        ("consumer rm", "the following arguments are required: name"),
        ("put k a b", "unrecognized arguments: b\n"),
        ("put k -x", "unrecognized arguments: -x; write -- before a value"),
    ],
)
def test_a_flag_that_is_wrong_is_said(
    capsys: pytest.CaptureFixture[str], words: str, why: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--endpoints", "localhost:1", *words.split()])
    assert caught.value.code == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["k", "-5"], b"-5"),
        (["--", "k", "-x"], b"-x"),
        (["k", ""], b""),
    ],
)
async def test_values_that_look_like_flags(
    replica: StandInReplica, capsys: pytest.CaptureFixture[str], words: list[str], value: bytes
) -> None:
    assert (await run(replica, capsys, "put", *words))[0] == 0
    assert replica.view.get_value(b"k") == value


async def test_paths_as_people_write_them(
    replica: StandInReplica, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (await run(replica, capsys, "put-tree", str(folder / "source"), "--under", "/d/"))[
        0
    ] == 0
    await run(replica, capsys, "put", "/./g", "--file", str(folder / "file"))
    assert set(replica.view.nodes) == {b"d", b"d/f", b"g"}
    for path in ("/", ".", "./", ""):
        code, out, _ = await run(replica, capsys, "--json", "ls", "-r", path)
        assert code == 0
        assert [json.loads(line)["path"] for line in out.splitlines()] == ["d", "d/f", "g"]
    for path in ("d/", "/d", "./d/."):
        code, out, _ = await run(replica, capsys, "--json", "ls", path)
        assert code == 0
        assert [json.loads(line)["path"] for line in out.splitlines()] == ["d/f"]
    assert (await run(replica, capsys, "rm", "--file", "/d/./f"))[0] == 0
    assert (await run(replica, capsys, "rm", "--file", "d/"))[0] == 0
    assert set(replica.view.nodes) == {b"g"}


async def test_keys_by_a_prefix_that_ends_in_the_last_byte(
    replica: StandInReplica, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in (b"p", b"p\xff", b"p\xff1", b"q", b"\xff", b"\xff\xffz"):
        replica.view.put_value(key, b"v")
    for prefix, wanted in (
        (b"p\xff", [b"p\xff", b"p\xff1"]),
        (b"\xff", [b"\xff", b"\xff\xffz"]),
        (b"\xff\xff", [b"\xff\xffz"]),
        (b"", sorted(replica.view.values)),
    ):
        code, out, _ = await run(replica, capsys, "ls", "--keys", os.fsdecode(prefix))
        assert code == 0
        assert len(out.splitlines()) == len(wanted), out


async def test_the_last_entries(
    replica: StandInReplica, capsys: pytest.CaptureFixture[str]
) -> None:
    replica.lsn = 9
    for lines, wanted in (("0", []), ("2", [8, 9]), ("100", list(range(2, 10)))):
        code, out, _ = await run(replica, capsys, "--json", "log", "tail", "-n", lines)
        assert code == 0
        assert [json.loads(line)["lsn"] for line in out.splitlines()] == wanted
    assert (await run(replica, capsys, "log", "tail", "--from", "999999999")) == (0, "", "")


async def test_the_last_entries_are_those_of_the_replica_that_is_read(
    replica: StandInReplica, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other one is ahead of a follower, or has applied less than the leader."""
    replica.lsn = 30
    follower = StandInReplica()
    follower.serving_as, follower.lsn = "follower", 9
    async with follower.serving() as behind:
        tail = ("--endpoints", f"{replica.address},{behind}", "--json", "log", "tail", "-n", "2")
        for more, wanted in (((), [29, 30]), (("--stale-from", behind), [8, 9])):
            code, out, err = await run(replica, capsys, *tail, *more)
            assert (code, err) == (0, "")
            assert [json.loads(line)["lsn"] for line in out.splitlines()] == wanted
        follower.lsn = 50
        code, out, _ = await run(replica, capsys, *tail)
        assert [json.loads(line)["lsn"] for line in out.splitlines()] == [29, 30]


async def test_a_tree_is_listed_once(
    replica: StandInReplica, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans: list[object] = []
    scandir = os.scandir

    def scan(path: str) -> object:
        scans.append(path)
        return scandir(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("partition_client.tree.os.scandir", scan)
        code, out, _ = await run(replica, capsys, "put-tree", str(folder / "source"))
    assert (code, len(scans)) == (0, 1)
    assert out == "1 files, 0 directories, 1 bytes, 0 skipped\n"
    assert (await run(replica, capsys, "get-tree", str(folder / "out")))[:2] == (0, out)
    assert replica.calls["ListTree"] == 1


def test_standard_input_takes_what_a_replica_takes() -> None:
    assert INPUT_BYTES_MAX == PROPOSAL_BYTES_MAX


async def test_status_says_why_a_replica_does_not_answer(
    replica: StandInReplica, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--endpoints", f"{replica.address},127.0.0.1:1", "status")
    code, out, err = await run(replica, capsys, *words)
    assert code == 0
    assert "unreachable" in out
    assert err.startswith("partitionctl: 127.0.0.1:1: UNAVAILABLE: ")
    _, out, _ = await run(replica, capsys, "--json", *words)
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["role"] for row in rows] == ["leader", "unreachable"]
    assert rows[1]["error"].startswith("UNAVAILABLE: ")


# --- consumers --------------------------------------------------------------------------------


async def test_consumers_are_listed_with_how_far_they_are_behind(
    replica: StandInReplica, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = await run(replica, capsys, "consumer", "ls")
    assert (code, out, err) == (0, f"no consumers at {replica.address}\n", "")
    assert await run(replica, capsys, "--json", "consumer", "ls") == (0, "", "")
    replica.lsn, replica.consumers = 30, {"near": 30, "far": 10}
    wanted = [
        {"replica": replica.address, "name": "far", "lsn": 10, "behind": 20},
        {"replica": replica.address, "name": "near", "lsn": 30, "behind": 0},
    ]
    for words in (("--json", "consumer", "ls"), ("consumer", "ls", "--json")):
        code, out, err = await run(replica, capsys, *words)
        assert (code, err) == (0, "")
        assert [json.loads(line) for line in out.splitlines()] == wanted
    code, out, err = await run(replica, capsys, "consumer", "ls")
    assert [line.split() for line in out.splitlines()] == [
        ["REPLICA", "LSN", "BEHIND", "NAME"],
        [replica.address, "10", "20", "far"],
        [replica.address, "30", "0", "near"],
    ]


async def test_consumers_are_those_of_every_endpoint_or_of_one_replica(
    replica: StandInReplica, capsys: pytest.CaptureFixture[str]
) -> None:
    follower = StandInReplica()
    follower.serving_as, follower.consumers = "follower", {"there": 1}
    replica.consumers = {"here": 1}
    async with follower.serving() as other:
        both = ("--endpoints", f"{replica.address},{other}", "--json", "consumer")
        for words, wanted in (
            (("ls",), ["here", "there"]),
            (("ls", "--replica", other), ["there"]),
        ):
            code, out, _ = await run(replica, capsys, *both, *words)
            assert code == 0
            assert [json.loads(line)["name"] for line in out.splitlines()] == wanted
        code, out, err = await run(replica, capsys, *both, "rm", "there", "--replica", other)
        assert (code, json.loads(out)) == (0, {"replica": other, "name": "there"}), err
    assert (replica.consumers, follower.consumers) == ({"here": 1}, {})
    code, out, err = await run(replica, capsys, "consumer", "rm", "here")
    assert (code, out, err) == (0, f"removed here at {replica.address}\n", "")
    assert replica.consumers == {}


async def test_the_consumer_that_is_furthest_behind_comes_first_whichever_replica_has_it(
    replica: StandInReplica, capsys: pytest.CaptureFixture[str]
) -> None:
    """The replicas have not applied the same."""
    follower = StandInReplica()
    follower.serving_as, follower.consumers = "follower", {"c": 1, "a": 15}
    replica.consumers = {"d": 30, "b": 20}
    replica.lsn, follower.lsn = 30, 28
    async with follower.serving() as other:
        endpoints = f"{replica.address},{other}"
        code, out, _ = await run(replica, capsys, "--endpoints", endpoints, "consumer", "ls")
    assert code == 0
    assert [line.split()[2:] for line in out.splitlines()[1:]] == [
        ["27", "c"],
        ["13", "a"],
        ["10", "b"],
        ["0", "d"],
    ]


async def test_a_list_of_consumers_that_is_not_whole_says_so(
    replica: StandInReplica, capsys: pytest.CaptureFixture[str]
) -> None:
    replica.consumers = {"here": 1}
    endpoints = f"{replica.address},127.0.0.1:1"
    words = ("--endpoints", endpoints, "--deadline", "0.5", "--json", "consumer", "ls")
    code, out, err = await run(replica, capsys, *words)
    assert code == 1
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["here"]
    assert "127.0.0.1:1: UNAVAILABLE" in err
    assert len(err.splitlines()) == 1


# --- stored snapshots -------------------------------------------------------------------------


async def test_a_snapshot_directory_that_does_not_exist(
    replica: StandInReplica, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, wanted in ((tmp_path, ""), (tmp_path / "none", ", which does not exist")):
        code, out, err = await run(replica, capsys, "snapshot", "ls", "--directory", str(folder))
        assert (code, out, err) == (0, f"no snapshots in directory {folder}{wanted}\n", "")


async def test_no_wait_for_a_store_is_longer_than_the_deadline() -> None:
    limits = limits_within(3.0)
    assert limits.retry_timeout_s == limits.connect_timeout_s == limits.request_timeout_s == 3.0
    assert limits_within(1e6).request_timeout_s == SnapshotLimits().request_timeout_s


# --- standard streams -------------------------------------------------------------------------


async def shell(replica: StandInReplica, line: str, **environment: str) -> tuple[int, str]:
    """(exit code, standard error) of a shell's line; `ctl` is the program."""
    script = f'set -o pipefail; ctl() {{ "{sys.executable}" -m partition_client "$@"; }}; {line}'
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        script,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PARTITION_ENDPOINTS": replica.address} | environment,
    )
    async with asyncio.timeout(WITHIN_S):
        _, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, err.decode()


@pytest.mark.parametrize(
    ("line", "code", "why"),
    [
        ("ctl get k > /dev/full", 1, "standard output: No space left on device"),
        ("ctl get --file f > /dev/full", 1, "standard output: No space left on device"),
        ("ctl ls > /dev/full", 1, "standard output: No space left on device"),
        ("ctl get k >&-", 2, "standard output is closed"),
        ("ctl put k - <&-", 2, "standard input is closed"),
        ("ctl put k - < /dev/zero", 2, "standard input has more than 1048576 bytes"),
        (
            "ctl snapshot ls --directory /nowhere > /dev/full",
            1,
            "standard output: No space left on device",
        ),
    ],
)
async def test_standard_streams_that_fail(
    replica: StandInReplica, line: str, code: int, why: str
) -> None:
    replica.view.put_value(b"k", b"v")
    replica.put(b"f", b"content")
    assert await shell(replica, line) == (code, f"partitionctl: {why}" + err_rest(why))


def err_rest(why: str) -> str:
    """What follows a reason on its line."""
    return {
        "standard output is closed": "; redirect it to a file, or to /dev/null\n",
        "standard input is closed": "; give a VALUE, or --file FILE\n",
        "standard input has more than 1048576 bytes": ", the limit of a value; "
        "write it as a file, with --file\n",
    }.get(why, "\n")


async def test_a_reader_that_has_had_enough(replica: StandInReplica) -> None:
    for number in range(3000):
        replica.view.put_value(b"%060d" % number, b"v")
    assert await shell(replica, "ctl ls --keys | true") == (141, "")


async def test_names_that_the_locale_can_not_show(replica: StandInReplica) -> None:
    replica.view.put_value("ключ".encode(), b"v")
    assert await shell(replica, "ctl ls --keys", PYTHONIOENCODING="ascii") == (0, "")


AS_FIRST_PROCESS = """
import os
os.getpid = lambda: 1
from partition_client.__main__ import main
main()
"""


def test_the_first_process_of_a_container_ends_at_sigterm() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(WITHIN_S)
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        words = ["--endpoints", endpoint, "log", "tail", "--follow"]
        with subprocess.Popen([sys.executable, "-c", AS_FIRST_PROCESS, *words]) as process:
            connection, _ = silent.accept()  # so it runs, and waits for an answer
            with connection:
                process.send_signal(signal.SIGTERM)
                assert process.wait(WITHIN_S) == 130
