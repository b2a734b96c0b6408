"""What the release workflow asks the repository."""

import shutil
from pathlib import Path

import pytest

from dev import release
from dev.cluster.layout import ROOT

CHANGELOG = """\
# Changelog

## [Unreleased]

- Not yet.

## [0.2.0] - 2031-05-01

### Added

- A thing.

## [0.1.0] - 2031-01-01

- The first.
"""


def test_every_place_states_the_same_version() -> None:
    found = release.versions(ROOT)
    assert len(found) >= 13
    assert len(set(found.values())) == 1, found


def test_a_section_is_that_version_alone() -> None:
    assert release.section(CHANGELOG, "0.2.0") == "### Added\n\n- A thing."
    assert release.section(CHANGELOG, "0.1.0") == "- The first."
    assert release.section(CHANGELOG, "0.2") == ""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the files that state a version, with a changelog of two releases."""
    for place in (*release.versions(ROOT), "charts/partition-operator/values.yaml"):
        file = place.partition(":")[0]
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / file).read_text()
        (tmp_path / file).write_text(
            text.replace(next(iter(release.versions(ROOT).values())), "0.2.0")
        )
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    return tmp_path


def test_a_tag_that_agrees_with_everything_is_released(root: Path) -> None:
    assert release.problems(root, "v0.2.0") == []


@pytest.mark.parametrize("tag", ["0.2.0", "v0.2", "v0.2.0 ", "vnext"])
def test_other_tags_are_refused(root: Path, tag: str) -> None:
    (found,) = release.problems(root, tag)
    assert "semantic version" in found


def test_every_place_that_disagrees_is_named(root: Path) -> None:
    found = release.problems(root, "v0.3.0")
    places = release.versions(root)
    for place in places:
        assert f"{place} is 0.2.0; change it to 0.3.0" in found
    assert len(found) == len(places) + 1
    assert found[-1].startswith("CHANGELOG.md has no section [0.3.0]")


def test_one_stale_file_is_enough(root: Path) -> None:
    chart = root / "charts" / "partition-operator" / "Chart.yaml"
    chart.write_text(chart.read_text().replace('appVersion: "0.2.0"', 'appVersion: "0.1.0"'))
    (found,) = release.problems(root, "v0.2.0")
    assert "Chart.yaml: appVersion is 0.1.0" in found


def test_the_annotated_image_has_the_version_too(root: Path) -> None:
    chart = root / "charts" / "partition-operator" / "Chart.yaml"
    chart.write_text(chart.read_text().replace(f"{release.image(root)}:0.2.0", "elsewhere:0.2.0"))
    (found,) = release.problems(root, "v0.2.0")
    assert "artifacthub.io/images is missing" in found


def test_the_image_is_the_one_of_the_chart(tmp_path: Path) -> None:
    registry, *path = release.image(ROOT).split("/")
    assert "." in registry
    assert len(path) >= 2
    values = tmp_path / "charts" / "partition-operator" / "values.yaml"
    values.parent.mkdir(parents=True)
    shutil.copy(ROOT / "charts" / "partition-operator" / "values.yaml", values)
    values.write_text(values.read_text().replace(release.image(ROOT), "registry.example/a/b"))
    assert release.image(tmp_path) == "registry.example/a/b"
