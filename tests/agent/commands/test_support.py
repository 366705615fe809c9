"""support bug-report: what is in the archive, and that no secret is."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.commands import support
from tests.agent.kubernetes.objects import Cluster

Captured = pytest.CaptureFixture[str]

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwbGFudGVkIn0.c2lnbmF0dXJlLXBsYW50ZWQ"
KEY = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMplantedkey\n-----END PRIVATE KEY-----"
PLANTED = ("planted", "MIGHAgEAMBM", "eyJzdWIi", "of-a-person", "hunter2")


def unpacked(path: Path) -> dict[str, str]:
    with tarfile.open(path) as tar:
        found = {}
        for one in tar:
            assert one.isfile()
            assert one.name.startswith("edgemesh-bug-report/")
            assert ".." not in one.name
            file = tar.extractfile(one)
            assert file is not None
            found[one.name.removeprefix("edgemesh-bug-report/")] = file.read().decode()
        return found


@pytest.fixture
def site(cluster: Cluster) -> Cluster:
    def page(asked: Any, path: str) -> tuple[int, Any]:
        return 200, {"page": path, "note": f"Authorization: Bearer {JWT}"}

    cluster.namespace("shop", {"edgemesh.io/mesh": "enabled"}, note=f"password=hunter2planted {JWT}")
    cluster.daemon("n1", page)
    pod = cluster.objects["/api/v1/namespaces/edgemesh-system/pods/edgemesh-agent-n1"]
    pod["spec"]["containers"][0]["env"] = [
        {"name": "DB_PASSWORD", "value": "plantedvalue"},
        {"name": "EDGEMESH_NODE", "value": "n1"},
    ]
    pod["spec"]["containers"][0]["args"] = ["run", "--join-token", "plantedargument", "--password=plantedpair"]
    pod["status"]["containerStatuses"][0]["restartCount"] = 1
    cluster.logs["edgemesh-agent-n1"] = f"INFO enforces\nWARNING token={JWT} for\n{KEY}\nhttp://ann:hunter2@proxy/ x\n"
    cluster.add("/api/v1/namespaces/edgemesh-system/secrets/edgemesh-ca", data={"tls.key": "cGxhbnRlZA=="})
    cluster.add("/api/v1/namespaces/edgemesh-system/configmaps/mistake", data={"ca.pem": "a root", "key.pem": KEY})
    cluster.serves("/apis/edgemesh.io/v1alpha1/nodeconfigs", "NodeConfig")
    spec = {"metricsTokenFile": "/etc/edgemesh/token", "token": "plantedtoken", "clientSecret": ["plantedlist"]}
    applied = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps({"spec": spec})}
    cluster.add("/apis/edgemesh.io/v1alpha1/nodeconfigs/default", spec=spec, metadata={"annotations": applied})
    return cluster


def test_what_is_in_it(site: Cluster, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "report.tar.gz"
    assert main(["support", "bug-report", "--out", str(out)]) == 0
    assert out.stat().st_mode & 0o777 == 0o600
    found = unpacked(out)
    assert {
        "versions.json",
        "mesh.json",
        "missing.json",
        "objects/NodeConfig.edgemesh.io.json",
        "objects/Namespace.json",
        "namespace/pods.json",
        "namespace/configmaps.json",
        "nodes/n1/status.json",
        "nodes/n1/certs.json",
        "logs/edgemesh-agent-n1.log",
        "logs/edgemesh-agent-n1-before.log",
    } <= set(found)
    assert "INFO enforces" in found["logs/edgemesh-agent-n1.log"]
    assert json.loads(found["nodes/n1/status.json"])["page"] == "/status"
    assert json.loads(found["objects/Namespace.json"])[0]["metadata"]["labels"] == {"edgemesh.io/mesh": "enabled"}
    assert "Look before you send it." in capsys.readouterr().out


def test_no_secret_is_in_it(site: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "report.tar.gz"
    assert main(["support", "bug-report", "--out", str(out)]) == 0
    whole = "".join(unpacked(out).values())
    for word in PLANTED:
        assert word not in whole, word
    assert "cGxhbnRlZA" not in whole
    assert "/etc/edgemesh/token" in whole  # the name of a file is none
    assert '"a root"' in whole
    assert not any("/secrets" in asked.path for asked in site.asked)


def test_what_may_not_be_seen_is_said_and_keeps_nothing_else_out(
    site: Cluster, tmp_path: Path, capsys: Captured
) -> None:
    site.forbidden = {("list", "nodeconfigs"), ("create", "serviceaccounts/token"), ("get", "pods/log")}
    out = tmp_path / "report.tar.gz"
    assert main(["support", "bug-report", "--out", str(out)]) == 0
    missing = json.loads(unpacked(out)["missing.json"])
    assert missing["objects/NodeConfig.edgemesh.io"].startswith("ann may not list nodeconfigs")
    assert "ann may not create serviceaccounts/token" in missing["nodes"]
    assert "ann may not get pods/log" in missing["logs/edgemesh-agent-n1.log"]
    assert "without nodes: ann may not create" in capsys.readouterr().out


def test_an_existing_file_is_not_replaced(site: Cluster, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "report.tar.gz"
    out.write_text("mine")
    assert main(["support", "bug-report", "--out", str(out)]) == 1
    assert out.read_text() == "mine"
    assert f"{out} cannot be written: File exists" in capsys.readouterr().err
    assert main(["support"]) == 2


def test_its_size_is_bounded(site: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "_MOST_FILE", 2000)
    monkeypatch.setattr(support, "_MOST", 6000)
    site.logs["edgemesh-agent-n1"] = "old line\n" + "x" * 1500 + "\nlast line\n"
    for number in range(50):
        site.namespace(f"ns-{number}")
    out = tmp_path / "report.tar.gz"
    assert main(["support", "bug-report", "--out", str(out)]) == 0
    found = unpacked(out)
    assert all(len(text) <= 2000 for text in found.values())
    assert sum(map(len, found.values())) <= 6000


def test_names_of_nodes_do_not_leave_the_folder() -> None:
    assert support._file_name("nodes/../../etc/x") == "nodes/_/_/etc/x"
    assert support._file_name("nodes/a b\n/status") == "nodes/a_b_/status"


@pytest.mark.parametrize(
    "text",
    [
        f"a {JWT} b",
        KEY,
        KEY.replace("PRIVATE", "EC PRIVATE"),
        "-----BEGIN RSA PRIVATE KEY-----\nplanted, cut off",
        "authorization: Bearer plantedplanted",
        "Authorization: Basic cGxhbnRlZDpwbGFudGVk planted".replace(" planted", ""),
        "url=https://user:planted@host/path",
        "password=planted",
        'the "api_key": "planted" is',
        "X_TOKEN: planted, next",
        "cookie=planted; x",
        f"joined with K10{'ab' * 32}::server:planted",
    ],
)
def test_shapes_of_secrets(text: str) -> None:
    assert "planted" not in support.redacted_text(text)
    assert "cGxhbnRlZDpwbGFudGVk" not in support.redacted_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "INFO edgemesh: snapshot 2 in 2 ms: 1 workload",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "denied: shop/till -> shop/stock: no rule (x-edgemesh-request 12)",
        "spiffe://cluster.local/ns/shop/sa/till",
        "https://10.0.0.1:6443/api",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert support.redacted_text(text) == text
