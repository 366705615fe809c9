"""What commands that ask a cluster share: which cluster is meant, and what is said when it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.cli import main
from agent.commands import cluster as shared
from agent.kubernetes.api import ApiError
from tests.agent.kubernetes.objects import Cluster

Captured = pytest.CaptureFixture[str]
LIST = ["namespace", "list"]


def kubeconfig(path: Path, port: int) -> Path:
    made = Cluster()
    made.server.port = port
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(made.kubeconfig)
    return path


def test_no_access(tmp_path: Path, cluster: Cluster, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG")
    assert main(LIST) == 3
    assert "no access to a cluster was found" in capsys.readouterr().err
    assert not shared.is_accessible()
    assert main([*LIST, "--kubeconfig", str(tmp_path / "none")]) == 3
    assert "none: cannot be read: No such file or directory" in capsys.readouterr().err


def test_no_answer(tmp_path: Path, cluster: Cluster, capsys: Captured) -> None:
    path = kubeconfig(tmp_path / "elsewhere", 1)
    assert main([*LIST, "--kubeconfig", str(path)]) == 3
    out, error = capsys.readouterr()
    assert out == ""
    assert error == (
        "edgemesh: the API server http://127.0.0.1:1 cannot be reached: Connection refused\n"
        f"  this address is of {path}, context one; --kubeconfig FILE names another\n"
    )


def test_a_right_that_is_missing(cluster: Cluster, capsys: Captured) -> None:
    cluster.forbidden = {("list", "namespaces")}
    assert main(LIST) == 1
    assert capsys.readouterr().err == (
        "edgemesh: ann may not list namespaces in the whole cluster\n"
        "  an administrator gives that right by a ClusterRole and its binding; "
        "kubectl auth can-i list namespaces tells whether it is there\n"
    )


def test_refusals_in_words() -> None:
    message = 'pods "x" is forbidden: User "ann" cannot create resource "serviceaccounts/token" in API group "" in the namespace "edgemesh-system"'
    error, hint = shared.refusal(ApiError(403, "Forbidden", message))
    assert error == "ann may not create serviceaccounts/token in namespace edgemesh-system"
    role = "kubectl create rolebinding views-the-mesh --namespace edgemesh-system --role edgemesh-viewer"
    assert hint == f"an administrator gives that right by {role} --user ann"
    pod = message.replace('"ann"', '"system:serviceaccount:shop:reader"')
    assert shared.refusal(ApiError(403, "Forbidden", pod))[1].endswith(f"{role} --serviceaccount shop:reader")
    log = 'User "ann" cannot get resource "pods/log" in API group "" in the namespace "edgemesh-system"'
    assert "kubectl auth can-i get pods --subresource log --namespace" in shared.refusal(ApiError(403, "", log))[1]
    itself = 'User "ann" cannot patch resource "namespaces" in API group "" in the namespace "shop"'
    error, hint = shared.refusal(ApiError(403, "Forbidden", itself))
    assert error == "ann may not patch namespace shop"
    assert "by a ClusterRole and its binding; kubectl auth can-i patch namespaces/shop tells" in hint
    apps = 'User "ann" cannot list resource "daemonsets" in API group "apps" at the cluster scope'
    assert shared.refusal(ApiError(403, "Forbidden", apps))[0].startswith("ann may not list daemonsets.apps in")
    assert "an admission webhook" in shared.refusal(ApiError(403, "Forbidden", "an admission webhook says no"))[0]
    assert "does not know who asks" in shared.refusal(ApiError(401, "Unauthorized", "Unauthorized"))[0]
    assert "too much to do" in shared.refusal(ApiError(429, "TooManyRequests", "slow"))[0]
    assert shared.refusal(ApiError(409, "Conflict", "it was changed")) == ("the API server refused: it was changed", "")


def test_the_names_of_what_is_there_are_told_as_far_as_one_may_see_them(cluster: Cluster, capsys: Captured) -> None:
    for number in range(12):
        cluster.namespace(f"ns-{number:02}")
    assert main(["namespace", "add", "ns-1x"]) == 1
    error = capsys.readouterr().err
    assert "did you mean ns-1" in error
    assert "there is ns-00, ns-01, ns-02, ns-03, ns-04, ns-05, ns-06, ns-07 ..." in error
    cluster.forbidden = {("list", "namespaces")}
    assert main(["namespace", "add", "ns-1x"]) == 1
    assert capsys.readouterr().err == "edgemesh: ns-1x: there is no namespace 'ns-1x'\n"
