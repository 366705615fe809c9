"""cni.py: what libcni wrote of each namespace is read, and nothing that it did not write."""

import json
import os

import pytest

from agent.kernel import cni
from agent.kernel.cni import Records


def result(folder, name, netns, *addresses, **more):
    document = {
        "kind": "cniCacheV1",
        "containerId": name,
        "ifName": "eth0",
        "netns": str(netns),
        "result": {"ips": [{"address": one} for one in addresses]},
    }
    (folder / f"net-{name}-eth0").write_text(json.dumps({**document, **more}))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "results").mkdir()
    for name in ("a", "b"):
        (tmp_path / name).touch()
    return tmp_path / "results"


def given(records, *paths):
    found = {}
    for sandbox in records.sandboxes():
        found.setdefault(sandbox.netns, set()).update(sandbox.addresses)
    return [sorted(found.get(str(path), ())) for path in paths]


def test_addresses_by_namespace(folder, tmp_path):
    result(folder, "one", tmp_path / "a", "10.42.0.5/24", "fd00::5/64")
    result(folder, "two", tmp_path / "b", "10.42.0.6/24")
    result(folder, "three", tmp_path / "b", "10.43.0.6/24")
    result(folder, "gone", tmp_path / "gone", "10.42.0.7/24")
    assert given(Records(folder), tmp_path / "a", tmp_path / "b") == [
        ["10.42.0.5", "fd00::5"],
        ["10.42.0.6", "10.43.0.6"],
    ]


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b'{"netns": 7}', b"\xff\xfe", b"[" * 100_000, b'{"netns": "relative", "result": {"ips": []}}'],
)
def test_what_makes_no_sense_is_left_out(folder, tmp_path, data):
    (folder / "x").write_bytes(data)
    result(folder, "one", tmp_path / "a", "10.42.0.5/24", "no address")
    assert given(Records(folder), tmp_path / "a") == [["10.42.0.5"]]


def test_files_are_read_once_and_again_when_they_change(folder, tmp_path, monkeypatch):
    result(folder, "one", tmp_path / "a", "10.42.0.5/24")
    records, reads, parse = Records(folder), [], cni._parse
    monkeypatch.setattr(cni, "_parse", lambda path, made: reads.append(path) or parse(path, made))
    for _ in range(3):
        records.sandboxes()
    assert len(reads) == 1
    result(folder, "one", tmp_path / "a", "10.42.0.55/24")
    os.utime(folder / "net-one-eth0", ns=(1, 1))
    assert given(records, tmp_path / "a") == [["10.42.0.55"]]
    (folder / "net-one-eth0").unlink()
    assert list(records.sandboxes()) == []


def test_where_no_cni_runs_there_is_nothing(tmp_path):
    assert list(Records(tmp_path / "none").sandboxes()) == []


ARGS = [
    ["IgnoreUnknown", "1"],
    ["K8S_POD_NAMESPACE", "shop"],
    ["K8S_POD_NAME", "till"],
    ["K8S_POD_INFRA_CONTAINER_ID", "s1"],
    ["K8S_POD_UID", "u1"],
]


def test_the_pod_is_told_with_all_of_its_attachments(folder):
    result(folder, "s1", "/var/run/netns/cni-1", "10.42.0.5/24", cniArgs=ARGS)
    (folder / "macvlan-s1-net1").write_text((folder / "net-s1-eth0").read_text().replace("10.42.0.5/24", "10.9.0.5/16"))
    (sandbox,) = Records(folder).sandboxes()
    assert (sandbox.id, sandbox.pod, sandbox.uid) == ("s1", "shop/till", "u1")
    assert sandbox.netns == "/run/netns/cni-1", "a container has no link /var/run"
    assert sandbox.addresses == {"10.42.0.5", "10.9.0.5"}
    assert sandbox.networks == {"10.42.0.0/24", "10.9.0.0/16"}
    assert sandbox.made > 0


def test_what_every_namespace_has_is_no_address_of_a_pod(folder):
    result(folder, "s1", "/run/netns/cni-1", "127.0.0.1/8", "::1/128", "fe80::1/64", cniArgs=ARGS)
    (sandbox,) = Records(folder).sandboxes()
    assert (sandbox.addresses, sandbox.networks) == (frozenset(), frozenset())


def test_the_pods_annotations_are_told_where_the_runtime_passes_them_on(folder):
    passed = {"io.kubernetes.cri.pod-annotations": {"openservicemesh.io/sidecar-injection": "disabled"}, "dns": {}}
    result(folder, "s1", "/run/netns/cni-1", cniArgs=ARGS, capabilityArgs=passed)
    result(folder, "s2", "/run/netns/cni-2", cniArgs=ARGS, capabilityArgs={})
    found = {sandbox.id: sandbox.annotations for sandbox in Records(folder).sandboxes()}
    assert found == {"s1": {"openservicemesh.io/sidecar-injection": "disabled"}, "s2": None}


def test_a_container_that_is_no_pod_has_no_names(folder):
    result(folder, "s1", "/run/netns/x", "10.4.0.5/24", cniArgs=None)
    (sandbox,) = Records(folder).sandboxes()
    assert sandbox.pod == ""
