"""The demo's documents as YAML: complete, consistent with the network, written whole."""

from __future__ import annotations

import os
from importlib import resources
from types import SimpleNamespace

import pytest
import yaml

from agent.demo import documents
from agent.demo.chapters import CHAPTERS
from agent.demo.documents import MEMBERS, Folder, fixed, node_config, workload
from agent.demo.plan import HOSTS, hosts, sites
from agent.demo.steps import STEPS

NETWORK = SimpleNamespace(ipv6=True, name=lambda host: f"em-{host}")


def of_step(step) -> list[dict]:
    return [document for name in step.files.values() for document in yaml.safe_load_all(fixed(name))]


def test_every_manifest_is_used_and_every_file_used_is_there():
    there = {path.name for path in (resources.files("agent.demo") / "manifests").iterdir()}
    chapters = {name for one in CHAPTERS.values() for scene in one.scenes for name in (*one.files, *scene.files)}
    assert there == {name for step in STEPS for name in step.files.values()} | chapters


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.title)
def test_no_object_is_there_twice_and_no_reference_dangles(step):
    found = of_step(step)
    keys = [(item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]) for item in found]
    assert len(set(keys)) == len(keys)
    for item in found:
        for rule in item["spec"].get("rules", ()):
            assert (rule["kind"], item["metadata"]["namespace"], rule["name"]) in keys
        for backend in item["spec"].get("backends", ()):
            assert ("Service", item["metadata"]["namespace"], backend["service"]) in keys
            assert backend["service"] not in item["spec"]["service"].split("."), (
                "a split may not name its root (SMI traffic-split)"
            )


def test_service_accounts_of_targets_belong_to_workloads():
    accounts = {(namespace, account) for namespace, account, _ in MEMBERS.values()}
    for item in of_step(STEPS[-1]):
        if item["kind"] == "TrafficTarget":
            ends = [item["spec"]["destination"], *item["spec"]["sources"]]
            assert {(end["namespace"], end["name"]) for end in ends} <= accounts


def test_every_box_but_the_outsider_is_a_workload_where_the_network_put_it():
    assert {host.name for host in HOSTS} - set(MEMBERS) == {"outsider"}
    mysql = next(host for host in HOSTS if host.name == "mysql")
    document = yaml.safe_load(workload(mysql, NETWORK))
    assert (document["kind"], document["apiVersion"]) == ("Workload", "edgemesh.io/v1alpha1")
    assert document["metadata"] == {"name": "mysql", "namespace": "bookwarehouse"}
    assert document["spec"] == {
        "serviceAccount": "mysql",
        "labels": {"app": "mysql"},
        "addresses": [mysql.address4, mysql.address6],
        "netns": "em-mysql",
    }


def test_a_kernel_without_ipv6_gives_no_ipv6_addresses():
    document = yaml.safe_load(workload(HOSTS[0], SimpleNamespace(ipv6=False, name=str)))
    assert document["spec"]["addresses"] == [HOSTS[0].address4]


def test_the_daemon_of_the_demo_is_kept_apart(tmp_path):
    (site,) = sites(1)
    document = yaml.safe_load(node_config(site, NETWORK, tmp_path))
    assert document["metadata"] == {"name": "default"}
    assert document["spec"] == {
        "node": "demo",
        "adminSocket": f"{tmp_path}/admin.sock",
        "stateDir": f"{tmp_path}/state",
    }


def test_two_nodes_have_settings_of_their_own_and_say_how_they_are_reached(tmp_path):
    found = [yaml.safe_load(node_config(site, NETWORK, tmp_path / site.node)) for site in sites(2)]
    assert [document["metadata"]["name"] for document in found] == ["node-1", "node-2"]
    assert [document["spec"]["addresses"] for document in found] == [
        ["10.71.0.1", "fd71:656d::1"],
        ["10.71.0.2", "fd71:656d::2"],
    ]
    assert found[1]["spec"]["stateDir"] == f"{tmp_path}/node-2/state"
    assert "node" not in found[0]["spec"], "a NodeConfig's own name says it"


def test_a_workload_says_on_which_of_two_nodes_it_is():
    found = {host.name: yaml.safe_load(workload(host, NETWORK))["spec"] for host in hosts(2) if host.name in MEMBERS}
    assert {name for name, spec in found.items() if spec["node"] == "node-2"} == {
        "bookstore-v1",
        "bookwarehouse",
        "mysql",
    }
    assert found["mysql"]["addresses"] == ["10.71.2.16", "fd71:656d:2::16"]
    assert found["bookbuyer"]["node"] == "node-1"


def test_a_folder_holds_exactly_what_it_is_told(tmp_path):
    folder = Folder(tmp_path / "config")
    folder.hold_exactly({"a.yaml": "one", "b.yaml": "two"})
    folder.hold_exactly({"b.yaml": "three", "c.yaml": "four"})
    assert {path.name: path.read_text() for path in folder.path.iterdir()} == {"b.yaml": "three", "c.yaml": "four"}


def test_a_file_that_does_not_change_is_not_written(tmp_path):
    folder = Folder(tmp_path)
    folder.hold_exactly({"a.yaml": "one"})
    before = (tmp_path / "a.yaml").stat().st_ino
    folder.hold_exactly({"a.yaml": "one"})
    assert (tmp_path / "a.yaml").stat().st_ino == before


def test_a_reader_never_sees_half_a_file(tmp_path, monkeypatch):
    seen = []
    replace = os.replace

    def watching(source, target):
        seen.append({path.name: path.read_text() for path in tmp_path.glob("*.yaml")})
        replace(source, target)

    monkeypatch.setattr(documents.os, "replace", watching)
    folder = Folder(tmp_path)
    folder.hold_exactly({"a.yaml": "one"})
    folder.hold_exactly({"a.yaml": "two", "b.yaml": "new"})
    assert seen == [{}, {"a.yaml": "one"}, {"a.yaml": "two"}]
