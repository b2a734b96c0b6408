"""A real S3 server for tests and the local cluster: versitygw, with its objects as files in a
directory.

`python -m dev.object_store build` builds it once into .cache/bin. `run` serves a directory until it
is interrupted.
"""

import argparse
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from dev.cluster.builds import timed
from dev.cluster.layout import BIN
from dev.ports import free_port

MODULE = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
PROGRAM = BIN / "versitygw"
READY_S = 30.0
HEALTH = "/healthz"


def build() -> Path:
    """Builds the server if it is missing. Returns its path."""
    BIN.mkdir(parents=True, exist_ok=True)
    if not PROGRAM.exists() and not shutil.which("go"):
        raise SystemExit("object store: versitygw needs Go to build: install package golang")
    timed("building versitygw", "2 min cold", PROGRAM, _install)
    return PROGRAM


def _install() -> None:
    subprocess.run(
        ["go", "install", "-trimpath", "-ldflags", "-s -w", MODULE],
        env=os.environ | {"GOBIN": str(BIN)},
        check=True,
    )


class ObjectStoreServer:
    """One server on one address. Buckets are the directories below `folder`/buckets; their content
    survives `kill`. Each instance has new random credentials."""

    def __init__(
        self,
        folder: Path,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        certificate: Path | None = None,
        key: Path | None = None,
        network: Path | None = None,
    ) -> None:
        """network: the file of the network namespace in which the server runs; None for the current
        one."""
        self.folder = folder
        self.address = address
        self.port = port or free_port()
        self.access_key_id = "K" + secrets.token_hex(8).upper()
        self.secret_access_key = secrets.token_hex(20)
        self._tls = [] if certificate is None else ["--cert", str(certificate), "--key", str(key)]
        self._enter = [] if network is None else ["nsenter", f"--net={network}", "--"]
        self._process: subprocess.Popen[bytes] | None = None
        self.buckets.mkdir(parents=True, exist_ok=True)
        (folder / "users").mkdir(exist_ok=True)

    @property
    def buckets(self) -> Path:
        return self.folder / "buckets"

    @property
    def endpoint(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.address}:{self.port}"

    def make_bucket(self, name: str) -> Path:
        """Creates a bucket. Returns its directory, which contains the objects as files."""
        bucket = self.buckets / name
        bucket.mkdir()
        return bucket

    def start(self) -> None:
        """Starts the server and waits until it answers. Raises RuntimeError with the end of its log
        if it does not within READY_S."""
        assert self._process is None
        command = [
            *self._enter,
            str(build()),
            "--port",
            f"{self.address}:{self.port}",
            "--health",
            HEALTH,
        ]
        command += ["--quiet", "--keep-alive", "--iam-dir", str(self.folder / "users"), *self._tls]
        command += ["posix", str(self.buckets)]
        secret = {
            "ROOT_ACCESS_KEY_ID": self.access_key_id,
            "ROOT_SECRET_ACCESS_KEY": self.secret_access_key,
        }
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=os.environ | secret, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + READY_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"versitygw: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        if self._tls:
            # The caller checks the certificate, so an open port is enough here.
            try:
                socket.create_connection((self.address, self.port), timeout=1).close()
            except OSError:
                return False
            return True
        try:
            with urllib.request.urlopen(self.endpoint + HEALTH, timeout=1):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """Ends the server with SIGKILL, like a crash of its machine."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends the server. Does nothing if it does not run."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def __enter__(self) -> "ObjectStoreServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.object_store", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build the server, start nothing")
    run = commands.add_parser("run", help="serve a directory on loopback until interrupted")
    run.add_argument("folder", type=Path)
    run.add_argument("--bucket", default="snapshots")
    options = parser.parse_args()
    build()
    if options.command == "build":
        return
    with ObjectStoreServer(options.folder) as server:
        (server.buckets / options.bucket).mkdir(exist_ok=True)
        print(f"export AWS_ACCESS_KEY_ID={server.access_key_id}")
        print(f"export AWS_SECRET_ACCESS_KEY={server.secret_access_key}")
        print(f"# --s3-endpoint {server.endpoint} --s3-bucket {options.bucket} --s3-allow-http")
        print("# Ctrl-C stops the server", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
