"""What the documentation lists is what there is."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from dev.cluster.layout import ROOT
from dev.generate.metrics_reference import of_operator, replica


def test_every_metric_that_a_page_names_is_there() -> None:
    known = {metric.name for metric in (*replica(), *of_operator())}
    assert len(known) > 80
    parts = {f"{name}{part}" for name in known for part in ("_bucket", "_sum", "_count")}
    # A decision names what there was.
    pages = [p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "adr"]
    for page in pages:
        named = set(
            re.findall(r"\b(?:logstore|partition_operator)_[a-z_]*[a-z]\b", page.read_text())
        )
        assert {name for name in named if name not in known | parts} == set(), page


def anchors(page: Path) -> set[str]:
    """Those of its headings, as a forge makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")]
    assert len(pages) > 10
    assert ROOT / "tests" / "README.md" in pages
    for page in pages:
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text()):
            file = page.parent / Path(target) if target else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor in anchors(file), f"{page.name}: {target}#{anchor}"


def texts(package: str) -> Iterator[str]:
    """Every string of the sources. … stands for what is computed."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "…"
                    for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_quoted_messages_are_those_of_the_programs() -> None:
    """A quote has several words. In it … or N stands for what differs."""
    said = [text for package in ("operator", "replica", "snapshots") for text in texts(package)]
    pages = [*(ROOT / "docs" / "operations").iterdir(), *(ROOT / "docs" / "runbooks").iterdir()]
    quotes = {
        (page.name, quote)
        for page in pages
        for quote in re.findall(r'(?<![\w:=])"([a-z]\w* [^"{}|]+)"', page.read_text())
    }
    assert len(quotes) > 8
    for page, quote in sorted(quotes):
        parts = re.split(r"…|\bN\b", quote)
        wanted = re.compile(".*".join(map(re.escape, map(str.strip, parts))), re.DOTALL)
        assert any(wanted.search(text) for text in said), f"{page}: {quote}"
