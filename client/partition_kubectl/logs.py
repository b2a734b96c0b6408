"""`kubectl partition logs`: the logs of all members, merged by time, each line with its pod."""

import argparse
import heapq
import queue
import subprocess
import threading
from collections.abc import Iterable, Iterator

from partition_kubectl import names, pods
from partition_kubectl.errors import Refused, UsageError
from partition_kubectl.kubectl import Kubectl, explained
from partition_kubectl.output import put, say

WAITING_LINES_MAX = 10_000
"""Lines that are read and not yet printed. Then kubectl waits."""


def run(kubectl: Kubectl, options: argparse.Namespace) -> int:
    found = [pods.name(pod) for pod in kubectl.find("pods", names.replicas(options.name))]
    wanted = chosen(found, options.pod, options.name)
    flags = arguments(options)
    if options.follow:
        _follow(kubectl, wanted, flags, stamped=options.timestamps)
        return 0
    texts, problems = {}, []
    for pod in wanted:
        try:
            texts[pod] = kubectl("logs", pod, *flags, lasting=True).splitlines()
        except Refused as error:
            problems.append(f"{pod}: {error}")
    for line in merged(texts, stamped=options.timestamps):
        put(line)
    for problem in problems:
        say(f"no log of {problem}")
    if not texts:
        raise Refused("no log could be read")
    return 0


def chosen(found: list[str], asked: list[str], partition: str) -> list[str]:
    """Returns the pods to read. Raises Refused, UsageError. Pure."""
    if not found:
        raise Refused(f"there are no pods of {partition}: kubectl partition why {partition}")
    unknown = sorted(set(asked) - set(found))
    if unknown:
        raise UsageError(f"--pod {unknown[0]}: no such pod; the pods are {', '.join(found)}")
    return asked or found


def arguments(options: argparse.Namespace) -> list[str]:
    """Returns the flags of `kubectl logs`. Times are always asked for: the lines are merged by
    them. Pure."""
    flags = ["--container", options.container, "--timestamps"]
    flags.append(f"--tail={options.tail}")
    if options.since:
        flags.append(f"--since={options.since}")
    if options.previous:
        flags.append("--previous")
    return flags


def merged(texts: dict[str, list[str]], *, stamped: bool) -> Iterator[str]:
    """Yields the lines of all pods in the order of their times. texts: by pod, lines that begin
    with a time, as the kubelet writes them. Pure."""
    width = max((len(pod) for pod in texts), default=0)
    streams = [list(_timed(pod, lines)) for pod, lines in texts.items()]
    for stamp, pod, line in heapq.merge(*streams, key=lambda one: _order(one[0])):
        yield labelled(pod, line, width, stamp if stamped else "")


def _timed(pod: str, lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    for line in lines:
        stamp, _, rest = line.partition(" ")
        yield stamp, pod, rest


def _order(stamp: str) -> tuple[str, str]:
    """The kubelet leaves out zeros at the end of a fraction: text alone would not sort."""
    seconds, _, fraction = stamp.rstrip("Z").partition(".")
    return seconds, fraction.ljust(9, "0")


def labelled(pod: str, line: str, width: int, stamp: str = "") -> str:
    return f"{pod.ljust(width)} | {f'{stamp} ' if stamp else ''}{line}".rstrip()


def _follow(kubectl: Kubectl, wanted: list[str], flags: list[str], *, stamped: bool) -> None:
    """Prints lines as they come, until all logs end. Across pods their order is that of arrival."""
    lines: queue.Queue[str | None] = queue.Queue(WAITING_LINES_MAX)
    width = max(map(len, wanted))
    running = {pod: kubectl.start("logs", pod, "--follow", *flags) for pod in wanted}
    try:
        for pod, process in running.items():
            threading.Thread(
                target=_read, args=(pod, process, lines, width, stamped), daemon=True
            ).start()
        left = len(running)
        while left:
            line = lines.get()
            if line is None:
                left -= 1
            else:
                put(line)
    finally:
        for process in running.values():
            process.terminate()


def _read(
    pod: str,
    process: "subprocess.Popen[str]",
    lines: "queue.Queue[str | None]",
    width: int,
    stamped: bool,
) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    for text in process.stdout:
        stamp, _, rest = text.rstrip("\n").partition(" ")
        lines.put(labelled(pod, rest, width, stamp if stamped else ""))
    said = process.stderr.read()
    if process.wait() > 0:
        lines.put(labelled(pod, f"(the log ends: {explained(said)})", width))
    lines.put(None)
