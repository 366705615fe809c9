"""sandbox_files.py: each runtime's layout is read, and only sandboxes of pods are taken from it."""

import json

import msgspec
import pytest

from agent.kernel import sandbox_files
from agent.kernel.sandbox_files import LAYOUTS, Files

CONTAINERD = {
    "annotations": {
        "io.kubernetes.cri.container-type": "sandbox",
        "io.kubernetes.cri.sandbox-namespace": "shop",
        "io.kubernetes.cri.sandbox-name": "till",
        "io.kubernetes.cri.sandbox-uid": "u1",
    },
    "linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/var/run/netns/cni-1"}]},
}
CRIO = {
    "annotations": {
        "io.kubernetes.cri-o.ContainerType": "sandbox",
        "io.kubernetes.pod.namespace": "shop",
        "io.kubernetes.pod.name": "till",
        "io.kubernetes.pod.uid": "u1",
    },
    "linux": {"namespaces": [{"type": "network", "path": "/var/run/netns/cni-1"}]},
}
DOCKER = {
    "Config": {
        "Labels": {
            "io.kubernetes.docker.type": "podsandbox",
            "io.kubernetes.pod.namespace": "shop",
            "io.kubernetes.pod.name": "till",
            "io.kubernetes.pod.uid": "u1",
        }
    },
    "NetworkSettings": {"SandboxKey": "/var/run/netns/cni-1"},
}
EACH = list(zip(LAYOUTS, (CONTAINERD, CONTAINERD, CRIO, DOCKER), strict=True))


def written(tmp_path, layout, name, document):
    path = tmp_path / name / layout.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))


def files(tmp_path, layout):
    return Files(msgspec.structs.replace(layout, folder=tmp_path))


@pytest.mark.parametrize(("layout", "document"), EACH)
def test_a_sandbox_of_each_layout(tmp_path, layout, document):
    written(tmp_path, layout, "s1", document)
    (sandbox,) = files(tmp_path, layout).sandboxes()
    assert (sandbox.id, sandbox.pod, sandbox.uid, sandbox.netns) == ("s1", "shop/till", "u1", "/run/netns/cni-1")
    assert sandbox.made


@pytest.mark.parametrize(("layout", "document"), EACH)
def test_another_container_is_none(tmp_path, layout, document):
    text = json.dumps(document).replace('"sandbox"', '"container"').replace("podsandbox", "container")
    written(tmp_path, layout, "c1", text)
    found = files(tmp_path, layout)
    assert list(found.sandboxes()) == []
    assert not found.unread


def test_a_pod_in_the_nodes_own_namespace_has_no_path(tmp_path):
    document = {**CONTAINERD, "linux": {"namespaces": [{"type": "pid"}]}}
    written(tmp_path, LAYOUTS[0], "s1", document)
    (sandbox,) = files(tmp_path, LAYOUTS[0]).sandboxes()
    assert sandbox.netns == ""


@pytest.mark.parametrize("broken", ["", "{", "[" * 100_000, '{"annotations": 7}', "\xff"])
def test_a_file_that_is_not_whole_yet_is_read_again(tmp_path, broken):
    layout = LAYOUTS[0]
    written(tmp_path, layout, "s1", broken)
    (tmp_path / "s2").mkdir()
    found = files(tmp_path, layout)
    assert list(found.sandboxes()) == []
    assert set(found.unread) == {"s1", "s2"}
    written(tmp_path, layout, "s1", CONTAINERD)
    written(tmp_path, layout, "s2", CONTAINERD)
    assert sorted(sandbox.id for sandbox in found.sandboxes()) == ["s1", "s2"]
    assert not found.unread


def test_one_that_never_is_whole_is_left_out_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox_files, "_TRIES", 3)
    written(tmp_path, LAYOUTS[0], "s1", "{")
    found = files(tmp_path, LAYOUTS[0])
    for _ in range(4):
        assert list(found.sandboxes()) == []
    assert not found.unread
    written(tmp_path, LAYOUTS[0], "s1", CONTAINERD)
    assert list(found.sandboxes()) == []


def test_a_docker_container_that_did_not_start_yet_is_read_again(tmp_path):
    layout = LAYOUTS[3]
    written(tmp_path, layout, "s1", {**DOCKER, "NetworkSettings": {"SandboxKey": ""}})
    found = files(tmp_path, layout)
    assert list(found.sandboxes()) == []
    written(tmp_path, layout, "s1", DOCKER)
    assert len(list(found.sandboxes())) == 1


def test_a_file_is_read_once_and_forgotten_with_its_container(tmp_path, monkeypatch):
    written(tmp_path, LAYOUTS[0], "s1", CONTAINERD)
    found = files(tmp_path, LAYOUTS[0])
    reads, parse = [], found._parse
    monkeypatch.setattr(found, "_parse", lambda name: reads.append(name) or parse(name))
    for _ in range(3):
        found.sandboxes()
    assert reads == ["s1"]
    (tmp_path / "s1" / "config.json").unlink()
    (tmp_path / "s1").rmdir()
    assert list(found.sandboxes()) == []


def test_where_no_runtime_is_there_is_nothing(tmp_path):
    assert list(files(tmp_path / "none", LAYOUTS[0]).sandboxes()) == []
