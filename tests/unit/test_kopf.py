"""What we take from kopf beyond its public names: one logger, and that an identity is a str."""

import ast
import asyncio
import logging
import re
import threading
import tomllib
from pathlib import Path

import kopf
import pytest
from partition_operator.__main__ import KOPF_RUNNING

from dev.cluster.layout import ROOT

PACKAGES = ("client", "operator", "proto", "raft", "replica", "snapshots", "tls", "dev", "tests")


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_no_private_module_of_kopf_is_imported() -> None:
    users = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            names = imported(path)
            assert not [n for n in names if n.startswith("kopf._")], path
            users += [path.name for name in names if name == "kopf"]
    assert "watches.py" in users


def test_kopf_stays_below_its_next_major_version() -> None:
    project = tomllib.loads((ROOT / "operator" / "pyproject.toml").read_text())["project"]
    (wanted,) = [text for text in project["dependencies"] if text.startswith("kopf")]
    bound = re.search(r"<(\d+)$", wanted)
    assert bound, wanted
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    (locked,) = [package for package in lock["package"] if package["name"] == "kopf"]
    assert int(locked["version"].split(".")[0]) == int(bound[1]) - 1


def test_the_logger_that_is_silenced_is_the_one_that_warns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The real kopf, in a thread as the operator runs it, with a str for its identity."""
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry, errors=kopf.ErrorsMode.PERMANENT)
    async def fail(**_: object) -> None:
        raise kopf.PermanentError("a planted fault")

    async def run() -> None:
        await kopf.operator(
            registry=registry,
            identity="me",  # type: ignore[arg-type]
            standalone=True,
            namespaces=("ns",),
        )

    def thread() -> None:
        try:
            asyncio.run(run())
        except Exception as error:
            failures.append(str(error))

    failures: list[str] = []
    with caplog.at_level(logging.WARNING):
        running = threading.Thread(target=thread)
        running.start()
        running.join(30)
    assert not running.is_alive()
    assert failures
    assert "a planted fault" in caplog.text
    warnings = {r.name for r in caplog.records if "OS signals are ignored" in r.getMessage()}
    assert warnings == {KOPF_RUNNING}
