"""What `kubectl partition` prints: tables, YAML, ages, its line at a terminal; and how it waits."""

import io
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from partition_kubectl import output
from partition_kubectl.errors import TimedOut, Unreachable
from partition_kubectl.waiting import Patience

from tests.support.kubectl_objects import NOW

SCALARS = st.none() | st.booleans() | st.integers() | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(VALUES)
def test_yaml_is_read_as_the_same_values(value: Any) -> None:
    assert yaml.safe_load(output.yaml(value)) == value


@pytest.mark.parametrize("text", ["yes", "No", "null", "1", "1.5", "2026-01-01", "a: b", "- a", ""])
def test_text_that_yaml_could_read_otherwise_is_quoted(text: str) -> None:
    assert output.yaml(text).startswith('"')


def test_yaml_is_in_block_style() -> None:
    value = {"name": "part", "rows": [{"a": 1, "b": ["x"]}, {}], "none": None}
    assert output.yaml(value).splitlines() == [
        "name: part",
        "rows:",
        "- a: 1",
        "  b:",
        "  - x",
        "- {}",
        "none: null",
    ]


def test_a_table_has_columns_and_says_what_is_absent() -> None:
    rows = [["part", 3, None], ["a-longer-name", 10, ""]]
    assert output.table(["NAME", "READY", "LEADER"], rows).splitlines() == [
        "NAME            READY   LEADER",
        "part            3       -",
        "a-longer-name   10      -",
    ]


@pytest.mark.parametrize(
    ("stamp", "age"),
    [
        ("2026-01-02T11:59:58Z", "2s"),
        ("2026-01-02T11:58:59Z", "1m"),
        ("2026-01-02T10:30:00Z", "90m"),
        ("2026-01-02T09:00:00Z", "3h"),
        ("2025-12-30T12:00:00Z", "3d"),
        ("2026-01-02T12:00:05Z", "0s"),
        ("2026-01-02T11:59:00.123456Z", "59s"),
        ("", ""),
        ("soon", ""),
    ],
)
def test_ages(stamp: str, age: str) -> None:
    assert output.age(stamp, NOW) == age


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**31, "2.0 GiB"), (None, "")],
)
def test_sizes(count: object, text: str) -> None:
    assert output.size(count) == text


def test_a_terminal_has_one_line_and_a_bar_and_a_file_has_each_text_once() -> None:
    terminal, file = Terminal(), io.StringIO()
    for out in (terminal, file):
        line = output.Line(out, clock=lambda: 0.0)
        line.bar("measuring", 0.5)
        line.bar("measuring", 2.0)
        line.show("done")
        line.end()
    assert file.getvalue() == "measuring\ndone\n"
    shown = terminal.getvalue()
    assert "[############............] measuring (0s)" in shown
    assert "[########################] measuring (0s)" in shown
    assert shown.endswith("\r\x1b[K")
    assert "\n" not in shown


def test_a_command_waits_until_it_is_so_or_its_time_is_over(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now, seen = [0.0], iter(range(100))

    def sleep(seconds: float) -> None:
        now[0] += seconds

    patience = Patience(5.0, clock=lambda: now[0], sleep=sleep)
    found = patience.until(lambda: next(seen), lambda n: n == 3, lambda n: f"waiting at {n}")
    assert found == 3
    assert now[0] == 3.0
    with pytest.raises(TimedOut, match="gave up after 5s, still waiting at 9; it may happen"):
        patience.until(lambda: next(seen), lambda _: False, lambda n: f"waiting at {n}")
    assert "waiting at 2\n" in capsys.readouterr().err


def test_a_wait_outlasts_an_api_server_that_is_away() -> None:
    now, answers = [0.0], iter([Unreachable("no answer"), 1, Unreachable("no answer"), 2])

    def look() -> int:
        found = next(answers, Unreachable("gone"))
        if isinstance(found, Unreachable):
            raise found
        return found

    def sleep(seconds: float) -> None:
        now[0] += seconds

    patience = Patience(5.0, clock=lambda: now[0], sleep=sleep)
    assert patience.until(look, lambda n: n == 2, str) == 2
    with pytest.raises(Unreachable, match="gone"):
        patience.until(look, lambda n: n == 2, str)
