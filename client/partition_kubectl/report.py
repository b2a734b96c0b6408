"""`kubectl partition report`: one file for a bug report, with what a developer needs and no secret.

What the user may not read is left out, and the file says so.
"""

import argparse
import datetime as dt
import io
import json
import os
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from partition_kubectl import __version__, names, pods, redaction
from partition_kubectl.errors import PluginError, UsageError
from partition_kubectl.kubectl import Body, Kubectl, seen_at
from partition_kubectl.output import Line, put, size

CLAIMS = "persistentvolumeclaims"
LOG_BYTES_MAX = 2 * 1024**2
"""Of each log, from its end."""
LOG_LINES_MAX = 20_000
EVENTS_MAX = 1_000
ERROR_CHARACTERS_MAX = 500

README = """\
Report about Partition {partition}, made at {made} by kubectl partition {version}.

It contains the objects of the Partition as the API server has them, its events, and the logs of
its replicas and of its operator, each at most {bytes} long.

Left out or replaced by {gone}:
- the content of every Secret: no Secret was read;
- values of environment variables, but for those that the operator sets;
- commands and arguments of containers that are not ours, and their logs;
- private keys, passwords in URLs, tokens and the like, where they were recognised. Look through
  the files before you publish them;
- managedFields, and the copies of objects that kubectl apply keeps.

It does contain names of namespaces, nodes, pods and images, IP addresses, and what your annotations
and labels say.

Files:
{files}
{problems}"""


class Bundle:
    """Collects files. A part that can't be read is noted, and the rest goes on."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.problems: list[str] = []

    def objects(self, name: str, read: Callable[[], list[Body]]) -> list[Body]:
        """Adds objects as JSON. Returns them, as read."""
        try:
            found = read()
        except PluginError as error:
            self._missing(name, error)
            return []
        cleaned = [redaction.body(one) for one in found]
        self.files[f"{name}.json"] = json.dumps(cleaned, indent=1)
        return found

    def log(self, name: str, read: Callable[[], str]) -> None:
        try:
            self.files[f"logs/{name}.log"] = redaction.text(read())
        except PluginError as error:
            self._missing(f"logs/{name}.log", error)

    def _missing(self, name: str, error: PluginError) -> None:
        self.problems.append(f"{name}: {redaction.text(str(error))[:ERROR_CHARACTERS_MAX]}")

    def write(self, path: Path, readme: str, folder: str, made: dt.datetime) -> None:
        """Writes the file, which only the user may read. Raises OSError if it exists."""
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        with (
            os.fdopen(os.open(path, flags, 0o600), "wb") as out,
            tarfile.open(fileobj=out, mode="w:gz") as archive,
        ):
            for name, content in {"README.txt": readme, **self.files}.items():
                data = content.encode()
                entry = tarfile.TarInfo(f"{folder}/{name}")
                entry.size, entry.mtime = len(data), int(made.timestamp())
                archive.addfile(entry, io.BytesIO(data))


def run(kubectl: Kubectl, options: argparse.Namespace) -> int:
    made = dt.datetime.now(dt.UTC)  # noqa: TID251  # part of a name
    folder = f"partition-report-{options.name}-{made:%Y%m%dT%H%M%SZ}"
    path = Path(options.file or f"{folder}.tar.gz")
    if path.exists():
        raise UsageError(f"--file {path}: exists already; name another file")
    bundle = Bundle()
    line = Line()
    partition = kubectl.get(names.PARTITIONS, options.name)
    try:
        collect(kubectl, partition, bundle, line.show)
    finally:
        line.end()
    where = f"{partition['metadata']['namespace']}/{options.name}"
    readme = about(where, bundle, f"{made:%Y-%m-%dT%H:%M:%SZ}")
    try:
        bundle.write(path, readme, folder, made)
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror or error}") from error
    put(f"{path}, {size(path.stat().st_size)}:")
    put("\n".join(f"  {name}" for name in ("README.txt", *sorted(bundle.files))))
    for problem in bundle.problems:
        put(f"Left out: {problem}")
    put("No Secret was read. Look through the files before you publish them.")
    return 0


def collect(kubectl: Kubectl, partition: Body, bundle: Bundle, told: Callable[[str], None]) -> None:
    """Reads everything into the bundle. told: shows what is being read."""
    name, status = partition["metadata"]["name"], partition.get("status") or {}
    told("reading objects")
    bundle.objects("partition", lambda: [partition])
    of = names.of(name)
    for kind in ("statefulsets", "services", "poddisruptionbudgets"):
        bundle.objects(kind, partial(kubectl.find, kind, of))
    replicas = bundle.objects("pods", partial(kubectl.find, "pods", of))
    claims = bundle.objects(CLAIMS, partial(kubectl.find, CLAIMS, of))
    snapshots = bundle.objects("partitionsnapshots", partial(_snapshots, kubectl, name))
    about_it = [partition, *replicas, *claims, *snapshots]
    bundle.objects("events", partial(_events, kubectl, name, about_it))
    for found in sorted({c["spec"].get("storageClassName") or "" for c in claims} - {""}):
        bundle.objects(f"storageclass-{found}", partial(_one, kubectl, "storageclass", found))
    bundle.objects("versions", lambda: [kubectl.json("version")])
    for pod in replicas:
        told(f"reading the log of {pods.name(pod)}")
        _logs(kubectl, bundle, pod, _container(pod))
    told("reading the operator's pods")
    operator = status.get("operator", "")
    if operator:
        place = kubectl.within(operator)
        found_pods = bundle.objects("operator-pods", lambda: place.find("pods", names.OPERATOR))
        for pod in found_pods:
            told(f"reading the log of {pods.name(pod)}")
            _logs(place, bundle, pod, names.OPERATOR_CONTAINER)
    else:
        bundle.problems.append("operator-pods: no operator has taken up this Partition yet")


def about(partition: str, bundle: Bundle, made: str) -> str:
    """Returns the text of README.txt. Pure."""
    problems = "".join(f"- {one}\n" for one in bundle.problems)
    return README.format(
        partition=partition,
        made=made,
        version=__version__,
        bytes=size(LOG_BYTES_MAX),
        gone=redaction.GONE,
        files="\n".join(f"- {name}" for name in sorted(bundle.files)),
        problems=f"\nCould not be read:\n{problems}" if problems else "",
    )


def _one(kubectl: Kubectl, kind: str, name: str) -> list[Body]:
    return [kubectl.get(kind, name)]


def _container(pod: Body) -> str:
    """Returns our container: pods that restore or verify have one of another name."""
    component = (pod["metadata"].get("labels") or {}).get("app.kubernetes.io/component", "")
    return component if component in ("restore", "verify") else names.REPLICA


def _logs(kubectl: Kubectl, bundle: Bundle, pod: Body, container: str) -> None:
    name = pods.name(pod)
    flags = ("-c", container, "--timestamps", f"--tail={LOG_LINES_MAX}")

    def read(*more: str) -> Callable[[], str]:
        # The end of a log matters, and --limit-bytes keeps its beginning.
        return lambda: kubectl("logs", name, *flags, *more)[-LOG_BYTES_MAX:]

    bundle.log(name, read())
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    if any(one.get("name") == container and one.get("restartCount") for one in statuses):
        bundle.log(f"{name}.previous", read("--previous"))


def _snapshots(kubectl: Kubectl, partition: str) -> list[Body]:
    found = kubectl.find(names.SNAPSHOTS)
    return [one for one in found if one["spec"]["partitionRef"]["name"] == partition]


def _events(kubectl: Kubectl, partition: str, objects: list[Body]) -> list[Body]:
    """Returns the newest events about the objects, and about others of the Partition's names, which
    may be gone."""
    uids = {one["metadata"]["uid"] for one in objects}
    ours = {partition, *(one["metadata"]["name"] for one in objects)}

    def matters(event: Body) -> bool:
        about_it = event.get("involvedObject") or {}
        name = str(about_it.get("name", ""))
        return about_it.get("uid") in uids or name in ours or name.startswith(f"{partition}-")

    found = [event for event in kubectl.find("events") if matters(event)]
    return sorted(found, key=seen_at)[-EVENTS_MAX:]
