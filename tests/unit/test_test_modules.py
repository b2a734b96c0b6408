"""The layout of the tests: what two modules need is in tests/support, a test module is short, and
its tests begin near its top. tests/README.md says where what goes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.cluster.layout import ROOT

TESTS = ROOT / "tests"
LINES_MAX = 500
FIRST_TEST_LINE_MAX = 80
BEGIN_LATE = {
    "simulation/test_strangers.py",
}
"""Their helpers have not been moved yet. Do not add to these."""

IMPORT_A_TEST_MODULE = {"simulation/test_restores.py"}
"""It takes `find` from test_simulation, which has not been moved yet. Do not add to these."""

TEST_MODULE = re.compile(r"tests\.(\w+\.)*(test_\w+|conftest)")
STATE_MACHINE = "RuleBasedStateMachine"


def name_of(path: Path) -> str:
    return str(path.relative_to(TESTS))


MODULES = sorted(TESTS.rglob("*.py"))
TEST_MODULES = [path for path in MODULES if path.name.startswith("test_")]


def imported(path: Path) -> Iterator[str]:
    """Every dotted name that an import of the module may stand for."""
    package = ("tests", *path.relative_to(TESTS).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join((*above, *filter(None, [node.module])))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def starts_tests(node: ast.AST) -> bool:
    """Whether this is a test, a class of tests, or a state machine of hypothesis. A function may
    make the machine, to give it a parameter: the machine's line counts."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return node.name.startswith("test_")
    if isinstance(node, ast.ClassDef):
        bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        return node.name.startswith("Test") or STATE_MACHINE in bases
    return False


def first_test_line(path: Path) -> int:
    """The line of the first one, decorators included."""
    return min(
        min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        for node in ast.walk(ast.parse(path.read_text()))
        if starts_tests(node)
    )


def test_no_module_imports_a_test_module() -> None:
    found = {name_of(p) for p in MODULES if any(map(TEST_MODULE.fullmatch, imported(p)))}
    assert found == IMPORT_A_TEST_MODULE


def test_test_modules_are_short() -> None:
    lines = {name_of(path): len(path.read_text().splitlines()) for path in TEST_MODULES}
    assert len(lines) > 100
    assert {name: count for name, count in lines.items() if count > LINES_MAX} == {}


def test_tests_begin_near_the_top() -> None:
    late = {name_of(p) for p in TEST_MODULES if first_test_line(p) > FIRST_TEST_LINE_MAX}
    assert late == BEGIN_LATE


@pytest.mark.parametrize(
    "line",
    [
        "from tests.unit.test_x import y",
        "from tests.unit import test_x",
        "import tests.unit.test_x",
        "from tests.e2e.conftest import y",
        "from .test_x import y",
        "from . import test_x",
        "from ..e2e.conftest import y",
        "def f():\n    from tests.unit.test_x import y",
    ],
)
def test_such_an_import_is_found(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.TESTS", tmp_path)
    (tmp_path / "unit").mkdir()
    path = tmp_path / "unit" / "test_z.py"
    path.write_text(line)
    assert any(TEST_MODULE.fullmatch(name) for name in imported(path))
