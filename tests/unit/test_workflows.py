"""The forge's files say what the repository has: targets, modules, folders, versions."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.cluster.builds import HELM
from dev.cluster.layout import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(p for p in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if p.name != "config.yml")
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
HOURS_MAX = 6
MAKE = re.compile(r"(?:^|[\s;&|])make((?:\s+[^\s;&|]+)*)")
WRITES = {
    ("release.yml", "image"): {"packages", "id-token", "attestations"},
    ("release.yml", "chart"): {"packages", "id-token", "attestations"},
    ("release.yml", "publish"): {"contents", "id-token", "attestations"},
}
"""The jobs that may write, and what. Every other job reads the contents alone."""

every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def load(path: Path) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load(path.read_text())
    return found


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in load(path)["jobs"].values() for step in job["steps"]]


def targets_of(command: str) -> list[str]:
    """What a shell command asks make for; settings and flags left out."""
    words = [word for found in MAKE.findall(command) for word in found.split()]
    return [word for word in words if "=" not in word and not word.startswith("-")]


def test_the_three_workflows_exist() -> None:
    assert {path.name for path in WORKFLOWS} >= {"check.yml", "test.yml", "release.yml"}


@every_workflow
def test_every_make_target_exists(path: Path) -> None:
    asked = [target for step in steps(path) for target in targets_of(step.get("run", ""))]
    assert asked
    assert set(asked) <= TARGETS


def test_each_workflow_runs_what_it_is_for() -> None:
    asked = {
        path.name: {target for step in steps(path) for target in targets_of(step.get("run", ""))}
        for path in WORKFLOWS
    }
    assert "check" in asked["check.yml"]
    assert "test" in asked["test.yml"]
    assert asked["release.yml"] >= {"test", "e2e", "site"}


@every_workflow
def test_every_module_that_is_run_exists(path: Path) -> None:
    for step in steps(path):
        for module in re.findall(r"python3 -m (dev\.[a-z_.]+)", step.get("run", "")):
            assert importlib.util.find_spec(module), module


@every_workflow
def test_every_job_has_the_least_permissions_and_a_timeout(path: Path) -> None:
    found = load(path)
    assert found["permissions"] == {"contents": "read"}
    for name, job in found["jobs"].items():
        assert 0 < job["timeout-minutes"] <= HOURS_MAX * 60, name
        permissions = job.get("permissions", {})
        writes = {scope for scope, level in permissions.items() if level == "write"}
        assert writes == WRITES.get((path.name, name), set()), name
        assert set(permissions.values()) <= {"read", "write"}


@every_workflow
def test_every_action_is_pinned_to_a_major_version(path: Path) -> None:
    for step in steps(path):
        if "uses" in step:
            assert re.fullmatch(r"[\w.-]+/[\w./-]+@v\d+", step["uses"]), step["uses"]
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@every_workflow
def test_no_expression_is_pasted_into_a_shell(path: Path) -> None:
    """A branch's or a tag's name could be a command; the environment carries it safely."""
    for step in steps(path):
        assert "${{" not in step.get("run", ""), step


@every_workflow
def test_needs_name_jobs(path: Path) -> None:
    jobs = load(path)["jobs"]
    for job in jobs.values():
        needs = job.get("needs", [])
        assert {needs} <= set(jobs) if isinstance(needs, str) else set(needs) <= set(jobs)


def test_nothing_is_published_before_the_tests() -> None:
    jobs = load(GITHUB / "workflows" / "release.yml")["jobs"]

    def before(name: str) -> set[str]:
        needs = jobs[name].get("needs", [])
        direct = {needs} if isinstance(needs, str) else set(needs)
        return direct.union(*(before(job) for job in direct))

    for name in ("image", "chart", "publish"):
        assert before(name) >= {"versions", "test"}


def test_releases_are_made_of_tags_alone() -> None:
    found = load(GITHUB / "workflows" / "release.yml")
    assert found[True] == {"push": {"tags": ["v*"]}}, "YAML reads the key `on` as true"


def test_the_chart_is_packaged_by_the_helm_that_tests_it() -> None:
    versions = [
        step["with"]["version"]
        for step in steps(GITHUB / "workflows" / "release.yml")
        if step.get("uses", "").startswith("azure/setup-helm@")
    ]
    assert versions == [HELM.rpartition("@")[2]]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms_are_forms(path: Path) -> None:
    found = load(path)
    assert found["name"]
    assert found["description"]
    fields = [field for field in found["body"] if field["type"] != "markdown"]
    ids = [field["id"] for field in fields]
    assert len(ids) == len(set(ids))
    for field in fields:
        assert field["type"] in {"input", "textarea", "dropdown", "checkboxes"}
        assert field["attributes"]["label"]
        if field["type"] == "dropdown":
            assert all(isinstance(option, str) for option in field["attributes"]["options"])


def test_a_bug_report_asks_for_what_we_need() -> None:
    found = load(GITHUB / "ISSUE_TEMPLATE" / "bug_report.yml")
    assert {field.get("id") for field in found["body"]} >= {
        "version",
        "kubernetes",
        "describe",
        "events",
        "lost",
    }


def test_vulnerabilities_go_elsewhere() -> None:
    (link,) = load(GITHUB / "ISSUE_TEMPLATE" / "config.yml")["contact_links"]
    assert link["url"].endswith("/security/policy")
    assert "SECURITY.md" in link["about"]
    assert (ROOT / "SECURITY.md").exists()


def test_dependabot_looks_where_the_dependencies_are() -> None:
    files = {
        "uv": "uv.lock",
        "cargo": "Cargo.toml",
        "docker": "Dockerfile",
        "github-actions": ".github/workflows",
    }
    found = load(GITHUB / "dependabot.yml")
    assert found["version"] == 2
    assert {update["package-ecosystem"] for update in found["updates"]} == set(files)
    for update in found["updates"]:
        for folder in update.get("directories") or [update["directory"]]:
            assert (ROOT / folder.lstrip("/") / files[update["package-ecosystem"]]).exists()


def test_hooks_before_a_commit_run_the_projects_own_tools() -> None:
    found = load(ROOT / ".pre-commit-config.yaml")
    for repository in found["repos"]:
        assert repository["repo"] == "local", "versions are those of uv.lock"
        for hook in repository["hooks"]:
            assert hook["language"] == "system"
            assert set(targets_of(hook["entry"])) <= TARGETS
            assert targets_of(hook["entry"])


def test_the_devcontainer_builds_from_a_file_with_arguments() -> None:
    folder = ROOT / ".devcontainer"
    found = json.loads((folder / "devcontainer.json").read_text())
    text = (folder / found["build"]["dockerfile"]).read_text()
    defaults = set(re.findall(r"^ARG ([A-Z_]+)=\S+$", text, re.MULTILINE))
    assert set(found["build"]["args"]) <= defaults
    for image in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        assert image.removeprefix("${").removesuffix("}") in defaults, image
    assert set(targets_of(found["postCreateCommand"])) <= TARGETS
