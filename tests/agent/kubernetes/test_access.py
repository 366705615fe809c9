"""access.py: a pod's token, kubeconfigs as they are found, and what is refused in words."""

from __future__ import annotations

import base64
import pwd
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config.settings import Environment
from agent.kubernetes.access import AccessError, Material, NoAccess, chosen, in_cluster, kubeconfig


def config(cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443", **(cluster or {})}}],
        "users": [{"name": "u", "user": {"token": "t"} if user is None else user}],
        **more,
    }


def written(folder: Path, value: Any, name: str = "config") -> Path:
    path = folder / name
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    return path


def test_a_pod(tmp_path: Path) -> None:
    for name, text in (("token", "abc\n"), ("ca.crt", "PEM"), ("namespace", "edgemesh-system")):
        (tmp_path / name).write_text(text)
    access = in_cluster("10.43.0.1", "443", tmp_path)
    assert (access.place, access.namespace) == ("https://10.43.0.1:443", "edgemesh-system")
    assert access.token.read() == b"abc\n"
    (tmp_path / "token").write_text("new")
    assert access.token.read() == b"new"
    assert in_cluster("fd00::1", "", tmp_path).place == "https://[fd00::1]:443"


def test_no_pod(tmp_path: Path) -> None:
    for host in ("", "10.43.0.1"):
        with pytest.raises(AccessError) as caught:
            in_cluster(host, "443", tmp_path)
        assert "--kubeconfig" in caught.value.hint


def test_a_kubeconfig_with_everything_inline(tmp_path: Path) -> None:
    def inline(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    user = {"client-certificate-data": inline("chain"), "client-key-data": inline("key")}
    cluster = {"certificate-authority-data": inline("roots"), "tls-server-name": "kubernetes"}
    access = kubeconfig([written(tmp_path, config(cluster, user))])
    assert (access.host, access.port, access.server_name, access.namespace) == ("10.0.0.1", 6443, "kubernetes", "shop")
    assert [one.read() for one in (access.roots, access.certificate, access.key)] == [b"roots", b"chain", b"key"]
    assert not access.token


def test_files_are_beside_the_kubeconfig(tmp_path: Path) -> None:
    for name in ("ca", "token"):
        (tmp_path / name).write_text(name)
    access = kubeconfig([written(tmp_path, config({"certificate-authority": "ca"}, {"tokenFile": "token"}))])
    assert (access.roots.read(), access.token.read()) == (b"ca", b"token")
    assert access.roots == Material(file=tmp_path / "ca")


def test_another_context_and_several_files(tmp_path: Path) -> None:
    first = written(tmp_path, config())
    there = [{"name": "there", "context": {"cluster": "d", "user": "u"}}]
    clusters = [{"name": "d", "cluster": {"server": "https://[fd00::1]/k8s/"}}]
    second = written(tmp_path, {"contexts": there, "clusters": clusters, "current-context": "there"}, "second")
    assert kubeconfig([first, second]).host == "10.0.0.1"
    access = kubeconfig([first, second], "there")
    assert (access.host, access.port, access.prefix, access.namespace) == ("fd00::1", 443, "/k8s", "default")
    assert access.place == "https://[fd00::1]:443/k8s"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (config({"insecure-skip-tls-verify": True}), "insecure-skip-tls-verify: anybody could pass"),
        (config({"proxy-url": "http://proxy"}), "proxy-url"),
        (config({"server": "http://10.0.0.1"}), "is not encrypted"),
        (config({"server": "10.0.0.1:6443"}), "is no address of a server"),
        (config({"server": "https://10.0.0.1:99999"}), "is no address of a server"),
        (config(user={"exec": {"command": "aws"}}), r"from a program \(exec: aws\)"),
        (config(user={"auth-provider": {"name": "gcp"}}), r"from a plug-in \(auth-provider: gcp\)"),
        (config(user={"username": "a", "password": "b"}), "user name and password"),
        (config(user={"token": "t", "as": "root"}), "of somebody else"),
        (config(user={"client-certificate": "x"}), "a certificate and no key"),
        (config({"certificate-authority-data": "?"}), "certificate-authority-data is no base64"),
        (config(**{"current-context": ""}), "no context is current"),
        (config(**{"current-context": "other"}), "there is no context 'other'"),
        (config(clusters=[]), "there is no cluster 'c'"),
        (config(users=None), "there is no user 'u'"),
        (config(user={"token": 7}), "user u cannot be read"),
        ("[1, 2]", "is no kubeconfig"),
        ("a: b: c", "is not valid YAML, line 1"),
        ("", "no context is current"),
    ],
)
def test_what_is_not_supported_or_wrong_is_named(tmp_path: Path, value: Any, words: str) -> None:
    with pytest.raises(AccessError, match=words) as caught:
        kubeconfig([written(tmp_path, value)])
    assert str(tmp_path) in caught.value.message


def test_plain_http_to_this_machine(tmp_path: Path) -> None:
    access = kubeconfig([written(tmp_path, config({"server": "http://127.0.0.1:8001"}))])
    assert (access.plain, access.place) == (True, "http://127.0.0.1:8001")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="cannot be read: No such file"):
        kubeconfig([tmp_path / "none"])
    with pytest.raises(AccessError, match="is larger than 1024 KiB"):
        kubeconfig([written(tmp_path, "#" * 1024 * 1025)])


def test_no_secret_in_an_error(tmp_path: Path) -> None:
    for text in ("users: [{name: u, user: {token: s3cret]}", "token: 's3cret\n  x: y: z"):
        with pytest.raises(AccessError) as caught:
            kubeconfig([written(tmp_path, text)])
        assert "s3cret" not in str(caught.value)


def of_port(path: Path, port: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return written(path.parent, config({"server": f"https://10.0.0.1:{port}"}), path.name)


def test_which_cluster_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    k3s = tmp_path / "k3s.yaml"

    def port(given: str = "", context: str = "", **variables: str) -> int:
        said = Environment(**{"socket": "", "node": "", **variables})
        return chosen(given, said, context, k3s).port

    with pytest.raises(NoAccess, match="no access to a cluster was found") as caught:
        port()
    assert str(k3s) in str(caught.value)
    of_port(k3s, 1)
    assert port() == 1
    with pytest.raises(AccessError, match="no pod with a service account"):  # and not another cluster's k3s
        port(kubernetes_host="10.43.0.1")
    home = of_port(tmp_path / ".kube/config", 2)
    assert port(kubernetes_host="10.43.0.1") == 2
    named = of_port(tmp_path / "named", 3)
    assert port(kubeconfig=f"{tmp_path}/absent:{named}:{home}") == 3
    with pytest.raises(AccessError, match="absent: cannot be read"):
        port(kubeconfig=f"{tmp_path}/absent")
    assert port(str(home), kubeconfig=str(named)) == 2
    with pytest.raises(AccessError, match="no context 'two'"):
        port(str(home), "two")
    home.write_text("{")
    with pytest.raises(AccessError, match="not valid YAML"):  # and neither the pod's nor k3s's
        port(kubernetes_host="10.43.0.1")


def test_a_user_without_a_home_has_no_kubeconfig_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container or an initramfs whose user has no line in /etc/passwd."""

    def nobody(_uid: int) -> Any:
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~/.kube").mkdir(parents=True)
    written(tmp_path / "~/.kube", config())  # of whoever may write here: it is nobody's home
    with pytest.raises(NoAccess):
        chosen("", Environment(socket="", node=""), "", tmp_path / "k3s.yaml")
