"""Calls kubectl. The only module that starts a process."""

import json
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from typing import Any

from partition_kubectl.errors import Forbidden, NotFound, Refused, Unreachable

PROGRAM = "KUBECTL"
"""The environment's variable that names another kubectl."""
REQUEST_TIMEOUT = "--request-timeout=30s"
"""Of each request but logs and exec, which may last."""
ERROR_LINES_MAX = 5
NOISE = re.compile(r"Warning: |[IWEF]\d{4} \d\d:")
"""Lines that are not the error: warnings of the API server, and kubectl's own log."""

Body = dict[str, Any]

MISSING_CRD = (
    "the cluster does not know Partitions: install the operator's chart, or choose the right "
    "cluster with --context"
)


class Kubectl:
    """Calls kubectl with the user's own flags, such as --context. namespace: "" for the one of the
    context."""

    def __init__(self, flags: Iterable[str] = (), namespace: str = "") -> None:
        self._flags = tuple(flags)
        self.namespace = namespace

    def within(self, namespace: str) -> "Kubectl":
        """Returns the same for another namespace."""
        return Kubectl(self._flags, namespace)

    def command(self, *words: str) -> list[str]:
        program = os.environ.get(PROGRAM) or "kubectl"
        where = [f"--namespace={self.namespace}"] if self.namespace else []
        # A verb first: kubectl looks for plugins by the first word.
        return [program, words[0], *self._flags, *where, *words[1:]]

    def __call__(self, *words: str, stdin: str = "", lasting: bool = False) -> str:
        """Returns what kubectl prints. lasting: without a limit on the request's time. Raises
        Refused, Unreachable."""
        bound = () if lasting else (REQUEST_TIMEOUT,)
        try:
            done = subprocess.run(
                self.command(words[0], *bound, *words[1:]),
                input=stdin,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise _missing(error) from error
        if done.returncode:
            raise explained(done.stderr)
        return done.stdout

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Starts kubectl; the caller reads its output and ends it. Raises Unreachable."""
        try:
            return subprocess.Popen(
                self.command(*words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise _missing(error) from error

    def json(self, *words: str, stdin: str = "") -> Body:
        found: Body = json.loads(self(*words, "-o", "json", stdin=stdin))
        return found

    def get(self, kind: str, name: str) -> Body:
        """Raises NotFound, and the errors of a call."""
        return self.json("get", kind, name)

    def find(self, kind: str, selector: str = "", *more: str) -> list[Body]:
        """Returns the objects with these labels; an empty selector selects all."""
        chosen = ("-l", selector) if selector else ()
        items: list[Body] = self.json("get", kind, *chosen, *more).get("items", [])
        return items

    def find_if_allowed(self, kind: str, selector: str = "", *more: str) -> tuple[list[Body], str]:
        """Returns (objects, ""), or ([], why) if the user may not list them."""
        try:
            return self.find(kind, selector, *more), ""
        except Refused as error:
            return [], f"{kind} can't be listed: {error}"

    def patch(self, kind: str, name: str, change: Body) -> Body:
        """Merges a change into the object. Returns the object as stored."""
        return self.json("patch", kind, name, "--type=merge", "-p", json.dumps(change))

    def annotate(self, kind: str, name: str, marks: "dict[str, str | None]") -> Body:
        """None removes an annotation."""
        return self.patch(kind, name, {"metadata": {"annotations": marks}})

    def create(self, body: Body) -> Body:
        return self.json("create", "-f", "-", stdin=json.dumps(body))

    def delete(self, kind: str, name: str) -> None:
        self("delete", kind, name, "--ignore-not-found", "--wait=false")

    def events(self, uids: Iterable[str]) -> list[Body]:
        """Returns the events about the objects of these uids, oldest first; [] if the user may not
        list events."""
        wanted = set(uids)
        found, _ = self.find_if_allowed("events")
        mine = [e for e in found if (e.get("involvedObject") or {}).get("uid") in wanted]
        return sorted(mine, key=seen_at)


def seen_at(event: Body) -> str:
    """Returns when an event was last seen, RFC 3339; "" if it does not say."""
    series = (event.get("series") or {}).get("lastObservedTime")
    when = event.get("lastTimestamp") or series or event.get("eventTime")
    return str(when or (event.get("metadata") or {}).get("creationTimestamp") or "")


def explained(said: str) -> Refused | Unreachable:
    """Returns the error for what kubectl wrote to standard error. Pure."""
    lines = [line for line in said.strip().splitlines() if line.strip()]
    told = [line for line in lines if not NOISE.match(line)] or lines
    text = " ".join(told[-ERROR_LINES_MAX:]) or "kubectl failed without a message"
    if "the server doesn't have a resource type" in said and "partition" in said:
        return Refused(MISSING_CRD)
    if "(NotFound)" in said:
        return NotFound(_bare(text))
    if "(Forbidden)" in said:
        return Forbidden(_bare(text))
    if _no_answer(said):
        return Unreachable(f"{text}; check --context, and whether the cluster runs")
    return Refused(_bare(text))


def _no_answer(said: str) -> bool:
    signs: Sequence[str] = (
        "Unable to connect to the server",
        "was refused - did you specify the right host or port",
        "context deadline exceeded",
        "Client.Timeout exceeded",
        "current-context",
        "no context exists",
        "context was not found",
    )
    return any(sign in said for sign in signs)


def _bare(text: str) -> str:
    """Returns the message without kubectl's "Error from server (NotFound): "."""
    if text.startswith("Error from server"):
        return text.partition(": ")[2] or text
    return text.removeprefix("error: ")


def _missing(error: OSError) -> Unreachable:
    return Unreachable(
        f"kubectl can't be started ({error.strerror or error}): install it, or name it in the "
        f"variable {PROGRAM}"
    )
