"""A page's blocks, copied into a shell as its reader would copy them."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

from dev.cluster.layout import BIN, ROOT
from tests.support.page_blocks import PAGES, Block

DOCS = ROOT / "docs"
TIMEOUT_S = 600
CODE_INDENTATION = 4


def blocks(text: str) -> list[str]:
    """The indented blocks of a Markdown text, in order. Without an empty line before it, an
    indented line belongs to the paragraph or to the item of a list above it."""
    found = re.findall(rf"(?m)(?:\A|(?<=\n\n))(?:^ {{{CODE_INDENTATION},}}\S.*(?:\n|\Z))+", text)
    return [textwrap.dedent(block).strip("\n") for block in found]


def listed(page: str) -> list[tuple[str, Block]]:
    """(text, entry) of each block of a page below docs/. Raises AssertionError if the table of
    page_blocks.py is not that of the page."""
    found, entries = blocks((DOCS / page).read_text()), PAGES[page]
    if isinstance(entries, str):
        return [(text, Block(text, entries)) for text in found]
    for text, entry in zip(found, entries, strict=False):
        assert text.startswith(entry.beginning), (
            f"{page}: page_blocks.py lists {entry.beginning!r}, the page has:\n{text}"
        )
    assert len(found) == len(entries), (
        f"{page} has {len(found)} blocks, page_blocks.py lists {len(entries)}"
    )
    return list(zip(found, entries, strict=True))


def filled_in(script: str, replacements: Mapping[str, str]) -> str:
    """What a reader makes of a block. A longer placeholder goes before one that it contains."""
    for placeholder in sorted(replacements, key=len, reverse=True):
        assert placeholder in script, f"no {placeholder!r} in:\n{script}"
        script = script.replace(placeholder, replacements[placeholder])
    return script


class Terminal:
    """A shell whose variables stay from one block to the next."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = dict(environment)

    def run(self, script: str, *, typed: str = "", code: int = 0) -> str:
        """Returns what it wrote. Fails with all of it unless it ends with `code`.

        typed: what the reader types; with it the input is a terminal."""
        kept = self._directory / "environment"
        kept.unlink(missing_ok=True)
        inputs = [os.open(os.devnull, os.O_RDONLY)]
        if typed:
            os.close(inputs.pop())
            inputs = [*os.openpty()]
            os.write(inputs[0], f"{typed}\n".encode())
        try:
            done = subprocess.run(
                ["bash", "-aeuo", "pipefail", "-c", f"{script}\nenv -0 > '{kept}'"],
                cwd=self._directory,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=inputs[-1],
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        finally:
            for descriptor in inputs:
                os.close(descriptor)
        assert done.returncode == code, f"{script}\nended with {done.returncode}:\n{done.stdout}"
        if kept.exists():
            pairs = os.fsdecode(kept.read_bytes()).split("\0")
            self._environment = dict(pair.split("=", 1) for pair in pairs if pair)
        return done.stdout


class Page:
    """The blocks of a page that one test tries, and whether it has tried them."""

    def __init__(self, page: str, test: str, terminal: Terminal) -> None:
        """page: below docs/. test: the test's name, as page_blocks.py has it."""
        self._page = page
        self._blocks = [text for text, entry in listed(page) if entry.tried_by == test]
        assert self._blocks, f"page_blocks.py lists no block of {page} for {test}"
        self._tried: set[int] = set()
        self._terminal = terminal

    def run(
        self,
        beginning: str,
        replacements: Mapping[str, str] | None = None,
        *,
        typed: str = "",
        code: int = 0,
    ) -> str:
        """Runs the one block that is or begins so, with what its reader has to fill in. Returns
        what it wrote."""
        number, script = self._find(beginning, replacements)
        found = self._terminal.run(script, typed=typed, code=code)
        self._tried.add(number)
        return found

    def take(self, beginning: str, replacements: Mapping[str, str] | None = None) -> str:
        """The block that begins so is no command but goes into a file, which the caller uses."""
        number, text = self._find(beginning, replacements)
        self._tried.add(number)
        return text

    def _find(self, beginning: str, replacements: Mapping[str, str] | None) -> tuple[int, str]:
        numbers = [n for n, block in enumerate(self._blocks) if block == beginning] or [
            n for n, block in enumerate(self._blocks) if block.startswith(beginning)
        ]
        assert len(numbers) == 1, f"{self._page}: {len(numbers)} blocks begin with {beginning!r}"
        return numbers[0], filled_in(self._blocks[numbers[0]], replacements or {})

    def assert_all_tried(self) -> None:
        left = [b for n, b in enumerate(self._blocks) if n not in self._tried]
        assert left == [], f"{self._page}: never tried:\n" + "\n\n".join(left)


def beside(directory: Path, kubeconfig: Path, namespace: str) -> Terminal:
    """A shell in a checkout, beside a cluster: kubectl with its plugin, helm, and the commands of
    the packages. This namespace is the current one.

    directory: empty or absent; the shell's folder."""
    tools = directory / "bin"
    tools.mkdir(parents=True)
    for name in ("kubectl", "helm"):
        (tools / name).symlink_to(BIN / name)
    for name in ("charts", "manifests"):
        (directory / name).symlink_to(ROOT / name)
    own = directory / "kubeconfig"
    shutil.copy(kubeconfig, own)
    path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "KUBECONFIG": str(own), "HOME": str(directory)}
    terminal = Terminal(directory, environment)
    terminal.run(f"kubectl config set-context --current --namespace={namespace}")
    return terminal
