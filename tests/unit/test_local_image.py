"""The image for a cluster of kind or k3d. Neither tool runs here: the commands are compared."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from dev import demo, local_image
from dev.cluster.images import use_python_of_path
from dev.demo import Demo

ID = "sha256:" + "0123456789abcdef" * 4


class Docker:
    """In place of Docker, kind and k3d: keeps what it is asked."""

    def __init__(self, failing: str = "") -> None:
        self.asked: list[list[str]] = []
        self._failing = failing

    def __call__(self, command: Sequence[str]) -> str:
        self.asked.append(list(command))
        if self._failing and self._failing in command:
            raise SystemExit("GLIBC_2.39 not found")
        return ID if "build" in command else ""


@pytest.mark.parametrize(
    ("context", "command"),
    [
        ("kind-try", ["kind", "load", "docker-image", "a:b", "--name", "try"]),
        ("kind-my-own", ["kind", "load", "docker-image", "a:b", "--name", "my-own"]),
        ("k3d-try", ["k3d", "image", "import", "a:b", "--cluster", "try"]),
    ],
)
def test_the_context_names_tool_and_cluster(context: str, command: list[str]) -> None:
    loader = local_image.loader_of(context)
    assert loader is not None
    assert loader.command("a:b") == command


@pytest.mark.parametrize("context", ["kind", "kind-", "minikube", "gke_kind-x", "", "kindly-x"])
def test_other_contexts_have_no_loader(context: str) -> None:
    assert local_image.loader_of(context) is None


def test_the_tag_is_the_images_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BASE_IMAGE", raising=False)
    docker, sites = Docker(), list[Path]()
    image = local_image.build(docker, sites.append)
    assert image == "partition-operator:0123456789ab"
    assert sites == [local_image.SITE]
    assert docker.asked[:2] == [
        ["docker", "build", "--quiet", "."],
        ["docker", "tag", ID, image],
    ]
    assert image in docker.asked[2], "the image is tried before it is loaded"


def test_the_base_image_can_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE_IMAGE", "python:3.11-slim-trixie")
    docker = Docker()
    local_image.build(docker, lambda _: None)
    assert "BASE_IMAGE=python:3.11-slim-trixie" in docker.asked[0]


def test_a_module_that_does_not_load_is_explained() -> None:
    with pytest.raises(SystemExit, match="set BASE_IMAGE"):
        local_image.build(Docker("run"), lambda _: None)


def test_elsewhere_than_on_linux_an_image_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_image.platform, "system", lambda: "Darwin")
    with pytest.raises(SystemExit, match="IMAGE=repository:tag"):
        local_image.build(Docker(), lambda _: None)


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Docker:
    found = Docker()
    monkeypatch.setattr(local_image, "missing_tools", lambda _: [])
    monkeypatch.setattr(local_image, "build", lambda: "partition-operator:built")
    monkeypatch.setattr(local_image, "run", found)
    monkeypatch.setattr(local_image, "is_local", lambda image: image == "here:1")
    return found


def test_a_cluster_of_kind_gets_an_image_built_here(docker: Docker) -> None:
    found = Demo("kind-try", "")
    found._image_for_context()
    assert found.image == "partition-operator:built"
    assert docker.asked == [
        ["kind", "load", "docker-image", "partition-operator:built", "--name", "try"]
    ]


def test_an_image_of_this_machine_is_loaded_and_another_one_is_pulled(docker: Docker) -> None:
    Demo("k3d-try", "here:1")._image_for_context()
    assert docker.asked == [["k3d", "image", "import", "here:1", "--cluster", "try"]]
    Demo("k3d-try", "elsewhere:1")._image_for_context()
    assert len(docker.asked) == 1


def test_another_cluster_needs_an_image_that_it_can_pull(docker: Docker) -> None:
    with pytest.raises(SystemExit, match="IMAGE=repository:tag"):
        Demo("minikube", "")._image_for_context()
    Demo("minikube", "somewhere/image:1")._image_for_context()
    assert docker.asked == []


def test_missing_tools_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.local_image, "missing_tools", lambda wanted: wanted)
    with pytest.raises(SystemExit, match="kubectl, helm, go, docker, kind"):
        Demo("kind-try", "")._image_for_context()


def test_scripts_of_the_image_use_its_own_python(tmp_path: Path) -> None:
    """Not the one of the machine that has built it."""
    body = b"import sys\nsys.exit(0)\n"
    (tmp_path / "short").write_bytes(b"#!/home/me/.venv/bin/python\n" + body)
    long = b"#!/bin/sh\n'''exec' '/a long/path/python' \"$0\" \"$@\"\n' '''\n" + body
    (tmp_path / "long").write_bytes(long)
    (tmp_path / "shell").write_bytes(b"#!/bin/sh\necho python\n")
    use_python_of_path(tmp_path)
    for name in ("short", "long"):
        assert (tmp_path / name).read_bytes() == b"#!/usr/bin/env python3\n" + body
    assert (tmp_path / "shell").read_bytes() == b"#!/bin/sh\necho python\n"
