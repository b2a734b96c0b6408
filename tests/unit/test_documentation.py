"""What the documentation lists is what there is."""

import re
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
    assert counted == set(re.findall(r"`(partition_operator_[a-z_]+)`", OPERATIONS))


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
