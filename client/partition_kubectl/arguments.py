"""The command line: commands, flags and their types."""

import argparse
import re
from collections.abc import Callable
from typing import Protocol

from partition_kubectl import __version__

SHELLS = ("bash", "zsh", "fish", "kubectl")
FORMS = ("json", "yaml")
SPAN = re.compile(r"(\d+)([smh]?)")
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
REPLICAS = (1, 3, 5, 7)
BENCH_SECONDS_MAX = 600
LOG_LINES = 200

EXIT_CODES = (
    "Exit codes: 0 done; 1 the cluster refused; 2 a wrong command line; 3 why: not Ready, bench: "
    "too slow; 4 gave up waiting; 5 the cluster does not answer; 130 interrupted."
)


def duration(text: str) -> float:
    """Parses 90, 90s, 5m or 1h. Raises ArgumentTypeError unless it is above 0."""
    match = SPAN.fullmatch(text)
    found = int(match[1]) * SECONDS[match[2]] if match else 0
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r}: write seconds, or 90s, 5m, 1h; above 0")
    return float(found)


def whole(least: int, most: int) -> Callable[[str], int]:
    """Returns a parser of whole numbers in this range."""

    def parse(text: str) -> int:
        try:
            found = int(text)
        except ValueError:
            found = least - 1
        if not least <= found <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r}: a number from {least} to {most} is allowed"
            )
        return found

    return parse


class AddCommand(Protocol):
    """Adds a command with the shared flags, and NAME unless `partition` is false."""

    def __call__(
        self, name: str, text: str, *, partition: bool = True
    ) -> argparse.ArgumentParser: ...


def parser() -> argparse.ArgumentParser:
    shared = _shared()
    main = argparse.ArgumentParser(
        prog="kubectl partition",
        description="Shows Partitions, explains them, and asks their operator for things.",
        epilog=EXIT_CODES,
        parents=[shared],
    )
    main.add_argument("--version", action="version", version=__version__)
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, *, partition: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=f"{text}.", parents=[shared])
        if partition:
            sub.add_argument("name", metavar="NAME", help="the Partition")
        return sub

    _add_looks(command)
    _add_controls(command)
    _add_snapshots(command)
    _add_reports(command)
    shell = command("completion", "Print the completion script of a shell", partition=False)
    shell.add_argument("shell", choices=SHELLS, help="kubectl: the program that kubectl asks")
    return main


def _shared() -> argparse.ArgumentParser:
    """The flags of every command, in front of it or behind it."""
    found = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    found.add_argument("--context", metavar="NAME", help="the context of kubeconfig to use")
    found.add_argument("--kubeconfig", metavar="FILE", help="the kubeconfig to use")
    found.add_argument("--as", dest="act_as", metavar="USER", help="act as this user")
    found.add_argument("-n", "--namespace", metavar="NAME", help="default: that of the context")
    return found


def _form(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("-o", "--output", choices=FORMS, default="", help="default: for people")


def _waits(sub: argparse.ArgumentParser, default: str) -> None:
    """For commands that wait unless they are told not to."""
    sub.add_argument("--no-wait", action="store_true", help="do not wait until it is done")
    _timeout(sub, default)


def _timeout(sub: argparse.ArgumentParser, default: str) -> None:
    sub.add_argument(
        "--timeout",
        type=duration,
        default=duration(default),
        metavar="TIME",
        help=f"how long to wait, such as 90s or 5m; default {default}",
    )


def _yes(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("-y", "--yes", action="store_true", help="do not ask")


def _add_looks(command: AddCommand) -> None:
    status = command("status", "Show one Partition, or the list of all", partition=False)
    status.add_argument("name", metavar="NAME", nargs="?", help="the Partition")
    status.add_argument(
        "-A", "--all-namespaces", action="store_true", help="list those of all namespaces"
    )
    _form(status)
    _form(command("why", "Explain why a Partition is not Ready, and what to do next"))
    plan = command("plan", "Say what the operator would do now, and do nothing")
    plan.add_argument(
        "--operator-namespace", metavar="NAME", default="", help="default: that of status.operator"
    )
    _form(plan)
    logs = command("logs", "Print the logs of all members, merged by time")
    logs.add_argument("-f", "--follow", action="store_true", help="print new lines as they come")
    logs.add_argument("--pod", action="append", default=[], help="only this pod; may be repeated")
    logs.add_argument("-c", "--container", default="replica", help="default: replica")
    logs.add_argument("--since", metavar="TIME", default="", help="newer than, such as 10m")
    logs.add_argument(
        "--tail",
        type=whole(-1, 10**9),
        default=LOG_LINES,
        metavar="LINES",
        help=f"of each pod, -1 for all; default {LOG_LINES}",
    )
    logs.add_argument("-p", "--previous", action="store_true", help="of the container before")
    logs.add_argument("--timestamps", action="store_true", help="with the time of each line")


def _add_controls(command: AddCommand) -> None:
    switchover = command("switchover", "Make another replica the leader")
    switchover.add_argument("--to", dest="pod", metavar="POD", help="default: a ready voter")
    _waits(switchover, "60s")
    command("pause", "Stop the operator for this Partition; the replicas serve")
    command("resume", "End a pause")
    _waits(command("restart", "Replace all pods, one after the other, the leader last"), "30m")
    command("approve", "Approve the rollout that waits, with update strategy Supervised")
    fence = command("fence", "Make replicas answer nobody; their processes stay for inspection")
    fence.add_argument("pods", metavar="POD", nargs="+", help="a pod of the Partition")
    _yes(fence)
    unfence = command("unfence", "End the fence of replicas")
    unfence.add_argument("pods", metavar="POD", nargs="*", help="a fenced pod")
    unfence.add_argument("--all", action="store_true", help="of all that are fenced")
    _yes(command("hibernate", "Stop all pods of a Partition; its volumes stay"))
    _waits(command("wake", "End a hibernation"), "10m")
    recover = command("recover", "Show a lost quorum, or make a survivor the group")
    recover.add_argument("--from", dest="source", metavar="POD", help="the survivor")
    recover.add_argument("--accept-loss", metavar="TOKEN", help="the token that was shown")
    _yes(recover)
    _waits(recover, "10m")


def _add_snapshots(command: AddCommand) -> None:
    snapshot = command("snapshot", "Take a snapshot now")
    snapshot.add_argument("--name", dest="snapshot_name", metavar="NAME", default="")
    snapshot.add_argument("--verify", choices=("None", "Checksum", "Restore"))
    snapshot.add_argument("--full", action="store_true", help="build on no earlier one")
    snapshot.add_argument(
        "--volume", action="store_true", help="into the source's volume, not the usual destination"
    )
    snapshot.add_argument("--pinned", action="store_true", help="exempt it from retention")
    snapshot.add_argument(
        "--wait", action="store_true", help="wait until it is stored and verified"
    )
    _timeout(snapshot, "1h")
    restore = command("restore", "Print or create a new Partition from a snapshot")
    restore.add_argument("--snapshot", metavar="NAME", help="a PartitionSnapshot")
    store = restore.add_argument_group("instead of --snapshot, from an object store")
    store.add_argument("--bucket", default="")
    store.add_argument("--path", default="", help="the folder with format.json")
    store.add_argument("--secret", default="", help="the Secret with the keys of the store")
    store.add_argument("--endpoint", default="", metavar="URL")
    store.add_argument("--region", default="")
    store.add_argument("--stored", default="latest", metavar="ID", help="default: latest")
    restore.add_argument("--replicas", type=int, choices=REPLICAS)
    restore.add_argument("--size", default="", help="of each volume; default: as before")
    restore.add_argument("--storage-class", default="", help="default: as before")
    restore.add_argument("--create", action="store_true", help="create it, instead of printing it")
    restore.add_argument("--wait", action="store_true", help="with --create: until it is Ready")
    _timeout(restore, "1h")


def _add_reports(command: AddCommand) -> None:
    report = command("report", "Write one file for a bug report, without secrets")
    report.add_argument("--file", default="", help="default: partition-report-NAME-TIME.tar.gz")
    bench = command("bench", "Measure the disk of a storage class", partition=False)
    bench.add_argument(
        "--storage-class", default="", metavar="CLASS", help="default: the cluster's"
    )
    bench.add_argument("--size", default="2Gi", help="of the volume; default 2Gi")
    bench.add_argument("--node", default="", help="the node to measure on")
    bench.add_argument("--image", default="", help="default: that of a Partition or the operator")
    bench.add_argument(
        "--seconds",
        type=whole(1, BENCH_SECONDS_MAX),
        default=10,
        help="of each of both parts; default 10",
    )
    bench.add_argument("--mib", type=whole(16, 10**6), default=512, help="to write; default 512")
    bench.add_argument("--keep", action="store_true", help="keep pod and volume")
    _timeout(bench, "5m")
    _form(bench)
