"""The blocks of the pages that say what to do by hand: a test copies each, or says why not."""

import re
from pathlib import Path

import pytest

from dev.cluster.layout import ROOT
from tests.support.page_blocks import NOT_COPIED, PAGES, Block
from tests.support.pages import DOCS, Page, Terminal, blocks, filled_in, listed

BY_HAND = (
    "operations/install.md",
    "operations/upgrade.md",
    "runbooks/restore.md",
    "operations/lost_quorum.md",
    "operations/certificates.md",
    "operations/full_disk.md",
    "operations/scale.md",
)
"""What a user has to do without the operator's help, and moving to another class of volumes."""


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_tried_or_says_why_not(page: str) -> None:
    found = listed(page)
    assert found
    for _, entry in found:
        assert bool(entry.tried_by) != bool(entry.left_out), f"{page}: {entry}"


def test_every_page_with_commands_is_listed() -> None:
    pages = [*(DOCS / "operations").glob("*.md"), *(DOCS / "runbooks").glob("*.md")]
    found = {str(page.relative_to(DOCS)) for page in pages if blocks(page.read_text())}
    assert found == {*PAGES, *NOT_COPIED}
    assert {*BY_HAND} <= {*PAGES}


def test_the_tests_are_there() -> None:
    names = {entry.tried_by for page in PAGES for _, entry in listed(page)} - {""}
    assert len(names) > 5
    for name in names:
        module, _, function = name.partition("::")
        text = (ROOT / "tests" / module).read_text()
        assert re.search(rf"(?m)^(async )?def {function}\(", text), name


def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    """Of a page with three blocks, two of which are the test's."""
    (tmp_path / "a.md").write_text(
        "Do:\n\n    A=NAME-N\n    echo $A NAMESPACE\n\n"
        "Then:\n\n    read answer; echo $answer $A\n\n"
        "- In a list:\n\n      exit 3\n"
    )
    monkeypatch.setattr("tests.support.pages.DOCS", tmp_path)
    entries = (Block("A=", "t"), Block("read", "t"), Block("exit", left_out="it ends"))
    monkeypatch.setitem(PAGES, "a.md", entries)
    return Page("a.md", "t", Terminal(tmp_path, {"PATH": "/usr/bin:/bin"}))


def test_blocks_are_run_with_what_the_reader_fills_in_and_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = reader(tmp_path, monkeypatch)
    names = {"NAME-N": "part-0", "NAMESPACE": "shop"}
    with pytest.raises(AssertionError, match="no 'POD' in"):
        page.run("A=", {"POD": "part-0"})
    assert page.run("A=", names) == "part-0 shop\n"
    with pytest.raises(AssertionError, match=r"never tried:\s+read answer"):
        page.assert_all_tried()
    assert page.run("read", typed="yes") == "yes part-0\n"
    page.assert_all_tried()
    with pytest.raises(AssertionError, match="0 blocks begin with 'exit'"):
        page.run("exit")


def test_a_block_that_fails_or_is_not_listed_fails_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = reader(tmp_path, monkeypatch)
    with pytest.raises(AssertionError, match="ended with 1"):
        page.run("A=", {"echo": "false"})
    with pytest.raises(AssertionError, match="never tried"):
        page.assert_all_tried()
    (tmp_path / "a.md").write_text("    A=\n\n.\n\n    read\n")
    with pytest.raises(AssertionError, match="has 2 blocks"):
        listed("a.md")
    (tmp_path / "a.md").write_text("    A=\n\n.\n\n    rm\n\n.\n\n    exit\n")
    with pytest.raises(AssertionError, match=r"lists 'read', the page has:\s+rm"):
        listed("a.md")


def test_a_longer_placeholder_goes_first() -> None:
    assert filled_in("NAME NAMESPACE", {"NAME": "a", "NAMESPACE": "b"}) == "a b"


def test_the_second_line_of_an_item_is_no_block() -> None:
    page = "- an item:\n  - whose second line\n    is indented;\n\n      echo 1\n\n    echo 2\n"
    assert blocks(page) == ["echo 1", "echo 2"]
