"""What reference pages are made of: tables, long descriptions, lists and marks of comments."""

from dev.generate import crd_reference
from dev.generate.pages import Row, escaped, table, text_lines

LONG = " ".join(["word"] * 30) + "."


def test_columns_without_content_are_left_out() -> None:
    rows = [Row("a", ("text", ""), "What it is."), Row("b", ("", ""), "")]
    assert table(("type", "default"), rows) == [
        "| field | type | description |",
        "|---|---|---|",
        "| `a` | text | What it is. |",
        "| `b` |  |  |",
    ]


def test_what_is_too_long_for_a_cell_stands_below() -> None:
    lines = table((), [Row("a", (), LONG)])
    assert "| `a` | see below |" in lines
    assert lines[-1] == f"- `a`: {LONG}"


def test_paragraphs_lists_and_tables_of_a_comment() -> None:
    comment = (
        "First line\nof two.\n\n - one\n   thing\n - another\n\n  CODE   meaning\n  OTHER  too"
    )
    assert text_lines(comment) == [
        "First line of two.",
        "",
        "- one thing",
        "- another",
        "",
        "```text",
        "CODE   meaning",
        "OTHER  too",
        "```",
    ]
    assert text_lines("") == []


def test_marks_of_markdown_are_escaped_outside_code() -> None:
    assert escaped("a <b> * `<c> *`") == r"a \<b> \* `<c> *`"


def test_a_computed_message_shows_its_words() -> None:
    cel = {"messageExpression": "'has ' + (has(self.x) ? self.x : '(none)') + ' and keeps it'"}
    assert crd_reference._message(cel) == "has … and keeps it"
