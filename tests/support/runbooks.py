"""A runbook's commands, copied into a shell as somebody would copy them."""

import os
import re
import subprocess
import textwrap
from collections.abc import Mapping
from pathlib import Path

TIMEOUT_S = 600
CODE_INDENTATION = 4


def blocks(text: str) -> list[str]:
    """The indented blocks of a Markdown text, in order."""
    found = re.findall(rf"(?m)(?:^ {{{CODE_INDENTATION},}}\S.*(?:\n|\Z))+", text)
    return [textwrap.dedent(block).strip("\n") for block in found]


class Terminal:
    """A shell whose variables stay from one block to the next."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = dict(environment)

    def run(self, script: str) -> str:
        """Returns what it wrote; fails with all of it where a command of it fails."""
        kept = self._directory / "environment"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"{script}\nenv -0 > '{kept}'"],
            cwd=self._directory,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{script}\nended with {done.returncode}:\n{done.stdout}"
        pairs = os.fsdecode(kept.read_bytes()).split("\0")
        self._environment = dict(pair.split("=", 1) for pair in pairs if pair)
        return done.stdout


class Runbook:
    """What of it was tried, and what was not."""

    def __init__(self, path: Path, terminal: Terminal) -> None:
        self._blocks = blocks(path.read_text())
        self._tried: set[int] = set()
        self._terminal = terminal

    def run(self, beginning: str, replacements: Mapping[str, str] | None = None) -> str:
        """The one block that begins so, with what its reader has to fill in."""
        numbers = [n for n, block in enumerate(self._blocks) if block.startswith(beginning)]
        assert len(numbers) == 1, f"{len(numbers)} blocks begin with {beginning!r}"
        script = self._blocks[numbers[0]]
        for placeholder, value in (replacements or {}).items():
            assert placeholder in script, f"no {placeholder!r} in:\n{script}"
            script = script.replace(placeholder, value)
        found = self._terminal.run(script)
        self._tried.add(numbers[0])
        return found

    def assert_all_tried(self) -> None:
        left = [b for n, b in enumerate(self._blocks) if n not in self._tried]
        assert left == [], "never tried:\n" + "\n\n".join(left)
