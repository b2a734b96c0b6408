"""dev/prose.py: what it finds in a page, and that the project's pages pass."""

from pathlib import Path

import pytest

from dev import prose
from dev.prose import check, long_lines, paragraphs, sentences

WORDS = "word " * 38
LONG = "word " * 24
"""120 characters."""


def test_paragraphs_items_and_cells_without_code() -> None:
    page = (
        "# A heading\n\nOne line\nand another.\n\n- An item\n  goes here.\n1. Two.\n\n"
        "    code block\n\n    still code\n\n```\nfenced\n```\n| a cell | b |\n|---|---|\nEnd.\n"
    )
    assert list(paragraphs(page)) == [
        (3, False, "One line and another."),
        (6, False, "An item goes here."),
        (8, False, "Two."),
        (17, True, "a cell"),
        (17, True, "b"),
        (18, True, "---"),
        (18, True, "---"),
        (19, False, "End."),
    ]


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("One two. Three four five!", [2, 3]),
        ("Takes 0.7 s, e.g. on ext4, as in [a page](x/y.md#z).", [10]),
        ("`a b c d` is one word. *It* ends.", [4, 2]),
        ("A list of three: one, two, three", [7]),
        ("---", []),
    ],
)
def test_sentences_are_counted_by_their_words(text: str, lengths: list[int]) -> None:
    assert sentences(text) == lengths


def test_a_sentence_and_a_cell_that_are_too_long_are_found_with_their_line() -> None:
    assert check("a.md", f"{WORDS}is long.\n") == []
    assert check("a.md", f"Short.\n\n{WORDS}is too long.\n") == [
        "a.md:3: a sentence of 41 words; at most 40"
    ]
    assert check("a.md", "| x |\n|---|\n| " + "word " * 25 + "|\n") == []
    assert check("a.md", "| x |\n|---|\n| " + "word " * 26 + "|\n") == [
        "a.md:3: a cell of 26 words; at most 25"
    ]


@pytest.mark.parametrize("before", ["", "Short.\n", "- An item\n", "- An item\n    goes on\n    "])
def test_a_line_that_is_too_long_is_found(before: str) -> None:
    line = before.count("\n") + 1
    fits = LONG[len(before.rpartition("\n")[2]) :]
    assert long_lines("a.md", f"{before}{fits}\n") == []
    found = long_lines("a.md", f"{before}{fits}x\nShort.\n")
    assert found == [f"a.md:{line}: a line of 121 characters; at most 120"]


@pytest.mark.parametrize(
    "text",
    [
        f"# {LONG}",
        f"| {LONG} |",
        f"```\n{LONG}x\n```",
        f"Code:\n\n    {LONG}",
        f"See [a page]({LONG.replace(' ', '/')}) for more.",
        f"<https://{LONG.replace(' ', '/')}>",
    ],
)
def test_a_line_that_can_not_be_wrapped_may_be_long(text: str) -> None:
    assert long_lines("a.md", text) == []


@pytest.mark.parametrize(
    "text",
    [
        "Returns None where there is none.",
        "Put it where it is not.",
        "The one who is cancelled waits.",
        "Whoever reads it can read all.",
        "Renewed is what ends soon.",
        "It takes 1,200 entries a second.",
        "Second after second the state is synced.",
        "There is one transaction a batch.",
        "The replica lets go of it.",
        "It goes on by itself.",
        "The message is none.",
        "A file is never gone on from.",
    ],
)
def test_a_phrase_that_has_to_be_read_twice_is_found(text: str) -> None:
    (problem,) = check("a.md", f"Fine.\n\n{text}\n")
    assert problem.startswith("a.md:3: ")


@pytest.mark.parametrize(
    "text",
    [
        "Returns the value, or None if the key is absent.",
        "It runs at 1,200 entries per second, for a second or two.",
        "We looked for reasons; there is none.",
        "The replica releases it, and continues on its own.",
        "`whoever` and `x is none` are code.",
    ],
)
def test_plain_sentences_pass(text: str) -> None:
    assert check("a.md", text) == []


def test_the_glossary_may_quote_a_phrase_and_not_be_long() -> None:
    assert check("docs/glossary.md", "Not: let go.\n") == []
    assert len(check("docs/glossary.md", f"Not: {WORDS}let go.\n")) == 1


def test_the_architecture_has_short_sentences_on_average() -> None:
    page = "word " * 17 + "ends. "
    assert check("docs/client.md", page) == []
    assert check("docs/ARCHITECTURE.md", page) == [
        "docs/ARCHITECTURE.md:1: 18.0 words per sentence on average; below 18"
    ]
    assert check("docs/ARCHITECTURE.md", page + "Short.") == []


def test_the_command_reports_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("Fine.\n")
    (tmp_path / "CHANGELOG.md").write_text("Whoever reads this.\n")
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    assert prose.main() == 0
    assert capsys.readouterr().out == ""
    (tmp_path / "docs" / "a.md").write_text("Whoever reads this.\n")
    assert prose.main() == 1
    assert capsys.readouterr().out.startswith("docs/a.md:1: 'Whoever'")


def test_long_lines_are_found_in_every_page_that_nobody_generates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    (tmp_path / "docs" / "reference").mkdir(parents=True)
    (tmp_path / "docs" / "reference" / "a.md").write_text(f"{LONG}x\n")
    assert prose.main() == 0
    wanted = ["CHANGELOG.md", "CONTRIBUTING.md", "docs/a.md", "tests/README.md"]
    (tmp_path / "tests").mkdir()
    for name in wanted:
        (tmp_path / name).write_text(f"{LONG}x\n")
    assert prose.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == wanted


def test_the_projects_pages_pass() -> None:
    assert len(prose.pages()) > 30
    assert prose.main() == 0
