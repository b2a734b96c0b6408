"""A real Prometheus server for tests, promtool, and the CRDs of the Prometheus Operator.

`python -m dev.prometheus build` builds both programs once into .cache/bin, without the web
interface and without the service discoveries that tests don't need. `run` serves loopback until it
is interrupted, and scrapes the targets that its arguments name.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, cast

import yaml

from dev.cluster.builds import timed
from dev.cluster.layout import BIN, CACHE, ROOT
from dev.ports import free_port

VERSION = "v0.316.0"
"""Of the Go module; it is release 3.16.0."""
PROGRAMS = ("prometheus", "promtool")
OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.93.0"
CRDS = CACHE / "prometheus-operator-crds"
CRD_FILES = ("monitoring.coreos.com_podmonitors.yaml", "monitoring.coreos.com_prometheusrules.yaml")
RULES = ROOT / "charts" / "partition-operator" / "files" / "alerts.yaml"
READY_S = 30.0


def build() -> None:
    """Builds the server and promtool, and fetches the CRDs, if one of them is missing."""
    BIN.mkdir(parents=True, exist_ok=True)
    missing = [BIN / name for name in PROGRAMS if not (BIN / name).exists()]
    if (missing or not CRDS.exists()) and not shutil.which("go"):
        raise SystemExit("prometheus: it needs Go to build: install package golang")
    if missing:
        timed("building Prometheus", "4 min cold", missing[0], _install)
    timed("fetching the CRDs of the Prometheus Operator", "5 s", CRDS, _fetch_crds)


def _install() -> None:
    modules = [f"github.com/prometheus/prometheus/cmd/{name}@{VERSION}" for name in PROGRAMS]
    subprocess.run(
        ["go", "install", "-trimpath", "-tags", "remove_all_sd", "-ldflags", "-s -w", *modules],
        env=os.environ | {"GOBIN": str(BIN)},
        check=True,
    )


def _fetch_crds() -> None:
    """Copies the two CRDs out of the Go module that has them."""
    command = ["go", "mod", "download", "-json", OPERATOR]
    # Outside of any module: the download belongs to none of ours.
    done = subprocess.run(command, cwd=CACHE, check=True, capture_output=True, text=True)
    source = Path(json.loads(done.stdout)["Dir"]) / "example" / "prometheus-operator-crd"
    partial = CACHE / "prometheus-operator-crds.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in CRD_FILES:
        shutil.copyfile(source / name, partial / name)
    partial.rename(CRDS)


def promtool(*words: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Runs promtool. Returns how it ended; the caller looks at its exit code."""
    build()
    command = [str(BIN / "promtool"), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


class PrometheusServer:
    """One server on loopback, with its data below `folder`. configuration: what prometheus.yml
    contains; rule files are absolute paths. Use as a context manager."""

    def __init__(self, folder: Path, configuration: dict[str, Any]) -> None:
        self._folder = folder
        self._configuration = configuration
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{free_port()}"

    def __enter__(self) -> "PrometheusServer":
        build()
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(self._configuration))
        command = [
            str(BIN / "prometheus"),
            f"--config.file={file}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self._folder
            )
        deadline = time.monotonic() + READY_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"prometheus: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the server. Does nothing if it does not run."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluates an expression now. Returns its series. Raises ValueError with the server's
        words if the expression is not valid."""
        found = self.get("query", query=expression)
        if found["resultType"] not in ("vector", "matrix"):
            return [{"metric": {}, "value": found["result"]}]
        return cast("list[dict[str, Any]]", found["result"])

    def get(self, path: str, **parameters: str) -> dict[str, Any]:
        """Reads /api/v1/`path`. Returns its data. Raises ValueError with the server's words if the
        server refuses."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return cast("dict[str, Any]", json.load(response)["data"])
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters}: {error.read().decode()}") from error

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1):
                return True
        except (urllib.error.URLError, OSError):
            return False


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.prometheus", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build both programs, start nothing")
    run = commands.add_parser("run", help="scrape until interrupted, with the chart's alert rules")
    run.add_argument("folder", type=Path, help="for the server's data")
    run.add_argument("target", nargs="+", help="HOST:PORT of a replica's or the operator's metrics")
    options = parser.parse_args()
    build()
    if options.command == "build":
        return
    job = {
        "job_name": "partitions",
        "honor_labels": True,
        "static_configs": [{"targets": options.target}],
    }
    configuration = {
        "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [job],
    }
    with PrometheusServer(options.folder.resolve(), configuration) as server:
        print(f"{server.url}/api/v1/query?query=up  # Ctrl-C stops the server", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
