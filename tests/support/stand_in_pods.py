"""Pods that run once, `partition-replica snapshot …` or `bench-disk`, as processes. Their volumes
are the stand-in nodes' directories, their Secrets are read, their termination message and exit code
are reported."""

import base64
import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partition_replica.storage.failpoints import ENVIRONMENT

from dev.access import Kubectl

SELECTOR = "app.kubernetes.io/component in (verify, restore, bench)"


@dataclass
class _Run:
    name: str
    uid: str
    report: Path
    process: "subprocess.Popen[bytes]"
    reported: bool = False


class StandInPods:
    """Of one namespace."""

    def __init__(self, kubectl: Kubectl, namespace: str, folder: Path, network: str) -> None:
        """network: the first three numbers of addresses of this machine that are theirs alone."""
        self._kubectl = kubectl
        self._network = network
        self._namespace = namespace
        self._folder = folder
        self._runs: dict[str, _Run] = {}
        self._failpoints: list[str] = []
        self.seen: list[dict[str, Any]] = []
        """Every pod that was started, as it was asked for."""
        self.held = False
        """While true, nothing is started: as if no node had room."""

    def arm(self, *failpoints: str) -> None:
        """The next pods' processes end at these, one a pod."""
        self._failpoints = list(failpoints)

    def kill(self) -> None:
        """SIGKILL to what runs."""
        for run in self._runs.values():
            if run.process.poll() is None:
                run.process.send_signal(signal.SIGKILL)

    def running(self) -> list[str]:
        return [run.name for run in self._runs.values() if run.process.poll() is None]

    def close(self) -> None:
        self.kill()
        for run in self._runs.values():
            run.process.wait()

    def once(self) -> None:
        items = self._kubectl.json("-n", self._namespace, "get", "pods", "-l", SELECTOR)["items"]
        uids = {item["metadata"]["uid"] for item in items}
        for uid in set(self._runs) - uids:
            run = self._runs.pop(uid)
            if run.process.poll() is None:
                run.process.kill()
            run.process.wait()
        for item in items:
            uid = item["metadata"]["uid"]
            if (
                uid not in self._runs
                and not self.held
                and "deletionTimestamp" not in item["metadata"]
            ):
                self._start(item)
            elif uid in self._runs:
                self._report(self._runs[uid], item)

    def _start(self, item: dict[str, Any]) -> None:
        name, uid = item["metadata"]["name"], item["metadata"]["uid"]
        self.seen.append(item)
        own = self._folder / "pods" / uid
        own.mkdir(parents=True)
        container = item["spec"]["containers"][0]
        report = own / "termination-log"
        paths = {"/dev/termination-log": str(report)}
        volumes = {v["name"]: v for v in item["spec"]["volumes"]}
        for mount in container["volumeMounts"]:
            paths |= self._mount(mount["mountPath"], volumes[mount["name"]], own)
        environment = dict(os.environ)
        ip = f"{self._network}.{len(self.seen) % 250 + 1}"
        paths["$(POD_IP)"] = ip
        for variable in container["env"]:
            value = variable.get("value")
            if value is None:
                source = variable["valueFrom"]
                value = ip if "fieldRef" in source else self._secret(source["secretKeyRef"])
            if value is not None:
                environment[variable["name"]] = _translate(value, paths)
        (own / "tmp").mkdir()
        environment["TMPDIR"] = str(own / "tmp")
        environment[ENVIRONMENT] = self._failpoints.pop(0) if self._failpoints else ""
        assert container["command"] == ["python3", "-m", "partition_replica"]
        words = [_translate(word, paths) for word in container["args"]]
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "partition_replica", *words],
                stdout=log,
                stderr=log,
                env=environment,
            )
        self._runs[uid] = _Run(name, uid, report, process)
        self._patch(name, {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]})

    def _mount(self, path: str, volume: dict[str, Any], own: Path) -> dict[str, str]:
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            if not claim.startswith("data-"):
                (own / "volume").mkdir()
                return {path: str(own / "volume")}
            return {f"{path}/data": str(self._folder / claim.removeprefix("data-"))}
        place = own / volume["name"]
        place.mkdir()
        if "secret" in volume:
            for entry in volume["secret"]["items"]:
                reference = {"name": volume["secret"]["secretName"], "key": entry["key"]}
                (place / entry["path"]).write_text(self._secret(reference) or "")
        return {path: str(place)}

    def _secret(self, reference: dict[str, Any]) -> str | None:
        found = self._kubectl.json("-n", self._namespace, "get", "secret", reference["name"])
        data = found.get("data", {}).get(reference["key"])
        return None if data is None else base64.b64decode(data).decode()

    def _report(self, run: _Run, item: dict[str, Any]) -> None:
        code = run.process.poll()
        if code is None or run.reported:
            return
        run.reported = True
        message = run.report.read_text() if run.report.exists() else ""
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        component = item["metadata"]["labels"]["app.kubernetes.io/component"]
        container = next(c for c in item["spec"]["containers"] if c["name"] == component)
        terminated = {
            "exitCode": code if code >= 0 else 128 - code,
            "reason": "Completed" if code == 0 else "Error",
            "finishedAt": now,
            "startedAt": now,
            "message": message,
        }
        status = {
            "phase": "Succeeded" if code == 0 else "Failed",
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "ready": False,
                    "restartCount": 0,
                    "state": {"terminated": terminated},
                }
            ],
        }
        self._patch(run.name, status)
        shutil.rmtree(run.report.parent, ignore_errors=True)

    def _patch(self, name: str, status: dict[str, Any]) -> None:
        body = json.dumps({"status": status})
        words = ("-n", self._namespace, "patch", "pod", name, "--subresource=status")
        self._kubectl(*words, "--type=merge", "-p", body, check=False)


def _translate(word: str, paths: dict[str, str]) -> str:
    for path, place in sorted(paths.items(), key=lambda item: -len(item[0])):
        word = word.replace(path, place)
    return word
