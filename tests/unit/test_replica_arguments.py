"""`partition-replica`: a mistake at the command line is a message and an exit code."""

import argparse
import errno
import os
import subprocess
import sys
from pathlib import Path
from shlex import quote

import pytest
from partition_replica.__main__ import parse
from partition_replica.config import ReplicaConfig
from partition_replica.core.limits import DEPRECATED_NAMES
from partition_replica.offline import commands
from partition_replica.offline.snapshots.commands import DEPRECATED_ACTIONS

SERVE = ["serve", "--data", "d", "--partition", "a/b", "--insecure"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("serve --advertise h", "'h' is not an address"),
        ("serve --advertise :7000", "':7000' is not an address"),
        ("serve --advertise h:0", "'h:0' is not an address"),
        ("serve --advertise https://h:1", "is not an address"),
        ("serve --advertise h:1 --listen localhost", "'localhost' is not a listen address"),
        ("serve --advertise h:1 --listen 0.0.0.0:65536", "is not a listen address"),
        ("serve --advertise h:1 --raft-listen on", "'on' is not a listen address"),
        ("serve --advertise h:1 --http-listen ::1:80", "is not a listen address"),
        ("serve --advertise h:1 --socket run/a", "'run/a' is not a Unix domain socket"),
        ("serve --advertise h:1 --socket unix:run/a", "an absolute path of at most 107 bytes"),
        (f"serve --advertise h:1 --socket unix:/{'a' * 107}", "at most 107 bytes"),
        ("serve --advertise h:1 --tick-ms 0", "'0' is not a whole number above 0"),
        ("serve --advertise h:1 --tick-ms -5", "'-5' is not a whole number above 0"),
        ("serve --advertise h:1 --election-ticks 1", "2 ticks or more"),
        ("serve --advertise h:1 --limit pin_time_to_live_s=nan", "must be a number above 0"),
        ("serve --advertise h:1 --limit pin_time_to_live_s=inf", "must be a number above 0"),
        (f"serve --advertise h:1 --limit reads_waiting_max={10**400}", "at most 9223372036854775"),
        ("inspect --address h:1 entry -5", "'-5' is not an LSN"),
        ("inspect --address h:1 entry 0", "'0' is not an LSN"),
        ("inspect --address h:1 entry 18446744073709551616", "is not an LSN"),
        ("inspect --address h", "'h' is not an address"),
        ("verify --address https://h", "is not an address"),
        ("log import s --data d --cluster-id xyz", "'xyz' is not a UUID"),
    ],
)
def test_a_flag_that_is_wrong_is_said(
    capsys: pytest.CaptureFixture[str], words: str, why: str
) -> None:
    command, *rest = words.split()
    if command == "serve":
        rest = [*SERVE[1:], *rest]
    with pytest.raises(SystemExit) as caught:
        parse([command, *rest])
    assert caught.value.code == 2
    assert why in capsys.readouterr().err


def test_lease_reads_are_asked_for() -> None:
    for flags, wanted in (([], False), (["--lease-reads"], True)):
        found = parse([*SERVE, "--advertise", "h:1", *flags])
        assert isinstance(found, ReplicaConfig)
        assert found.lease_reads is wanted


def test_every_deprecated_name_of_a_limit_sets_it(caplog: pytest.LogCaptureFixture) -> None:
    for name, today in DEPRECATED_NAMES.items():
        found = parse([*SERVE, "--advertise", "h:1", "--limit", f"{name}=7"])
        assert isinstance(found, ReplicaConfig)
        assert getattr(found.limits, today) == 7
        assert caplog.messages[-1] == f"--limit {name} is deprecated: use {today}"


@pytest.mark.parametrize(
    ("earlier", "today"),
    [
        ("publish --data d --snapshot s --directory t", "take"),
        ("prune --snapshot s --directory t", "delete"),
    ],
)
def test_the_deprecated_name_of_an_action_is_accepted_and_warned_of(
    caplog: pytest.LogCaptureFixture, earlier: str, today: str
) -> None:
    name, *rest = earlier.split()
    assert parse(["snapshot", name, *rest]) == parse(["snapshot", today, *rest])
    assert caplog.messages == [f"snapshot {name} is deprecated: use snapshot {today}"]


def test_help_names_no_deprecated_action(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["snapshot", "--help"])
    shown = capsys.readouterr().out
    assert "take" in shown
    assert not any(name in shown for name in DEPRECATED_ACTIONS)


RESTORE = "snapshot restore --data d --cluster-id c --snapshot s --directory t".split()


def test_the_deprecated_name_of_standalone_is_accepted_and_warned_of(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, standalone in (((), False), (("--standalone",), True)):
        options = parse([*RESTORE, *flags])
        assert isinstance(options, argparse.Namespace)
        assert (options.standalone, caplog.messages) == (standalone, [])
    options = parse([*RESTORE, "--unreplicated"])
    assert isinstance(options, argparse.Namespace)
    assert options.standalone
    assert caplog.messages == ["--unreplicated is deprecated: use --standalone"]
    with pytest.raises(SystemExit):
        parse(["snapshot", "restore", "--help"])
    assert "deprecated: use --standalone" in capsys.readouterr().out


@pytest.mark.parametrize("listen", ["0.0.0.0:7000", "[::]:7000", "localhost:0", ":7000"])
@pytest.mark.parametrize("advertise", ["h.default.svc:7000", "[fd00::1]:1", "10.0.0.1:65535"])
def test_addresses_that_are_right(listen: str, advertise: str) -> None:
    found = parse([*SERVE, "--advertise", advertise, "--listen", listen, "--http-listen", listen])
    assert isinstance(found, ReplicaConfig)
    assert (found.listen, found.http_listen, found.advertise) == (listen, listen, advertise)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", "[::]:0"),
        ("--listen 127.0.0.1:7000", "127.0.0.1:0"),
        ("--listen [::1]:7000 --raft-listen :7001", ":7001"),
        ("--raft-listen off", ""),
    ],
)
def test_raft_connections_are_accepted_beside_grpc_unless_they_are_off(
    words: str, wanted: str
) -> None:
    found = parse([*SERVE, "--advertise", "h:1", *words.split()])
    assert isinstance(found, ReplicaConfig)
    assert found.raft_listen == wanted


def test_a_file_is_no_volume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.touch()
    for words in (["inspect"], ["verify"], ["log", "export", str(tmp_path / "out")]):
        options = parse([*words, "--data", str(path)])
        assert isinstance(options, argparse.Namespace)
        assert commands.run(options) == 1
        assert f"{path} is not a replica's volume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file", "x/ca.crt"), 74, "x/ca.crt: No such file"),
        (OSError(errno.ENOSPC, "No space left"), 74, "reading or writing: No space left"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
    ],
)
def test_a_fault_of_the_system_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    code: int,
    said: str,
) -> None:
    def fail(_: argparse.Namespace) -> int:
        raise error

    monkeypatch.setitem(commands._COMMANDS, "inspect", fail)
    options = parse(["inspect", "--data", "d"])
    assert isinstance(options, argparse.Namespace)
    assert commands.run(options) == code
    assert capsys.readouterr().err == (f"partition-replica: {said}\n" if said else "")


@pytest.mark.parametrize(
    ("redirect", "code", "said"),
    [
        ("> /dev/full", 74, "partition-replica: reading or writing: No space left on device\n"),
        ("| true", 141, ""),
    ],
)
def test_an_output_that_fails(redirect: str, code: int, said: str) -> None:
    program = (
        "from partition_replica.offline import commands\n"
        "from partition_replica.__main__ import main\n"
        "commands._COMMANDS['inspect'] = lambda _: print('x' * 1000000) or 0\n"
        "main()\n"
    )
    line = f"{quote(sys.executable)} -c {quote(program)} inspect --data d {redirect}"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=os.environ,
    )
    assert (done.returncode, done.stderr) == (code, said)
