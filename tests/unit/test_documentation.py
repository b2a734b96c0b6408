"""What the documentation lists is what there is."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from partition_operator.metrics import OperatorMetrics
from partition_replica.runtime.metrics import Metrics

from dev.cluster.layout import ROOT

OPERATIONS = "\n".join(
    page.read_text()
    for page in [ROOT / "docs" / "operations.md", *sorted((ROOT / "docs" / "operations").iterdir())]
)


def sources(package: str) -> str:
    return "\n".join(path.read_text() for path in sorted((ROOT / package).rglob("*.py")))


def test_every_metric_of_a_replica_is_documented() -> None:
    counted = {
        metric.name + ("_total" if metric.type == "counter" else "")
        for metric in Metrics().registry.collect()
    }
    put = set(re.findall(r'"(logstore_[a-z_]+)"', sources("replica/partition_replica/runtime")))
    counters = {name.removesuffix("_total") for name in counted}
    known = set(re.findall(r"`(logstore_[a-z_]+)", OPERATIONS))
    assert (counted | (put - counters)) - known == set()
    assert known - counted - put == set(), "documented, and not there"


def test_every_metric_of_the_operator_is_documented() -> None:
    counted = {
        metric.name + ("_total" if metric.type == "counter" else "")
        for metric in OperatorMetrics().registry.collect()
    }
    assert counted == set(re.findall(r"`(partition_operator_[a-z_]+)[`{]", OPERATIONS))


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
