"""Objects as the API server gives them to the plugin of kubectl, and a kubectl that answers by a
table."""

import datetime as dt
import json
import os
import sys
from pathlib import Path
from typing import Any

NOW = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)
Body = dict[str, Any]

FAKE = """\
#!{python} -IS
import json, pathlib, sys
here = pathlib.Path(__file__).parent
words = sys.argv[1:]
stdin = "" if sys.stdin.isatty() else sys.stdin.read() if "-" in words else ""
with (here / "calls").open("a") as calls:
    calls.write(json.dumps([words, stdin]) + "\\n")
for pattern, answer in json.loads((here / "answers").read_text()):
    if all(word in words for word in pattern):
        asked = here / ("asked-" + "-".join(pattern).replace("/", "_"))
        again = asked.exists()
        asked.touch()
        sys.stdout.write(answer["out"] if again or not answer["first"] else answer["first"])
        sys.stderr.write(answer.get("err", ""))
        sys.exit(answer.get("code", 0))
sys.exit(f"error: no answer for {{words}}")
"""


class FakeKubectl:
    """A program in `folder` that answers calls with the words of a pattern, the first that fits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.program = folder / "kubectl"
        self.program.write_text(FAKE.format(python=sys.executable))
        os.chmod(self.program, 0o755)
        self._answers: list[tuple[list[str], dict[str, Any]]] = []
        self._write()

    def answer(
        self, *words: str, out: object = "", first: object = "", err: str = "", code: int = 0
    ) -> None:
        """out: text, or an object. first: what is given the first time instead."""
        text, before = (one if isinstance(one, str) else json.dumps(one) for one in (out, first))
        answer = {"out": text, "first": before, "err": err, "code": code}
        self._answers.append((list(words), answer))
        self._write()

    def calls(self) -> list[list[str]]:
        """The words of every call."""
        return [words for words, _ in self._lines()]

    def stdins(self) -> list[str]:
        return [text for _, text in self._lines()]

    def _lines(self) -> list[tuple[list[str], str]]:
        file = self._folder / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def _write(self) -> None:
        (self._folder / "answers").write_text(json.dumps(self._answers))


def condition(kind: str, status: str, reason: str, message: str = "") -> Body:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def partition(*conditions: Body, **more: Any) -> Body:
    """A group of three that is Ready, unless `more` changes its status. annotations, spec,
    generation and uid are of the object."""
    metadata = {
        "name": "part",
        "namespace": "ns",
        "uid": more.pop("uid", "u-part"),
        "generation": more.pop("generation", 2),
        "creationTimestamp": "2026-01-02T11:00:00Z",
        "annotations": more.pop("annotations", {}),
    }
    status = {
        "observedGeneration": 2,
        "state": "Ready",
        "ready": "3/3",
        "mode": "Raft",
        "leader": "part-0",
        "term": "4",
        "lag": "0",
        "image": "registry.example/partition:1.2",
        "revision": "part-aaa",
        "operator": "partition-system",
        "members": [{"memberID": f"{n:x}", "pod": f"part-{n}", "role": "voter"} for n in range(3)],
        "conditions": [condition("Ready", "True", "Ready", "every replica serves"), *conditions],
    }
    spec = {"replicas": 3, "storage": {"size": "10Gi"}} | more.pop("spec", {})
    return {"metadata": metadata, "spec": spec, "status": status | more}


def pod(number: int, **more: Any) -> Body:
    """A ready pod. state, lastState and restartCount are of its container; placed=False leaves it
    without a node."""
    ready, placed = more.pop("ready", True), more.pop("placed", True)
    container = {"name": "replica", "restartCount": 0, "state": {"running": {}}} | more
    return {
        "metadata": {
            "name": f"part-{number}",
            "namespace": "ns",
            "uid": f"u-pod-{number}",
            "labels": {"controller-revision-hash": "part-aaa"},
        },
        "spec": {
            "nodeName": f"node-{number}" if placed else "",
            "containers": [{"name": "replica", "image": "registry.example/partition:1.2"}],
        },
        "status": {
            "conditions": [
                condition("Ready", str(ready), ""),
                condition("PodScheduled", str(placed), "", "" if placed else "0/3 nodes fit"),
            ],
            "containerStatuses": [container] if placed else [],
        },
    }


def event(reason: str, uid: str, seen: str, message: str = "told", **more: Any) -> Body:
    about = {"uid": uid, "kind": "Partition", "name": "part"}
    found = {"type": "Warning", "reason": reason, "message": message, "lastTimestamp": seen}
    return found | {"metadata": {}, "involvedObject": about} | more
