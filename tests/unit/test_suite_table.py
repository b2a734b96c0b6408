"""The table of tests/README.md that says which suite covers which source: it leaves out no test
module and no Python module, and names nothing that is gone."""

import re
from fnmatch import fnmatchcase
from pathlib import Path

from dev.cluster.layout import ROOT

TESTS = ROOT / "tests"
HEADING = "## Which suite covers which source"
OUTSIDE = "raft/tests"
"""The one suite that is not below `tests`."""

PACKAGES = ("client", "common", "operator", "proto", "raft", "replica", "snapshots", "tls")


def rows() -> list[tuple[list[str], list[str]]]:
    """(sources, suites) of each row, without its heading."""
    _, _, rest = (TESTS / "README.md").read_text().partition(HEADING)
    lines = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    cells = [line.strip("|").split("|") for line in lines]
    return [(re.findall(r"`([^`]+)`", a), re.findall(r"`([^`]+)`", b)) for a, b in cells]


def patterns() -> set[str]:
    """Suites as "folder/module", with * for several. A module without a folder is of the one before
    it, and a folder alone is all of its modules."""
    found, folder = set[str](), ""
    for _, suites in rows():
        for name in suites:
            if name == OUTSIDE:
                continue
            if name.startswith("test_"):
                found.add(f"{folder}/{name}")
            else:
                folder, _, module = name.partition("/")
                found.add(f"{folder}/{module or '*'}")
    return found


def sources() -> set[str]:
    """Dotted names; `.b` behind `x.a` is `x.b`."""
    found, before = set[str](), ""
    for names, _ in rows():
        for name in names:
            beside = name.startswith(".") and "." in before
            before = before.rpartition(".")[0] + name if beside else name
            found.add(before)
    return found


def modules() -> set[str]:
    """Every module of the packages, dotted, but for generated ones."""
    found = [
        path.relative_to(ROOT / package).with_suffix("")
        for package in PACKAGES
        for path in (ROOT / package).glob("partition_*/**/*.py")
        if path.name != "__init__.py" and "_pb2" not in path.name
    ]
    return {".".join(path.parts) for path in found}


def stem(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


TEST_MODULES = {stem(path) for path in TESTS.rglob("test_*.py")}


def test_every_test_module_is_in_the_table() -> None:
    assert len(TEST_MODULES) > 100
    named = patterns()
    left = {name for name in TEST_MODULES if not any(fnmatchcase(name, p) for p in named)}
    assert left == set()


def test_the_table_names_no_test_module_that_is_gone() -> None:
    gone = {p for p in patterns() if not any(fnmatchcase(name, p) for name in TEST_MODULES)}
    assert gone == set()


def test_every_module_has_a_row() -> None:
    found = modules()
    assert len(found) > 100
    rooted = {source for source in sources() if source.startswith("partition_")}
    left = {m for m in found if not any(m == s or m.startswith(f"{s}.") for s in rooted)}
    assert left == set()


def test_the_table_names_no_module_that_is_gone() -> None:
    found = modules() | {"partition_raft", "partition_tls"}
    rooted = {source for source in sources() if source.startswith("partition_")}
    assert {s for s in rooted if not any(m == s or m.startswith(f"{s}.") for m in found)} == set()
