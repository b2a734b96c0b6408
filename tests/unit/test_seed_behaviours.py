"""docs/seed_behaviours.md: each case of the seed's suites has a test of ours, or a difference."""

import ast
import re
from functools import cache

import pytest

from dev.cluster.layout import ROOT

PAGE = (ROOT / "docs" / "seed_behaviours.md").read_text()
HEADER = ["id", "case", "test", "difference"]
NAMED = re.compile(r"`([a-z_/]+\.py)::(test_[a-z0-9_]+)`")

CASES = [
    *(f"L{n}" for n in range(1, 34)),
    *(f"S{n}" for n in range(1, 4)),
    *(f"R{n}" for n in range(1, 37)),
    *(f"M{n}" for n in range(1, 46)),
    *(f"P{n}" for n in range(1, 9)),
    *("U12", "U13", "U13b", "U13c", "U13d"),
]
"""Those that have a number; the suites around them are listed by name."""

SUITES = (
    "conf-change",
    "recorder",
    "registry",
    "leadership",
    "routing",
    "transport",
    "logger",
    "send",
    "join",
    "info",
    "cli",
    "bootstrap",
    "consumer",
    "kv",
)


def rows() -> list[list[str]]:
    """Of each table, without its header."""
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row != HEADER and not set("".join(row)) <= {"-"}]


@cache
def functions_of(path: str) -> frozenset[str]:
    """The functions at the top of a test module, which is not imported."""
    tree = ast.parse((ROOT / path).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, functions))


def test_every_case_is_listed_once() -> None:
    ids = [row[0] for row in rows()]
    assert len(ids) == len(set(ids))
    assert set(CASES) <= set(ids)
    others = set(ids) - set(CASES)
    assert {re.sub(r"-[0-9]+$", "", name) for name in others} == set(SUITES)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_case_has_a_test_that_exists_or_a_difference(row: list[str]) -> None:
    assert len(row) == len(HEADER)
    _, case, tests, difference = row
    assert case
    named = NAMED.findall(tests)
    assert named or difference
    # Nothing in the column is left out by a name of another form.
    assert ", ".join(f"`{path}::{name}`" for path, name in named) == tests
    for path, name in named:
        assert (ROOT / path).is_file(), path
        assert name in functions_of(path), f"{path} has no {name}"
