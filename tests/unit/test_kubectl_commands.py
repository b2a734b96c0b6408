"""`kubectl partition` as a program: its errors and exit codes, the flags that it passes on, logs,
the plan, and completion. kubectl answers by a table."""

import argparse
import os
import stat
import subprocess
from pathlib import Path

import pytest
from partition_kubectl import completion, logs
from partition_kubectl.__main__ import COMMANDS, answer, complete, main
from partition_kubectl.arguments import parser
from partition_kubectl.errors import Forbidden, Refused, UsageError
from partition_kubectl.kubectl import explained

from tests.support.kubectl_objects import FakeKubectl, partition, pod


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKubectl:
    found = FakeKubectl(tmp_path)
    monkeypatch.setenv("KUBECTL", str(found.program))
    return found


def code(*words: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return ended.value.code


def commands() -> dict[str, argparse.ArgumentParser]:
    return completion._commands(parser())


def test_every_command_can_be_run_and_has_help() -> None:
    assert set(commands()) == {*COMMANDS, "completion"}
    for sub in commands().values():
        assert "usage: kubectl partition" in sub.format_help()


@pytest.mark.parametrize(
    ("said", "expected", "text"),
    [
        ('Error from server (NotFound): partitions "x" not found', 1, 'partitions "x" not found'),
        ("Error from server (Forbidden): no right", 1, "no right"),
        ("error: something else", 1, "something else"),
        ("Warning: old\nerror: wrong", 1, "wrong"),
        ("Unable to connect to the server: dial tcp", 5, "check --context"),
        ('error: context "x" does not exist\nno context exists', 5, "check --context"),
        (
            'E1201 07:47:50.1 1 memcache.go:2] "Unhandled"\n'
            "The connection to the server h was refused - did you specify the right host or port?",
            5,
            "kubectl partition: The connection",
        ),
        ('error: the server doesn\'t have a resource type "partitions"', 1, "install the operator"),
        ("", 1, "kubectl failed without a message"),
    ],
)
def test_an_error_of_kubectl_is_one_line_with_its_code(
    kubectl: FakeKubectl,
    capsys: pytest.CaptureFixture[str],
    said: str,
    expected: int,
    text: str,
) -> None:
    kubectl.answer("get", err=said, code=1)
    assert code("status", "x") == expected
    shown = capsys.readouterr().err
    assert text in shown
    assert shown.startswith("kubectl partition: ")
    assert shown.count("\n") == 1


def test_a_missing_kubectl_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECTL", "/nowhere/kubectl")
    assert code("status") == 5
    assert "kubectl can't be started" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        *([], ["stat"], ["status", "a", "b"], ["why"], ["restart", "a", "--timeout", "0"]),
        *(["logs", "a", "--tail", "-2"], ["bench", "--seconds", "601"], ["fence", "a"]),
    ],
)
def test_a_wrong_command_line_is_refused(kubectl: FakeKubectl, words: list[str]) -> None:
    assert code(*words) == 2
    assert kubectl.calls() == []


def test_flags_are_passed_on_wherever_they_stand(kubectl: FakeKubectl) -> None:
    kubectl.answer("get", out={"items": []})
    flags = ["--context", "c", "--kubeconfig=f", "--as", "me", "-n", "ns"]
    assert answer([*flags, "status"]) == 0
    assert answer(["status", *flags]) == 0
    assert answer(["status", "-A"]) == 0
    first, second, everywhere = kubectl.calls()
    assert first == second
    for flag in ("--context=c", "--kubeconfig=f", "--as=me", "--namespace=ns"):
        assert flag in first
    assert "--all-namespaces" in everywhere
    assert not any(word.startswith("--namespace") for word in everywhere)


def test_why_says_by_its_exit_code_whether_it_is_ready(kubectl: FakeKubectl) -> None:
    kubectl.answer("get", "partitions.logstore.dev", "bad", out=partition(state="NoLeader"))
    kubectl.answer("get", "partitions.logstore.dev", out=partition())
    kubectl.answer("get", out={"items": []})
    assert code("why", "good") == 0
    assert code("why", "bad") == 3


def test_logs_are_merged_by_time_with_the_pods_name(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    kubectl.answer("get", "pods", out={"items": [pod(0), pod(1), pod(2)]})
    kubectl.answer("logs", "part-0", out="2026-01-01T00:00:01.5Z a\n2026-01-01T00:00:03Z c\n")
    kubectl.answer("logs", "part-1", out="2026-01-01T00:00:01.25Z first\n2026-01-01T00:00:02Z b\n")
    kubectl.answer("logs", err="error: container is waiting to start", code=1)
    assert answer(["logs", "part"]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [
        "part-1 | first",
        "part-0 | a",
        "part-1 | b",
        "part-0 | c",
    ]
    assert "no log of part-2: container is waiting to start" in shown.err
    assert answer(["logs", "part", "--pod", "part-0", "--timestamps", "--since", "5m", "-p"]) == 0
    assert capsys.readouterr().out.startswith("part-0 | 2026-01-01T00:00:01.5Z a\n")
    assert {"--since=5m", "--previous", "--tail=200"} <= set(kubectl.calls()[-1])
    with pytest.raises(UsageError, match="no such pod"):
        answer(["logs", "part", "--pod", "part-9"])
    with pytest.raises(Refused, match="there are no pods"):
        logs.chosen([], [], "part")


def test_logs_are_followed_until_all_have_ended(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    kubectl.answer("get", "pods", out={"items": [pod(0), pod(1)]})
    kubectl.answer("logs", "part-0", "--follow", out="2026-01-01T00:00:01Z a\n")
    kubectl.answer("logs", "part-1", "--follow", err="error: no such container", code=1)
    assert answer(["logs", "part", "-f"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines) == ["part-0 | a", "part-1 | (the log ends: no such container)"]


def test_the_operator_plans_in_its_own_pod(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    operator = [pod(0, ready=False), pod(1)]
    kubectl.answer("get", "pods", out={"items": operator})
    kubectl.answer("get", out=partition())
    kubectl.answer("exec", "--json", out={"steps": [], "then": "Nothing."})
    kubectl.answer("exec", out="Partition ns/part\nNothing was changed.\n")
    assert answer(["plan", "part"]) == 0
    assert capsys.readouterr().out.endswith("Nothing was changed.\n")
    call = kubectl.calls()[-1]
    assert "--namespace=partition-system" in call[: call.index("--")]
    assert call[call.index("part-1") :] == [
        *("part-1", "-c", "operator", "--", "python3", "-m", "partition_operator", "plan"),
        *("--namespace=ns", "part"),
    ]
    assert answer(["plan", "part", "-o", "yaml"]) == 0
    assert capsys.readouterr().out == "steps: []\nthen: Nothing.\n"


def test_a_plan_says_which_rights_it_needs(kubectl: FakeKubectl) -> None:
    kubectl.answer("get", "pods", out={"items": [pod(1)]})
    kubectl.answer("get", out=partition())
    kubectl.answer("exec", err="Error from server (Forbidden): pods is forbidden", code=1)
    with pytest.raises(Forbidden, match=r"create on pods/exec.*pods is forbidden"):
        answer(["plan", "part"])


def test_a_plan_needs_an_operator(kubectl: FakeKubectl) -> None:
    kubectl.answer("get", "pods", out={"items": [pod(1, ready=False)]})
    kubectl.answer("get", "new", out=partition(operator=""))
    kubectl.answer("get", out=partition())
    with pytest.raises(Refused, match="give --operator-namespace"):
        answer(["plan", "new"])
    with pytest.raises(Refused, match="no ready pod of an operator"):
        answer(["plan", "part"])


def test_kubectl_is_explained_by_its_last_lines() -> None:
    assert (
        str(explained("\n".join(f"line {n}" for n in range(9))))
        == "line 4 line 5 line 6 line 7 line 8"
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sw"], ["switchover"]),
        (["completion", ""], ["bash", "zsh", "fish", "kubectl"]),
        (["status", ""], ["partitions.logstore.dev"]),
        (["status", "part", ""], []),
        (["switchover", "part", "--to", ""], ["pods logstore.dev/partition=part"]),
        (["fence", "part", ""], ["pods logstore.dev/partition=part"]),
        (["fence", "part", "part-0", ""], ["pods logstore.dev/partition=part"]),
        (["restore", ""], []),
        (["restore", "x", "--snapshot", ""], ["partitionsnapshots.logstore.dev"]),
        (["snapshot", "part", "--verify", "R"], ["Restore"]),
        (["-n", ""], ["namespaces"]),
        (["status", "-n", "x", ""], ["partitions.logstore.dev"]),
        (["--context", ""], ["contexts"]),
        (["bench", "--storage-class", ""], ["storageclasses"]),
        (["pause", "part", "--no"], []),
        (["restart", "part", "--no"], ["--no-wait"]),
        ([], sorted(commands())),
    ],
)
def test_completion_offers_what_may_follow(words: list[str], expected: list[str]) -> None:
    def look(kind: str, selector: str) -> list[str]:
        return [f"{kind} {selector.partition(',')[0]}".strip()]

    found = completion.candidates(parser(), words, look)
    assert found == expected


def test_completion_asks_the_cluster_that_the_flags_name(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kubectl.answer("get", out="partition.logstore.dev/a\npartition.logstore.dev/b\n")
    words = ["status", "--context", "c", "-n", "ns", ""]
    assert answer(["__complete", "--", *words]) == 0
    assert capsys.readouterr().out.split() == ["a", "b"]
    assert {"--context=c", "--namespace=ns"} <= set(kubectl.calls()[0])
    monkeypatch.setattr("sys.argv", ["kubectl_complete-partition", *words])
    complete()
    assert capsys.readouterr().out == "a\nb\n:4\n"


def test_completion_is_silent_without_a_cluster(
    kubectl: FakeKubectl, capsys: pytest.CaptureFixture[str]
) -> None:
    kubectl.answer("get", err="Unable to connect to the server", code=1)
    assert answer(["__complete", "--", "status", ""]) == 0
    assert capsys.readouterr().out.strip() == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "kubectl"])
def test_each_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "kubectl-partition __complete -- " in script
    program = {"kubectl": "sh", "bash": "bash"}.get(shell)
    if program is not None:  # the other shells are not on every machine
        subprocess.run([program, "-n"], input=script, text=True, check=True)


def test_bash_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(["completion", "bash"]) == 0
    program = tmp_path / "kubectl-partition"
    program.write_text('#!/bin/sh\nshift 2\nfor w in "$@"; do echo "<$w>"; done\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    script = capsys.readouterr().out + (
        "COMP_WORDS=(kubectl-partition status 'a b'); COMP_CWORD=2\n"
        '_kubectl_partition; printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash"], input=script, text=True, capture_output=True, check=True, env=environment
    )
    assert done.stdout.splitlines() == ["<status>", "<a b>"]
